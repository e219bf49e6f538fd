//! Reading the body of an HTTP request.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::Config;
use crate::budget::Reservation;
use crate::refusal::Refusal;

/// Reads a body. If the client tells its length, that is reserved before the first byte is read.
pub(super) async fn read(
    body: Body,
    told_bytes: Option<u64>,
    config: &Config,
    reservation: &mut Reservation,
) -> Result<Bytes, Refusal> {
    let bytes_max = config.max_recv_msg_size.as_usize();
    let told = told_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if let Some(told) = told {
        if told > bytes_max {
            return Err(Refusal::too_large("message", told, bytes_max));
        }
        reservation.grow(told)?;
    }
    let mut body = body;
    let mut first: Option<Bytes> = None;
    let mut whole = BytesMut::new();
    let mut read = 0usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Refusal::malformed(format_args!("the body could not be read: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        read += data.len();
        if read > bytes_max {
            return Err(Refusal::too_large("message", read, bytes_max));
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
