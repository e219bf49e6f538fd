//! Converts between the types of `owner` and the messages of the RPC.

use std::sync::Arc;
use std::time::Duration;

use logql::{Direction, Params, Partial, Query, QueryError};
use model::{Matcher, Offset, OffsetRange, PartitionId, TenantId, TimeRange, TimestampNs};
use owner::{
    CatchUp, Owner, OwnerError, ScanReply, ScanRequest, StreamStat, StreamsReply, StreamsRequest, TailBatch,
    TailRequest, Where,
};
use tokio::time::Instant;
use tonic::Status;

use crate::body::{self, BodyError, FORMAT, Rows};
use crate::proto;
use crate::proto::error::Kind;

/// Longer deadlines are cut to this.
const DEADLINE_MAX: Duration = Duration::from_secs(86_400);

fn offset_range(range: Option<proto::OffsetRange>) -> OffsetRange {
    let range = range.unwrap_or_default();
    OffsetRange::new(Offset::new(range.start), Offset::new(range.end))
}

fn sent_range(range: OffsetRange) -> Option<proto::OffsetRange> {
    Some(proto::OffsetRange { start: range.start.value(), end: range.end.value() })
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The message for a [`Where`].
fn sent_where(at: &Where) -> proto::Where {
    let left = at.deadline.saturating_duration_since(Instant::now()).min(DEADLINE_MAX);
    proto::Where {
        partition: at.partition.index(),
        tenant: at.tenant.to_string(),
        from: at.from.value(),
        at_least: at.at_least.map(Offset::value),
        deadline_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        format_max: FORMAT,
    }
}

fn read_where(at: Option<proto::Where>) -> Result<Where, Status> {
    let at = at.ok_or_else(|| Status::invalid_argument("a request without a partition"))?;
    check_format(at.format_max)?;
    Ok(Where {
        partition: PartitionId::new(at.partition),
        tenant: tenant(&at.tenant)?,
        from: Offset::new(at.from),
        at_least: at.at_least.map(Offset::new),
        deadline: Instant::now() + Duration::from_millis(at.deadline_ms).min(DEADLINE_MAX),
    })
}

fn tenant(text: &str) -> Result<TenantId, Status> {
    TenantId::new(text).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn check_format(format_max: u32) -> Result<(), Status> {
    if format_max >= FORMAT {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "the client reads formats up to {format_max}, but this process writes {FORMAT}"
    )))
}

/// Matchers as the text of a selector.
pub(crate) fn selector(matchers: &[Matcher]) -> String {
    let texts: Vec<String> = matchers.iter().map(Matcher::to_string).collect();
    format!("{{{}}}", texts.join(", "))
}

fn matchers(selector: &str) -> Result<Arc<[Matcher]>, Status> {
    if selector == "{}" {
        return Ok(Arc::new([]));
    }
    let matchers = logql::parse_matchers(selector).map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(matchers.into())
}

/// The message for a [`ScanRequest`].
pub(crate) fn scan_request(request: &ScanRequest) -> proto::ScanRequest {
    let ScanRequest { at, query } = request;
    let params = query.params();
    let direction = match params.direction {
        Direction::Backward => proto::Direction::Backward,
        Direction::Forward => proto::Direction::Forward,
    };
    proto::ScanRequest {
        r#where: Some(sent_where(at)),
        query: query.text().to_owned(),
        params: Some(proto::Params {
            start: params.start.nanos(),
            end: params.end.nanos(),
            step_ns: nanos(params.step),
            interval_ns: nanos(params.interval),
            direction: direction.into(),
            limit: params.limit,
            series_max: params.series_max,
        }),
    }
}

/// Reads the message for a [`ScanRequest`]. `prepare` makes the query of its text and parameters. An inner error is the
/// answer.
pub(crate) fn read_scan_request(
    request: proto::ScanRequest,
    prepare: impl FnOnce(&str, Params) -> Result<Arc<Query>, QueryError>,
) -> Result<Result<ScanRequest, QueryError>, Status> {
    let at = read_where(request.r#where)?;
    let params = request.params.ok_or_else(|| Status::invalid_argument("a scan without parameters"))?;
    let direction = match params.direction() {
        proto::Direction::Backward => Direction::Backward,
        proto::Direction::Forward => Direction::Forward,
    };
    let params = Params {
        start: TimestampNs::from_nanos(params.start),
        end: TimestampNs::from_nanos(params.end),
        step: Duration::from_nanos(params.step_ns),
        interval: Duration::from_nanos(params.interval_ns),
        direction,
        limit: params.limit,
        series_max: params.series_max,
    };
    Ok(prepare(&request.query, params).map(|query| ScanRequest { at, query }))
}

/// The message for a [`StreamsRequest`].
pub(crate) fn streams_request(request: &StreamsRequest) -> proto::StreamsRequest {
    let StreamsRequest { at, matchers, time } = request;
    proto::StreamsRequest {
        r#where: Some(sent_where(at)),
        selector: selector(matchers),
        start: time.start.nanos(),
        end: time.end.nanos(),
    }
}

/// Reads the message for a [`StreamsRequest`].
pub(crate) fn read_streams_request(request: proto::StreamsRequest) -> Result<StreamsRequest, Status> {
    let at = read_where(request.r#where)?;
    let time = TimeRange::new(TimestampNs::from_nanos(request.start), TimestampNs::from_nanos(request.end));
    let matchers = matchers(&request.selector)?;
    Ok(StreamsRequest { at, matchers, time })
}

/// The message for a [`TailRequest`].
pub(crate) fn tail_request(request: &TailRequest) -> proto::TailRequest {
    proto::TailRequest {
        tenant: request.tenant.to_string(),
        selector: selector(&request.matchers),
        capacity: u32::try_from(request.capacity).unwrap_or(u32::MAX),
        format_max: FORMAT,
        catch_up: match request.catch_up {
            CatchUp::Never => proto::CatchUp::Never,
            CatchUp::FromNow => proto::CatchUp::FromNow,
            CatchUp::FromBefore => proto::CatchUp::FromBefore,
        }
        .into(),
    }
}

/// Most batches that may wait for a reader in another process.
const TAIL_CAPACITY_MAX: u32 = 1 << 16;

/// Reads the message for a [`TailRequest`].
pub(crate) fn read_tail_request(request: &proto::TailRequest) -> Result<TailRequest, Status> {
    check_format(request.format_max)?;
    let capacity = usize::try_from(request.capacity.min(TAIL_CAPACITY_MAX)).unwrap_or(usize::MAX);
    let catch_up = match request.catch_up() {
        proto::CatchUp::Never => CatchUp::Never,
        proto::CatchUp::FromNow => CatchUp::FromNow,
        proto::CatchUp::FromBefore => CatchUp::FromBefore,
    };
    Ok(TailRequest { tenant: tenant(&request.tenant)?, matchers: matchers(&request.selector)?, capacity, catch_up })
}

fn unwritable(error: postcard::Error) -> Status {
    Status::internal(format!("the answer cannot be written: {error}"))
}

/// The message for a [`ScanReply`].
pub(crate) fn scan_reply(outcome: Result<ScanReply, OwnerError>) -> Result<proto::ScanReply, Status> {
    use proto::scan_reply::Outcome;
    let outcome = match outcome {
        Ok(ScanReply { partials, held }) => {
            let partials = body::encode(&partials).map_err(unwritable)?;
            Outcome::Answer(proto::ScanAnswer { held: sent_range(held), partials: Some(partials) })
        }
        Err(error) => Outcome::Error(sent_error(error)),
    };
    Ok(proto::ScanReply { outcome: Some(outcome) })
}

/// Reads the message for a [`ScanReply`]. Refuses partials of another query.
pub(crate) fn read_scan_reply(reply: proto::ScanReply, request: &ScanRequest) -> Result<ScanReply, OwnerError> {
    use proto::scan_reply::Outcome;
    match reply.outcome {
        None => Err(unreadable(BodyError::Missing)),
        Some(Outcome::Error(error)) => Err(read_error(error)),
        Some(Outcome::Answer(answer)) => {
            let partials: Vec<Partial> = body::decode(answer.partials.as_ref()).map_err(unreadable)?;
            let scans = request.query.scans();
            let fits = scans.len() == partials.len() && scans.iter().zip(&partials).all(|(s, p)| s.fits(p));
            if !fits {
                return Err(unreadable(BodyError::Inconsistent("result is that of another query")));
            }
            Ok(ScanReply { partials, held: offset_range(answer.held) })
        }
    }
}

/// The message for a [`StreamsReply`].
pub(crate) fn streams_reply(outcome: Result<StreamsReply, OwnerError>) -> Result<proto::StreamsReply, Status> {
    use proto::streams_reply::Outcome;
    let outcome = match outcome {
        Ok(StreamsReply { streams, held }) => {
            let streams = body::encode(&streams).map_err(unwritable)?;
            Outcome::Answer(proto::StreamsAnswer { held: sent_range(held), streams: Some(streams) })
        }
        Err(error) => Outcome::Error(sent_error(error)),
    };
    Ok(proto::StreamsReply { outcome: Some(outcome) })
}

/// Reads the message for a [`StreamsReply`].
pub(crate) fn read_streams_reply(reply: proto::StreamsReply) -> Result<StreamsReply, OwnerError> {
    use proto::streams_reply::Outcome;
    match reply.outcome {
        None => Err(unreadable(BodyError::Missing)),
        Some(Outcome::Error(error)) => Err(read_error(error)),
        Some(Outcome::Answer(answer)) => {
            let streams: Vec<StreamStat> = body::decode(answer.streams.as_ref()).map_err(unreadable)?;
            Ok(StreamsReply { streams, held: offset_range(answer.held) })
        }
    }
}

/// The message for a [`TailBatch`].
pub(crate) fn tail_batch(batch: &TailBatch) -> Result<proto::TailBatch, Status> {
    Ok(proto::TailBatch {
        partition: batch.partition.index(),
        offset: batch.offset.value(),
        rows: Some(body::encode(&Rows::from(&*batch.batch)).map_err(unwritable)?),
        replayed: batch.is_replayed,
    })
}

/// Reads the message for a [`TailBatch`].
pub(crate) fn read_tail_batch(batch: &proto::TailBatch) -> Result<TailBatch, BodyError> {
    let rows: Rows = body::decode(batch.rows.as_ref())?;
    Ok(TailBatch {
        partition: PartitionId::new(batch.partition),
        offset: Offset::new(batch.offset),
        batch: Arc::new(rows.try_into()?),
        is_replayed: batch.replayed,
    })
}

/// The message that lists what the owner holds.
pub(crate) fn held_reply(owner: &dyn Owner) -> proto::HeldReply {
    let held = |partition: PartitionId| {
        let held = owner.held(partition)?;
        Some(proto::Holding { partition: partition.index(), held: sent_range(held) })
    };
    proto::HeldReply { holdings: owner.partitions().into_iter().filter_map(held).collect() }
}

/// The message for an [`OwnerError`].
pub(crate) fn sent_error(error: OwnerError) -> proto::Error {
    let kind = match error {
        OwnerError::NotHeld { partition, held } => {
            Kind::NotHeld(proto::NotHeld { partition: partition.index(), held: sent_range(held) })
        }
        OwnerError::NotLeading { partition } => Kind::NotLeading(proto::NotLeading { partition: partition.index() }),
        OwnerError::Query(error) => {
            // If the error cannot be encoded, the reader still gets the text.
            Kind::Query(proto::QueryFailed { error: body::encode(&error).ok(), text: error.to_string() })
        }
        OwnerError::Deadline { partition, consumed, wanted } => Kind::Deadline(proto::Deadline {
            partition: partition.index(),
            consumed: consumed.value(),
            wanted: wanted.value(),
        }),
        OwnerError::Unavailable(text) => Kind::Unavailable(text),
        OwnerError::Stopped(text) => Kind::Stopped(text),
        OwnerError::Removed { partition, range } => {
            Kind::Removed(proto::Removed { partition: partition.index(), range: sent_range(range) })
        }
    };
    proto::Error { kind: Some(kind) }
}

/// Reads the message for an [`OwnerError`].
pub(crate) fn read_error(error: proto::Error) -> OwnerError {
    let partition = PartitionId::new;
    match error.kind {
        None => OwnerError::Unavailable("an error of a kind that this program does not know".to_owned()),
        Some(Kind::NotHeld(e)) => OwnerError::NotHeld { partition: partition(e.partition), held: offset_range(e.held) },
        Some(Kind::NotLeading(e)) => OwnerError::NotLeading { partition: partition(e.partition) },
        Some(Kind::Query(e)) => {
            let known = body::decode::<QueryError>(e.error.as_ref());
            OwnerError::Query(known.unwrap_or(QueryError::Evaluation(e.text)))
        }
        Some(Kind::Deadline(e)) => OwnerError::Deadline {
            partition: partition(e.partition),
            consumed: Offset::new(e.consumed),
            wanted: Offset::new(e.wanted),
        },
        Some(Kind::Unavailable(text)) => OwnerError::Unavailable(text),
        Some(Kind::Stopped(text)) => OwnerError::Stopped(text),
        Some(Kind::Removed(e)) => {
            OwnerError::Removed { partition: partition(e.partition), range: offset_range(e.range) }
        }
    }
}

fn unreadable(error: BodyError) -> OwnerError {
    OwnerError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests;
