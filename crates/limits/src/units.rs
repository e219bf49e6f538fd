//! Sizes, durations and points of time as the configuration spells them.

use std::{fmt, str::FromStr, time::Duration};

use model::TimestampNs;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};
use thiserror::Error;

/// Why a text is no value of its type.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnitError {
    /// Not a size.
    #[error("{0:?} is not a size; write a number of bytes, or for example 256KB or 3MB")]
    Size(String),
    /// Not a duration.
    #[error("{0:?} is not a duration; write for example 10s, 5m, 7d or 30d1h")]
    Duration(String),
    /// Not a point of time.
    #[error("{0:?} is not a time; write for example 2026-01-02T15:04:05Z")]
    Time(String),
}

/// A number of bytes. K, M, G, T are powers of 1024.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

const SIZES: [(&str, u64); 4] = [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)];

impl ByteSize {
    /// This many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// This many KB.
    pub const fn from_kb(kb: u64) -> Self {
        Self(kb << 10)
    }

    /// This many MB.
    pub const fn from_mb(mb: u64) -> Self {
        Self(mb << 20)
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// In bytes, for comparing with lengths in memory.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// True when there is no limit.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::Size(text.to_owned());
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let unit = unit.trim().to_ascii_uppercase().replace("IB", "B");
        let factor = match unit.as_str() {
            "" | "B" => 1,
            unit => {
                let is_unit = |(name, _): &&(&str, u64)| unit == *name || (unit.len() == 1 && name.starts_with(unit));
                SIZES.iter().find(is_unit).ok_or_else(wrong)?.1
            }
        };
        let bytes = if let Ok(whole) = number.parse::<u64>() {
            whole.checked_mul(factor).ok_or_else(wrong)?
        } else {
            let bytes = number.parse::<f64>().map_err(|_| wrong())? * factor as f64;
            if bytes > 1e18 {
                return Err(wrong());
            }
            bytes.round() as u64
        };
        Ok(Self(bytes))
    }
}

/// The largest unit that says it exactly: `256KB`, `1536KB`, `1000B`.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SIZES.iter().find(|(_, size)| self.0 > 0 && self.0.is_multiple_of(*size));
        match exact {
            Some((unit, size)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A duration as Prometheus writes it: `7d`, `30d1h`, `1m30s`. Go's forms with fractions (`1.5h`) are read as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PromDuration(Duration);

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3600 * SECOND;
/// Units from the largest; the last column says whether a value is only written in it when it is a whole number.
const UNITS: [(&str, u64, bool); 10] = [
    ("y", 365 * 24 * HOUR, true),
    ("w", 7 * 24 * HOUR, true),
    ("d", 24 * HOUR, true),
    ("h", HOUR, false),
    ("m", 60 * SECOND, false),
    ("s", SECOND, false),
    ("ms", SECOND / 1000, false),
    ("us", 1000, false),
    ("µs", 1000, false),
    ("ns", 1, false),
];

impl PromDuration {
    /// No time.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// This long.
    pub const fn new(duration: Duration) -> Self {
        Self(duration)
    }

    /// This many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// This many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// This many minutes.
    pub const fn from_mins(minutes: u64) -> Self {
        Self::from_secs(minutes * 60)
    }

    /// This many hours.
    pub const fn from_hours(hours: u64) -> Self {
        Self::from_secs(hours * 3600)
    }

    /// As the standard library has it.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// True when there is no limit.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<PromDuration> for Duration {
    fn from(duration: PromDuration) -> Self {
        duration.0
    }
}

impl From<Duration> for PromDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for PromDuration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::Duration(text.to_owned());
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(wrong());
        }
        let mut total = 0u128;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let (_, nanos, _) = UNITS.iter().find(|(name, ..)| *name == unit).ok_or_else(wrong)?;
            total += match number.parse::<u32>() {
                Ok(whole) => u128::from(whole) * u128::from(*nanos),
                Err(_) => {
                    let part = number.parse::<f64>().map_err(|_| wrong())? * *nanos as f64;
                    if part > 1e19 {
                        return Err(wrong());
                    }
                    part.round() as u128
                }
            };
            rest = tail;
        }
        // 292 years: what a Go duration can hold.
        let nanos = u64::try_from(total).ok().filter(|n| *n <= i64::MAX as u64).ok_or_else(wrong)?;
        Ok(Self(Duration::from_nanos(nanos)))
    }
}

impl fmt::Display for PromDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, nanos, needs_whole) in UNITS {
            if left >= nanos && (!needs_whole || left.is_multiple_of(nanos)) {
                write!(f, "{}{unit}", left / nanos)?;
                left %= nanos;
            }
        }
        Ok(())
    }
}

/// A point of time, for example until when ingestion is blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Until(TimestampNs);

impl Until {
    /// The point of time.
    pub const fn time(self) -> TimestampNs {
        self.0
    }
}

impl FromStr for Until {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::Time(text.to_owned());
        let of_day = || {
            let date: jiff::civil::Date = text.parse().ok()?;
            Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
        };
        let time = text.parse::<jiff::Timestamp>().ok().or_else(of_day).ok_or_else(wrong)?;
        let nanos = i64::try_from(time.as_nanosecond()).map_err(|_| wrong())?;
        Ok(Self(TimestampNs::from_nanos(nanos)))
    }
}

/// RFC 3339.
impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0.nanos())) {
            Ok(time) => time.fmt(f),
            Err(_) => self.0.fmt(f),
        }
    }
}

/// Written as text; read from text or a number.
macro_rules! as_text {
    ($type:ty, $expecting:literal, $from_number:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$type, E> {
                        let from_number: fn(u64) -> Option<$type> = $from_number;
                        from_number(number)
                            .ok_or_else(|| E::invalid_type(serde::de::Unexpected::Unsigned(number), &self))
                    }
                }

                deserializer.deserialize_any(Text)
            }
        }
    };
}

as_text!(ByteSize, "a size such as 256KB, or a number of bytes", |n| Some(ByteSize(n)));
as_text!(PromDuration, "a duration such as 5m or 7d", |n| (n == 0).then_some(PromDuration::ZERO));
as_text!(Until, "a time such as 2026-01-02T15:04:05Z", |_| None);
