//! Loki's push: `/loki/api/v1/push`, JSON or protobuf packed with snappy.

mod json;
mod protobuf;

use super::media_types::{JSON, PROTOBUF};
use crate::protocol::{BodyFormat, Decode, Protocol};
use crate::refusal::Refusal;
use crate::unpack::Packing;

pub(crate) struct Loki;

impl Protocol for Loki {
    fn format(&self) -> &'static str {
        "loki"
    }

    fn path(&self) -> &'static str {
        "/loki/api/v1/push"
    }

    fn body_format(&self, media_type: &str, content_encoding: &str) -> Result<BodyFormat, Refusal> {
        body_format(media_type, content_encoding, json::decode)
    }
}

/// The bodies of Loki's pushes, old and new. Only their JSON differs: every other media type counts as protobuf.
pub(super) fn body_format(
    media_type: &str,
    content_encoding: &str,
    decode_json: Decode,
) -> Result<BodyFormat, Refusal> {
    let (packing, content_encoding) = match content_encoding {
        "" => (Packing::Plain, ""),
        // Protobuf is always packed with snappy, JSON never.
        "snappy" => (Packing::Plain, "snappy"),
        "gzip" => (Packing::Gzip, "gzip"),
        "deflate" => (Packing::Deflate, "deflate"),
        "zstd" => (Packing::Zstd, "zstd"),
        other => return Err(Refusal::malformed(format_args!("Content-Encoding {other:?} not supported"))),
    };
    if media_type.is_empty() {
        return Err(Refusal::malformed("mime: no media type"));
    }
    let is_token = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && b != b',');
    if !media_type.split('/').all(is_token) {
        return Err(Refusal::malformed(format_args!("mime: {media_type:?} is not a media type")));
    }
    let (content_type, decode) = match media_type.eq_ignore_ascii_case(JSON) {
        true => (JSON, decode_json),
        false => (PROTOBUF, protobuf::decode as Decode),
    };
    Ok(BodyFormat { content_type, content_encoding, packing, decode })
}
