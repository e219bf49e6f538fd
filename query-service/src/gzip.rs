//! Compresses answers for clients that accept gzip.

use std::io::Write;

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use runtime::Share;

use crate::error::{Error, text_response};

/// Answers of this size or more are compressed on processors, off the async threads.
const LARGE_BYTES: usize = 64 << 10;

/// What the layer works with.
#[derive(Clone)]
pub(crate) struct Gzip {
    /// Smaller answers are not compressed.
    pub(crate) bytes_min: usize,
    pub(crate) processors: Share,
}

/// The layer.
pub(crate) async fn compress(State(config): State<Gzip>, request: Request, next: Next) -> Response {
    let accepted = accepts_gzip(request.headers());
    let mut response = next.run(request).await;
    let is_compressed = response.headers().contains_key(header::CONTENT_ENCODING);
    if !accepted || is_compressed || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // Every answer here is in memory, so collecting it copies nothing.
    let Ok(plain) = to_bytes(body, usize::MAX).await else {
        return failed("the answer was lost");
    };
    if plain.len() < config.bytes_min {
        response = Response::from_parts(parts, Body::from(plain));
        return response;
    }
    let compressed = if plain.len() < LARGE_BYTES {
        gzip(&plain)
    } else {
        match config.processors.run(move || gzip(&plain)).await {
            Ok(compressed) => compressed,
            Err(_) => return failed("compressing the answer failed"),
        }
    };
    let Ok(compressed) = compressed else {
        return failed("compressing the answer failed");
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(parts, Body::from(compressed))
}

fn failed(what: &str) -> Response {
    let error = Error::Internal(what.to_owned());
    text_response(error.status(), error.to_string())
}

fn gzip(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    // The fastest level: most answers go over a local network, so processors are better spent on queries.
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
    encoder.write_all(plain)?;
    encoder.finish()
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let texts = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    let mut codings = texts.flat_map(|text| text.split(','));
    codings.any(|coding| {
        let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
        let refused = quality.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse() == Ok(0.0));
        matches!(name.trim(), "gzip" | "*") && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_accept() {
        let check = |text: &str, expected: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, text.parse().expect("a valid header"));
            assert_eq!(accepts_gzip(&headers), expected, "{text:?}");
        };
        check("gzip", true);
        check("deflate, gzip;q=0.5", true);
        check("br", false);
        check("gzip;q=0", false);
        check("identity, *;q=0.1", true);
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
