//! Parameters of a request: those of the URL and of the form together. Each kind of value has Loki's rules and error
//! texts.

use std::time::Duration;

use logql::Direction;
use model::TimestampNs;

use crate::{duration, error::Error};

/// The decoded parameters of one request, in order. Those of the body come first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Decodes a form body and the query part of a URL.
    pub(crate) fn decode(body: &[u8], url_query: &str) -> Result<Self, Error> {
        let body = std::str::from_utf8(body).map_err(|_| Error::bad("invalid UTF-8 in the form"))?;
        let mut pairs = Vec::new();
        for text in [body, url_query] {
            decode_form(text, &mut pairs)?;
        }
        Ok(Self(pairs))
    }

    /// The first value of a parameter, or an empty text.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The time range of `start`, `end` and `since`. Their order is not checked here.
    pub(crate) fn bounds(&self, now: TimestampNs) -> Result<Bounds, Error> {
        let end = self.time("end", now)?;
        let since = match self.get("since") {
            "" => Duration::from_secs(3600),
            text => duration::parse(text).map_err(|e| Error::bad(format!("could not parse 'since' parameter: {e}")))?,
        };
        let start = self.time("start", end.min(now).minus(since))?;
        Ok(Bounds { start, end })
    }

    /// A point in time, or `default` if the parameter is absent.
    pub(crate) fn time(&self, name: &str, default: TimestampNs) -> Result<TimestampNs, Error> {
        let text = self.get(name);
        if text.is_empty() {
            return Ok(default);
        }
        parse_time(text).map_err(|e| Error::bad(format!("could not parse '{name}' parameter: {e}")))
    }

    /// `limit`; 100 if absent.
    pub(crate) fn limit(&self) -> Result<u32, Error> {
        let text = self.get("limit");
        if text.is_empty() {
            return Ok(100);
        }
        let number = parse_integer(text, "Atoi").map_err(Error::bad)?;
        if number <= 0 {
            return Err(Error::bad("limit must be a positive value"));
        }
        u32::try_from(number).map_err(|_| Error::bad(format!("limit value {number} is out of range [0, 4294967295]")))
    }

    /// `direction`; backward if absent.
    pub(crate) fn direction(&self) -> Result<Direction, Error> {
        match self.get("direction") {
            "" => Ok(Direction::Backward),
            text if text.eq_ignore_ascii_case("backward") => Ok(Direction::Backward),
            text if text.eq_ignore_ascii_case("forward") => Ok(Direction::Forward),
            text => Err(Error::bad(format!("invalid direction '{text}'"))),
        }
    }

    /// `step`, rounded down to milliseconds; by default a 250th of the range.
    pub(crate) fn step(&self, bounds: Bounds) -> Result<Duration, Error> {
        let text = self.get("step");
        if text.is_empty() {
            return Ok(Duration::from_secs((bounds.seconds() / 250).max(1)));
        }
        let nanos = parse_seconds_or_duration(text)?;
        let millis = nanos / 1_000_000;
        let positive = u64::try_from(millis).ok().filter(|m| *m > 0);
        positive.map(Duration::from_millis).ok_or_else(|| {
            Error::bad("zero or negative query resolution step widths are not accepted. Try a positive integer")
        })
    }

    /// `interval`; zero if absent.
    pub(crate) fn interval(&self) -> Result<Duration, Error> {
        let text = self.get("interval");
        if text.is_empty() {
            return Ok(Duration::ZERO);
        }
        let nanos = parse_seconds_or_duration(text)?;
        u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| Error::bad("interval must be >= 0"))
    }
}

/// The time range of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// First nanosecond.
    pub(crate) start: TimestampNs,
    /// The last nanosecond, or the one after it, depending on the endpoint.
    pub(crate) end: TimestampNs,
}

impl Bounds {
    /// The largest number of points in a series.
    const POINTS_MAX: u128 = 11_000;

    fn seconds(self) -> u64 {
        self.end.since(self.start).as_secs()
    }

    /// Refuses an end before the start, with the error of queries.
    pub(crate) fn check_order(self) -> Result<Self, Error> {
        if self.end < self.start {
            return Err(Error::bad("end timestamp must not be before or equal to start time"));
        }
        Ok(self)
    }

    /// Refuses an end before the start, with the error of label and series requests.
    pub(crate) fn check_order_of_labels(self) -> Result<Self, Error> {
        if self.end < self.start {
            return Err(Error::lookback(Duration::ZERO));
        }
        Ok(self)
    }

    /// Refuses a step that gives too many points.
    pub(crate) fn check_points(self, step: Duration) -> Result<(), Error> {
        if self.end.since(self.start).as_nanos() / step.as_nanos().max(1) > Self::POINTS_MAX {
            return Err(Error::bad(
                "exceeded maximum resolution of 11,000 points per time series. \
                 Try increasing the value of the step parameter",
            ));
        }
        Ok(())
    }
}

/// Reads a point in time: seconds with a fraction, whole seconds (up to 10 characters), nanoseconds, or RFC 3339.
///
/// # Errors
/// With Go's error text for texts that are not integers.
pub(crate) fn parse_time(text: &str) -> Result<TimestampNs, String> {
    if text.contains('.')
        && let Ok(seconds) = text.parse::<f64>()
        && seconds.is_finite()
    {
        let whole = seconds.trunc();
        let millis = ((seconds - whole) * 1000.0).round();
        // Float to integer conversions saturate, which is right for times out of range.
        let nanos = (whole as i64).saturating_mul(1_000_000_000).saturating_add(millis as i64 * 1_000_000);
        return Ok(TimestampNs::from_nanos(nanos));
    }
    match parse_integer(text, "ParseInt") {
        Ok(number) if text.len() <= 10 => Ok(TimestampNs::from_secs(number)),
        Ok(number) => Ok(TimestampNs::from_nanos(number)),
        Err(error) => parse_rfc3339(text).ok_or(error),
    }
}

fn parse_rfc3339(text: &str) -> Option<TimestampNs> {
    // The parser accepts more than RFC 3339, so the shape is checked first.
    let bytes = text.as_bytes();
    let dated = bytes.len() >= 20 && bytes[4] == b'-' && bytes[7] == b'-' && bytes[10] == b'T';
    let timed = dated && bytes[13] == b':' && bytes[16] == b':';
    let time: jiff::Timestamp = if timed { text.parse().ok()? } else { return None };
    i64::try_from(time.as_nanosecond()).ok().map(TimestampNs::from_nanos)
}

/// Reads a decimal integer as Go's `strconv` does.
fn parse_integer(text: &str, function: &str) -> Result<i64, String> {
    text.parse().map_err(|e: std::num::ParseIntError| {
        use std::num::IntErrorKind as K;
        let reason = match e.kind() {
            K::PosOverflow | K::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.{function}: parsing {text:?}: {reason}")
    })
}

/// Reads float seconds or a Prometheus duration, as nanoseconds.
fn parse_seconds_or_duration(text: &str) -> Result<i64, Error> {
    if let Ok(seconds) = text.parse::<f64>() {
        let nanos = seconds * 1e9;
        // NaN fails the comparison too.
        let fits = nanos > i64::MIN as f64 && nanos < i64::MAX as f64;
        if !fits {
            return Err(Error::bad(format!("cannot parse {text:?} to a valid duration. It overflows int64")));
        }
        return Ok(nanos as i64);
    }
    let duration =
        duration::parse(text).map_err(|_| Error::bad(format!("cannot parse {text:?} to a valid duration")))?;
    Ok(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}

fn decode_form(text: &str, pairs: &mut Vec<(String, String)>) -> Result<(), Error> {
    for part in text.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        pairs.push((decode_text(name)?, decode_text(value)?));
    }
    Ok(())
}

/// Decodes a form's text: `+` is a blank and `%41` a byte. Bytes that are not UTF-8 become U+FFFD.
pub(crate) fn decode_text(text: &str) -> Result<String, Error> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digit = |i: usize| tail.get(i).and_then(|b| char::from(*b).to_digit(16));
                let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                    let shown = String::from_utf8_lossy(&tail[..tail.len().min(2)]).into_owned();
                    return Err(Error::bad(format!("invalid URL escape \"%{shown}\"")));
                };
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            other => bytes.push(other),
        }
    }
    Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

#[cfg(test)]
mod tests;
