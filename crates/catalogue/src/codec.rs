//! Heads as bytes.
//!
//! One line of text, then the body: `millrace-head <format> <json|zstd> <XXH3-64 of the body, hex>\n`. The body is the
//! head as JSON, compressed where that pays, so that in trouble a person can read it: `tail -n +2 head | zstd -d`.
//!
//! A program reads its own format and the one before; it refuses newer ones, and fields it does not know, since it
//! would drop them when it writes the head back.

use std::io::Read;

use xxhash_rust::xxh3::xxh3_64;

use crate::Head;

/// The format that is written.
pub const FORMAT: u32 = 1;

const MAGIC: &str = "millrace-head";
/// Bodies from this size on are compressed.
const PLAIN_BYTES_MAX: usize = 4 << 10;
/// Level 1: heads are written with every cut; higher levels save little on them.
const ZSTD_LEVEL: i32 = 1;
/// A body that unpacks to more than this is no head. About 500,000 blocks.
const BODY_BYTES_MAX: u64 = 256 << 20;

/// Why bytes are no head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    Newer { format: u32 },
    Corrupt(String),
}

fn corrupt(reason: impl std::fmt::Display) -> DecodeError {
    DecodeError::Corrupt(reason.to_string())
}

pub(crate) fn encode(head: &Head) -> Vec<u8> {
    let json = serde_json::to_vec(head).expect("heads have text keys only, and writing to memory does not fail");
    let packed = (json.len() > PLAIN_BYTES_MAX).then(|| zstd::bulk::compress(&json, ZSTD_LEVEL).ok()).flatten();
    let (encoding, body) = packed.map_or(("json", json), |packed| ("zstd", packed));
    let mut bytes = format!("{MAGIC} {FORMAT} {encoding} {:016x}\n", xxh3_64(&body)).into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

/// Never panics, whatever the bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<Head, DecodeError> {
    let line_end = bytes.iter().take(100).position(|b| *b == b'\n').ok_or_else(|| corrupt("it has no first line"))?;
    let (line, body) = (&bytes[..line_end], &bytes[line_end + 1..]);
    let line = std::str::from_utf8(line).map_err(|_| corrupt("its first line is no text"))?;
    let words: Vec<&str> = line.split(' ').collect();
    let (Some(&MAGIC), Some(format)) = (words.first(), words.get(1).and_then(|word| word.parse::<u32>().ok())) else {
        return Err(corrupt("its first line is not that of a head"));
    };
    if format > FORMAT {
        return Err(DecodeError::Newer { format });
    }
    if format == 0 {
        return Err(corrupt("there never was a format 0"));
    }
    let [_, _, encoding, checksum] = words[..] else { return Err(corrupt("its first line is not that of a head")) };
    if checksum != format!("{:016x}", xxh3_64(body)) {
        return Err(corrupt("its checksum does not fit"));
    }
    let head: Head = match encoding {
        "json" => serde_json::from_slice(body),
        "zstd" => serde_json::from_slice(&unpack(body)?),
        _ => return Err(corrupt(format!("its encoding {encoding:?} is not known"))),
    }
    .map_err(corrupt)?;
    head.check().map_err(corrupt)?;
    Ok(head)
}

fn unpack(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut json = Vec::new();
    let mut decoder = zstd::stream::read::Decoder::new(body).map_err(corrupt)?.take(BODY_BYTES_MAX + 1);
    decoder.read_to_end(&mut json).map_err(corrupt)?;
    if json.len() as u64 > BODY_BYTES_MAX { Err(corrupt("it is too large")) } else { Ok(json) }
}

#[cfg(test)]
mod tests;
