//! Loki's protobuf push body, read in place.
//!
//! ```text
//! PushRequest  { streams = 1: StreamAdapter* }
//! StreamAdapter{ labels = 1: string, entries = 2: EntryAdapter*, hash = 3 }
//! EntryAdapter { timestamp = 1: {seconds = 1, nanos = 2}, line = 2, structuredMetadata = 3: {name = 1, value = 2}*, parsed = 4 }
//! ```

use bytes::Bytes;
use model::TimestampNs;

use crate::intake::Intake;
use crate::protocol::Decoding;
use crate::refusal::Refusal;

/// Longer labels are refused with 413.
const LABELS_BYTES_MAX: usize = 16 << 20;

/// Reads a body, which is packed with snappy.
pub(super) fn decode(body: Bytes, decoding: &mut Decoding<'_>) -> Result<(), Refusal> {
    let message = decoding.unpack_snappy(&body)?;
    // The records made from the message are about as large.
    decoding.reserve(message.len())?;
    let mut fields = Fields(&message);
    while let Some((number, value)) = fields.next()? {
        if number == 1 {
            stream(value.bytes()?, decoding)?;
        }
    }
    Ok(())
}

fn stream(message: &[u8], decoding: &mut Decoding<'_>) -> Result<(), Refusal> {
    let mut labels: &[u8] = b"";
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        if number == 1 {
            labels = value.bytes()?;
        }
    }
    if labels.len() > LABELS_BYTES_MAX {
        let why = format_args!("labels of {} bytes, at most {LABELS_BYTES_MAX}", labels.len());
        return Err(Refusal::too_large_body(why));
    }
    // Bytes that are not UTF-8 become U+FFFD, so that they can be shown.
    let pushed = decoding.labels(&String::from_utf8_lossy(labels));
    let intake = &mut *decoding.intake;
    intake.begin(pushed, Vec::new());
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        if number == 2 {
            entry(value.bytes()?, intake)?;
        }
    }
    intake.end();
    Ok(())
}

fn entry(message: &[u8], intake: &mut Intake) -> Result<(), Refusal> {
    let (mut ts, mut line): (i64, &[u8]) = (0, b"");
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => ts = timestamp(value.bytes()?)?,
            2 => line = value.bytes()?,
            3 => {
                let (name, text) = pair(value.bytes()?)?;
                intake.metadata.push(name, text).map_err(Refusal::malformed)?;
            }
            _ => {}
        }
    }
    intake.entry(TimestampNs::from_nanos(ts), line);
    Ok(())
}

fn timestamp(message: &[u8]) -> Result<i64, Refusal> {
    let (mut seconds, mut nanos) = (0i64, 0i64);
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => seconds = value.varint()? as i64,
            2 => nanos = i64::from(value.varint()? as i32),
            _ => {}
        }
    }
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

fn pair(message: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let (mut name, mut text): (&[u8], &[u8]) = (b"", b"");
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => name = value.bytes()?,
            2 => text = value.bytes()?,
            _ => {}
        }
    }
    Ok((name, text))
}

fn malformed(what: &str) -> Refusal {
    Refusal::malformed(format_args!("malformed protobuf body: {what}"))
}

/// The fields of a message, one after the other.
struct Fields<'a>(&'a [u8]);

#[derive(Clone, Copy)]
enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

impl<'a> Value<'a> {
    fn bytes(self) -> Result<&'a [u8], Refusal> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) | Self::Fixed => Err(malformed("a field has the wrong type")),
        }
    }

    fn varint(self) -> Result<u64, Refusal> {
        match self {
            Self::Varint(number) => Ok(number),
            Self::Bytes(_) | Self::Fixed => Err(malformed("a field has the wrong type")),
        }
    }
}

impl<'a> Fields<'a> {
    #[inline]
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Refusal> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(usize::try_from(len).unwrap_or(usize::MAX))?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(malformed("unknown wire type")),
        };
        Ok(Some((tag >> 3, value)))
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Refusal> {
        let mut number = 0u64;
        for (i, byte) in self.0.iter().take(10).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * i as u32).min(63);
            if byte & 0x80 == 0 {
                self.0 = &self.0[i + 1..];
                return Ok(number);
            }
        }
        Err(malformed("it ends within a number"))
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8], Refusal> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(|| malformed("it ends within a field"))?;
        self.0 = rest;
        Ok(taken)
    }
}
