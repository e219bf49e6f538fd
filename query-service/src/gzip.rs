//! Packs answers for clients that take gzip.

use std::io::Write;

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::error::{Error, text_response};

/// From this size on packing leaves the async threads.
const LARGE_BYTES: usize = 64 << 10;

/// The layer. `bytes_min` is the size from which on answers are packed.
pub(crate) async fn pack(State(bytes_min): State<usize>, request: Request, next: Next) -> Response {
    let accepted = accepts_gzip(request.headers());
    let mut response = next.run(request).await;
    let is_packed = response.headers().contains_key(header::CONTENT_ENCODING);
    if !accepted || is_packed || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // Every answer here was made in memory; collecting it copies nothing.
    let Ok(plain) = to_bytes(body, usize::MAX).await else {
        return failed("the answer was lost");
    };
    if plain.len() < bytes_min {
        response = Response::from_parts(parts, Body::from(plain));
        return response;
    }
    let packed = if plain.len() < LARGE_BYTES {
        gzip(&plain)
    } else {
        match tokio::task::spawn_blocking(move || gzip(&plain)).await {
            Ok(packed) => packed,
            Err(_) => return failed("packing the answer failed"),
        }
    };
    let Ok(packed) = packed else {
        return failed("packing the answer failed");
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(parts, Body::from(packed))
}

fn failed(what: &str) -> Response {
    let error = Error::Internal(what.to_owned());
    text_response(error.status(), error.to_string())
}

fn gzip(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    // The fastest level: answers travel short ways, and processors are better spent on queries.
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
