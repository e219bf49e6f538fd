//! Sizes and durations as Loki's configuration writes them.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// A text that is no size or duration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnitError {
    /// Not a size.
    #[error("{0:?} is no size: write a number of bytes, or a number with KB, MB or GB (powers of 1024)")]
    Size(String),
    /// Not a duration.
    #[error("{0:?} is no duration: write for example 90s, 10m, 24h, 7d or 1h30m")]
    Duration(String),
}

/// A number of bytes; written as a number or as `256KB`, `3MB` (powers of 1024).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u32); 5] = [("PB", 50), ("TB", 40), ("GB", 30), ("MB", 20), ("KB", 10)];

impl ByteSize {
    /// This many KiB.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// This many MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// This many GiB.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS.iter().find(|(_, shift)| self.0 >= 1 << shift && self.0.trailing_zeros() >= *shift);
        match exact {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError::Size(text.to_owned());
        let upper = text.trim().to_ascii_uppercase();
        let digits = upper.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
        let unit = upper[digits.len()..].trim_start().replace("IB", "B");
        let shift = match unit.as_str() {
            "" | "B" => 0,
            "K" | "KB" => 10,
            "M" | "MB" => 20,
            "G" | "GB" => 30,
            "T" | "TB" => 40,
            "P" | "PB" => 50,
            _ => return Err(bad()),
        };
        let number: f64 = digits.parse().map_err(|_| bad())?;
        let bytes = number * (1u64 << shift) as f64;
        let fits = bytes >= 0.0 && bytes < u64::MAX as f64;
        if fits { Ok(Self(bytes as u64)) } else { Err(bad()) }
    }
}

/// A duration in Prometheus' form: `1h30m`, `7d`, `0s`; units `y w d h m s ms`, descending, each once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PromDuration(pub Duration);

const DURATION_UNITS: [(&str, u64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

impl PromDuration {
    /// Zero, which mostly means "no limit".
    pub const ZERO: Self = Self(Duration::ZERO);

    /// This many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// This many seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// This many hours.
    pub const fn from_hours(hours: u64) -> Self {
        Self::from_secs(hours * 3600)
    }

    /// The duration itself.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// True for zero.
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl fmt::Display for PromDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if millis == 0 {
            return f.write_str("0s");
        }
        // Years and weeks only where they are exact, as Prometheus prints them.
        for (unit, size) in DURATION_UNITS {
            let whole = matches!(unit, "y" | "w");
            if millis >= size && (!whole || millis % size == 0) {
                write!(f, "{}{unit}", millis / size)?;
                millis %= size;
            }
        }
        Ok(())
    }
}

impl FromStr for PromDuration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError::Duration(text.to_owned());
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(bad());
        }
        let (mut millis, mut next_unit) = (0u64, 0);
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
            rest = &rest[digits..];
            let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
            let at = DURATION_UNITS.iter().position(|(unit, _)| *unit == &rest[..letters]).ok_or_else(bad)?;
            if at < next_unit {
                return Err(bad());
            }
            next_unit = at + 1;
            rest = &rest[letters..];
            millis = number.checked_mul(DURATION_UNITS[at].1).and_then(|m| millis.checked_add(m)).ok_or_else(bad)?;
        }
        // Durations are compared with times in nanoseconds.
        if i64::try_from(millis).ok().and_then(|m| m.checked_mul(1_000_000)).is_none() {
            return Err(bad());
        }
        Ok(Self::from_millis(millis))
    }
}

/// A number or a text in YAML.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer).map_err(|_| de::Error::custom("expected a size, such as 256KB"))? {
            NumberOrText::Number(bytes) => Ok(Self(bytes)),
            NumberOrText::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PromDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer).map_err(|_| de::Error::custom("expected a duration, such as 10m"))? {
            NumberOrText::Number(0) => Ok(Self::ZERO),
            NumberOrText::Number(n) => Err(de::Error::custom(UnitError::Duration(n.to_string()))),
            NumberOrText::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

impl Serialize for PromDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(text.parse::<ByteSize>().ok(), expected.map(ByteSize), "{text}");
        check("256KB", Some(256 << 10));
        check("3MB", Some(3 << 20));
        check("1.5 MiB", Some(3 << 19));
        check("10gb", Some(10 << 30));
        check("4096", Some(4096));
        check("4096B", Some(4096));
        check("", None);
        check("-1", None);
        check("5 apples", None);
        for size in [0, 1, 1000, 1024, 1536, 1536 << 10, 150 << 30] {
            assert_eq!(ByteSize(size).to_string().parse(), Ok(ByteSize(size)));
        }
        assert_eq!(ByteSize::gib(150).to_string(), "150GB");
        assert_eq!(ByteSize(1536 << 10).to_string(), "1536KB");
    }

    #[test]
    fn durations() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(text.parse().ok(), expected.map(PromDuration::from_millis), "{text}");
        };
        check("7d", Some(7 * 86_400_000));
        check("30d1h", Some(721 * 3_600_000));
        check("1h30m", Some(90 * 60_000));
        check("250ms", Some(250));
        check("0", Some(0));
        check("0s", Some(0));
        check("", None);
        check("5", None);
        check("5minutes", None);
        check("1m1h", None);
        check("1m1m", None);
        check("300y", None);
        assert_eq!(PromDuration::from_hours(721).to_string(), "30d1h");
        assert_eq!(PromDuration::from_hours(168).to_string(), "1w");
        assert_eq!(PromDuration::ZERO.to_string(), "0s");
    }
}
