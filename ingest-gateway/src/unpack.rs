//! Unpacking a body, within the limits of one request and of all requests together.

use std::io::Read;

use bytes::Bytes;

use crate::Config;
use crate::budget::Reservation;
use crate::refusal::Refusal;

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

/// Unpacks a body. Stops at the limit, since a small body can unpack to a very large one.
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
            let wrong = |e: std::io::Error| Refusal::malformed(format_args!("the zstd body cannot be unpacked: {e}"));
            let mut decoder = zstd::stream::read::Decoder::new(packed).map_err(wrong)?;
            // zstd's own default. A frame may ask for a far larger window, which would be allocated at once.
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
        let read = read.map_err(|e| Refusal::malformed(format_args!("the {name} body cannot be unpacked: {e}")))?;
        if out.len() > bytes_max {
            return Err(Refusal::too_large("decompressed message", out.len(), bytes_max));
        }
        if read == 0 {
            return Ok(out.into());
        }
    }
}

/// Unpacks a body in snappy's block format.
pub(crate) fn unpack_snappy(body: &[u8], config: &Config, reservation: &mut Reservation) -> Result<Vec<u8>, Refusal> {
    let wrong = |e: snap::Error| Refusal::malformed(format_args!("the body is not in snappy's block format: {e}"));
    let bytes_max = config.max_decompressed_size.as_usize();
    let bytes = snap::raw::decompress_len(body).map_err(wrong)?;
    if bytes > bytes_max {
        return Err(Refusal::too_large("decompressed message", bytes, bytes_max));
    }
    // Snappy packs at most about twenty to one. A larger length is wrong, and not worth allocating for.
    if bytes > body.len().saturating_mul(32) + 64 {
        return Err(Refusal::malformed("the body is not in snappy's block format: it tells a wrong length"));
    }
    reservation.grow(bytes)?;
    snap::raw::Decoder::new().decompress_vec(body).map_err(wrong)
}
