//! Reading and unpacking a body, within the limits of one request and of all together.

use std::io::Read;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::Config;
use crate::budget::{Exhausted, Reservation};
use crate::intake::Refusal;

/// What is said when there is no room, or no log.
pub(crate) const UNAVAILABLE: &str = "The server cannot accept more requests at this time.";

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    /// Without a zlib header.
    Deflate,
    Zstd,
    /// The frame format.
    Lz4,
}

impl From<Exhausted> for Refusal {
    fn from(_: Exhausted) -> Self {
        Self::new(503, UNAVAILABLE)
    }
}

fn too_large(what: &str, bytes: usize, bytes_max: usize) -> Refusal {
    Refusal::new(413, format!("request body too large: {what} size too large than max ({bytes} vs {bytes_max})"))
}

/// Reads a body. What it takes is reserved before it is read, as far as the client tells its length.
pub(crate) async fn read(
    body: Body,
    told_bytes: Option<u64>,
    config: &Config,
    reservation: &mut Reservation,
) -> Result<Bytes, Refusal> {
    let bytes_max = config.max_recv_msg_size.as_usize();
    let told = told_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if let Some(told) = told {
        if told > bytes_max {
            return Err(too_large("message", told, bytes_max));
        }
        reservation.grow(told)?;
    }
    let mut body = body;
    let mut first: Option<Bytes> = None;
    let mut whole = BytesMut::new();
    let mut read = 0usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Refusal::new(400, format!("the body could not be read: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        read += data.len();
        if read > bytes_max {
            return Err(too_large("message", read, bytes_max));
        }
        reservation.grow_to(read)?;
        // A body that comes in one piece is not copied.
        match first.take() {
            None if whole.is_empty() => first = Some(data),
            None => whole.extend_from_slice(&data),
            Some(earlier) => {
                whole.reserve(told.unwrap_or(0).max(earlier.len() + data.len()));
                whole.extend_from_slice(&earlier);
                whole.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| whole.freeze()))
}

/// Unpacks a body, never more than allowed: a small body can unpack to a very large one.
pub(crate) fn unpack(
    packing: Packing,
    body: Bytes,
    config: &Config,
    reservation: &mut Reservation,
) -> Result<Bytes, Refusal> {
    let packed = &body[..];
    match packing {
        Packing::Plain => Ok(body),
        Packing::Gzip => bounded(flate2::read::MultiGzDecoder::new(packed), "gzip", config, reservation),
        Packing::Deflate => bounded(flate2::read::DeflateDecoder::new(packed), "deflate", config, reservation),
        Packing::Lz4 => bounded(lz4_flex::frame::FrameDecoder::new(packed), "lz4", config, reservation),
        Packing::Zstd => {
            let wrong = |e| Refusal::new(400, format!("the zstd body cannot be unpacked: {e}"));
            let mut decoder = zstd::stream::read::Decoder::new(packed).map_err(wrong)?;
            // A window of 2^27 is what zstd itself accepts without being asked; a frame may demand far more.
            decoder.window_log_max(27).map_err(wrong)?;
            bounded(decoder, "zstd", config, reservation)
        }
    }
}

fn bounded(mut from: impl Read, name: &str, config: &Config, reservation: &mut Reservation) -> Result<Bytes, Refusal> {
    const STEP: usize = 256 << 10;
    let bytes_max = config.max_decompressed_size.as_usize();
    let mut out = Vec::new();
    loop {
        let step = STEP.min(bytes_max + 1 - out.len());
        reservation.grow(step)?;
        let read = from.by_ref().take(step as u64).read_to_end(&mut out);
        let read = read.map_err(|e| Refusal::new(400, format!("the {name} body cannot be unpacked: {e}")))?;
        if out.len() > bytes_max {
            return Err(too_large("decompressed message", out.len(), bytes_max));
        }
        if read == 0 {
            return Ok(out.into());
        }
    }
}

/// Unpacks a body in snappy's block format.
pub(crate) fn unpack_snappy(body: &[u8], config: &Config, reservation: &mut Reservation) -> Result<Vec<u8>, Refusal> {
    let wrong = |e: snap::Error| Refusal::new(400, format!("the body is not in snappy's block format: {e}"));
    let bytes_max = config.max_decompressed_size.as_usize();
    let bytes = snap::raw::decompress_len(body).map_err(wrong)?;
    if bytes > bytes_max {
        return Err(too_large("decompressed message", bytes, bytes_max));
    }
    // Snappy cannot shrink to less than about a twentieth: a length beyond it is a lie not worth the memory.
    if bytes > body.len().saturating_mul(32) + 64 {
        return Err(Refusal::new(400, "the body is not in snappy's block format: it tells a wrong length"));
    }
    reservation.grow(bytes)?;
    snap::raw::Decoder::new().decompress_vec(body).map_err(wrong)
}
