//! Loki's JSON push body, read in one pass and without a tree.
//!
//! Lines are borrowed from the body where they hold no escape. Lines may hold bytes that are not UTF-8; label names
//! and values may not. What follows the outer value is not looked at.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use model::{Labels, TimestampNs, parse_labels};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::intake::{Intake, PushedLabels};
use crate::pairs::Pairs;
use crate::protocol::Decoding;
use crate::refusal::Refusal;

/// Reads a body.
pub(super) fn decode(body: Bytes, decoding: &mut Decoding<'_>) -> Result<(), Refusal> {
    decoding.admit_text(&body)?;
    let mut deserializer = serde_json::Deserializer::from_slice(&body);
    let push = Push { intake: decoding.intake, line: &mut Vec::new() };
    push.deserialize(&mut deserializer).map_err(Refusal::malformed)
}

/// The outer object, and each stream in it.
struct Push<'a> {
    intake: &'a mut Intake,
    /// Holds a line whose escapes were resolved.
    line: &'a mut Vec<u8>,
}

struct Streams<'a>(Push<'a>);
struct Stream<'a>(Push<'a>);

/// An entry that came before its stream's labels.
#[derive(Default)]
struct Early {
    ts: i64,
    line: Vec<u8>,
    metadata: Vec<(String, String)>,
}

/// Where entries go.
enum Sink<'a> {
    Intake(&'a mut Intake),
    Early(&'a mut Vec<Early>),
}

struct Entries<'a> {
    sink: Sink<'a>,
    line: &'a mut Vec<u8>,
}

struct Entry<'a, 'b> {
    entries: &'a mut Entries<'b>,
}

/// Any string, handed to a function.
struct Text<F>(F);

macro_rules! seed {
    ([$de:lifetime $(, $l:lifetime)*] $type:ty => $value:ty, $expecting:literal, $method:ident, { $($visits:item)* }) => {
        impl<$de, $($l),*> DeserializeSeed<$de> for $type {
            type Value = $value;

            fn deserialize<D: Deserializer<$de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                deserializer.$method(self)
            }
        }

        impl<$de, $($l),*> Visitor<$de> for $type {
            type Value = $value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($expecting)
            }

            $($visits)*
        }
    };
}

seed!(['de, 'a] Push<'a> => (), "an object with the key \"streams\"", deserialize_map, {
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(is_streams) = map.next_key_seed(Text(|name: &str| name == "streams"))? {
            if is_streams {
                map.next_value_seed(Streams(Push { intake: &mut *self.intake, line: &mut *self.line }))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
});

seed!(['de, 'a] Streams<'a> => (), "an array of streams", deserialize_any, {
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Push { intake, line } = self.0;
        while seq.next_element_seed(Stream(Push { intake: &mut *intake, line: &mut *line }))?.is_some() {}
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
});

#[derive(Clone, Copy)]
enum StreamKey {
    Labels,
    Values,
    Other,
}

fn stream_key(name: &str) -> StreamKey {
    match name {
        "stream" => StreamKey::Labels,
        "values" => StreamKey::Values,
        _ => StreamKey::Other,
    }
}

seed!(['de, 'a] Stream<'a> => (), "a stream: an object with \"stream\" and \"values\"", deserialize_map, {
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Push { intake, line } = self.0;
        let mut early = Vec::new();
        let mut is_begun = false;
        while let Some(key) = map.next_key_seed(Text(stream_key))? {
            match key {
                StreamKey::Labels => {
                    let labels = map.next_value_seed(LabelPairs)?;
                    // Of two label sets in one stream the first one counts.
                    if !is_begun {
                        intake.begin(labels, Vec::new());
                        is_begun = true;
                    }
                }
                StreamKey::Values if is_begun => {
                    map.next_value_seed(Entries { sink: Sink::Intake(&mut *intake), line: &mut *line })?;
                }
                StreamKey::Values => {
                    map.next_value_seed(Entries { sink: Sink::Early(&mut early), line: &mut *line })?;
                }
                StreamKey::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if !is_begun {
            intake.begin(PushedLabels::Read(Labels::empty()), Vec::new());
        }
        for entry in early {
            entry.metadata.iter().for_each(|(name, value)| intake.metadata.push_fit(name, value));
            intake.entry(TimestampNs::from_nanos(entry.ts), &entry.line);
        }
        intake.end();
        Ok(())
    }
});

struct LabelPairs;

seed!(['de] LabelPairs => PushedLabels, "an object of labels", deserialize_map, {
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PushedLabels, A::Error> {
        let mut pairs = Vec::<(Box<str>, Box<str>)>::new();
        while let Some(name) = map.next_key_seed(Text(|name: &str| Box::<str>::from(name)))? {
            pairs.push((name, map.next_value_seed(LabelValue)?));
        }
        if pairs.iter().all(|(name, _)| is_label_name(name)) {
            return Ok(PushedLabels::Read(Labels::from_pairs(pairs)));
        }
        // The text form, as if it had been pushed so: it tells where the name goes wrong.
        let text = Labels::from_pairs(pairs).to_string();
        Ok(PushedLabels::parsed(&text, parse_labels(&text)))
    }
});

fn is_label_name(name: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b':';
    name.bytes().all(is_part) && name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

struct LabelValue;

seed!(['de] LabelValue => Box<str>, "a string", deserialize_any, {
    fn visit_str<E: Error>(self, text: &str) -> Result<Box<str>, E> {
        Ok(text.into())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Box<str>, E> {
        Ok(number.to_string().into())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Box<str>, E> {
        Ok(number.to_string().into())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Box<str>, E> {
        Ok(number.to_string().into())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Box<str>, E> {
        Ok(value.to_string().into())
    }
});

seed!(['de, 'a] Entries<'a> => (), "an array of entries", deserialize_any, {
    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Entry { entries: &mut self })?.is_some() {}
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
});

/// A line that may be borrowed from the body.
enum Line<'de> {
    Borrowed(&'de [u8]),
    InBuffer,
}

seed!(['de, 'a, 'b] Entry<'a, 'b> => (), "an entry: [\"<nanoseconds>\", \"line\", {metadata}]", deserialize_seq, {
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Entries { sink, line: buffer } = self.entries;
        let ts = seq.next_element_seed(Text(timestamp))?.ok_or_else(|| A::Error::custom("an entry has no timestamp"))??;
        let line = seq.next_element_seed(LineText(buffer))?.unwrap_or(Line::Borrowed(b""));
        let line = match &line {
            Line::Borrowed(line) => line,
            Line::InBuffer => buffer.as_slice(),
        };
        match sink {
            Sink::Intake(intake) => {
                seq.next_element_seed(Metadata(&mut intake.metadata))?;
                intake.entry(TimestampNs::from_nanos(ts), line);
            }
            Sink::Early(early) => {
                let mut metadata = Pairs::default();
                seq.next_element_seed(Metadata(&mut metadata))?;
                let metadata = metadata.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
                early.push(Early { ts, line: line.to_vec(), metadata });
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
});

fn timestamp<E: Error>(text: &str) -> Result<i64, E> {
    text.parse().map_err(|_| E::custom(format!("timestamp {text:?} is not a number of nanoseconds")))
}

struct LineText<'a>(&'a mut Vec<u8>);

seed!(['de, 'a] LineText<'a> => Line<'de>, "a string", deserialize_bytes, {
    fn visit_borrowed_bytes<E: Error>(self, line: &'de [u8]) -> Result<Line<'de>, E> {
        Ok(Line::Borrowed(line))
    }

    fn visit_bytes<E: Error>(self, line: &[u8]) -> Result<Line<'de>, E> {
        check_surrogates(line)?;
        self.0.clear();
        self.0.extend_from_slice(line);
        Ok(Line::InBuffer)
    }
});

/// A lone `\ud800` has no UTF-8; the parser makes three bytes of it that are none.
fn check_surrogates<E: Error>(bytes: &[u8]) -> Result<(), E> {
    let is_surrogate = |at: usize| bytes.get(at + 1).is_some_and(|b| *b >= 0xa0);
    if memchr::memchr_iter(0xed, bytes).any(is_surrogate) {
        return Err(E::custom("lone surrogate in an escape"));
    }
    Ok(())
}

struct Metadata<'a>(&'a mut Pairs);

seed!(['de, 'a] Metadata<'a> => (), "an object of strings", deserialize_map, {
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(BytesText)? {
            let value = map.next_value_seed(BytesText)?;
            self.0.push(&name, &value).map_err(A::Error::custom)?;
        }
        Ok(())
    }
});

/// A string that need not be UTF-8.
struct BytesText;

seed!(['de] BytesText => Cow<'de, [u8]>, "a string", deserialize_bytes, {
    fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Cow<'de, [u8]>, E> {
        Ok(Cow::Borrowed(bytes))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Cow<'de, [u8]>, E> {
        check_surrogates(bytes)?;
        Ok(Cow::Owned(bytes.to_vec()))
    }
});

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for Text<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> T> Visitor<'_> for Text<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        Ok((self.0)(text))
    }
}
