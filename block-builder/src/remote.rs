//! Builders in processes of their own: they make blocks from the log, so that owners keep their processors for reads.
//!
//! ```text
//! owner: cut [F, e) ──Build(partition, F, e)──▶ builder: log ─▶ segment ─▶ block ─▶ PUT
//!        head CAS  ◀───────── entry ──────────┘
//! ```
//!
//! Nothing depends on them. When there is none, or it fails, is busy or slow, the owner makes the block as if there were no
//! builders; what a builder had put by then is an orphan. When it made another block than the owner would, both have read
//! the same records of the same log, and one of them read wrongly: the owner reads them again and lists what comes of that.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use catalogue::BlockEntry;
use control::{Control, Role};
use cut::{Cut, CutReason};
use model::{Offset, OffsetRange, PartitionId};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::assemble::assemble;
use crate::publish::Builder;

/// The RPC, as generated from `schemas/proto/build.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod proto {
    tonic::include_proto!("millrace.build.v1");
}

use proto::builder_client::BuilderClient;
use proto::builder_server::{Builder as BuildRpc, BuilderServer};
use proto::{BuildReply, BuildRequest};

/// A builder that failed is not asked again for this long.
const SHUNNED_FOR: Duration = Duration::from_secs(10);
/// A connection must be there in this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A builder that is stopped or gone is noticed after about twice this.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// The builders of an installation, as an owner sees them.
pub(crate) struct Remotes {
    control: Arc<Control>,
    timeout: Duration,
    turn: AtomicUsize,
    known: Mutex<HashMap<String, Known>>,
}

struct Known {
    channel: Channel,
    shunned_until: Option<Instant>,
}

/// Why there is no block from a builder.
#[derive(Debug)]
pub(crate) enum NotBuilt {
    /// It failed, was busy, or slow.
    Failed(String),
    /// It made another block than the owner's cut would make.
    Differs {
        /// What it holds.
        made: Totals,
        /// Which builder.
        address: String,
    },
}

/// What a cut holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    rows: u64,
    line_bytes: u64,
    quarantined: u64,
}

impl Totals {
    pub(crate) fn of(cut: &Cut) -> Self {
        let mut totals = Self::default();
        for (_, tenant) in cut.segment.tenants() {
            for stream in tenant.streams() {
                for slice in stream.slices().iter().filter(|slice| cut.range.contains(slice.offset)) {
                    totals.rows += slice.rows.len() as u64;
                    totals.line_bytes += slice.rows.line_bytes();
                }
            }
        }
        let quarantined = cut.segment.quarantined();
        totals.quarantined = quarantined.iter().filter(|record| cut.range.contains(record.offset)).count() as u64;
        totals
    }

    fn listed(entry: &BlockEntry) -> Self {
        Self { rows: entry.rows, line_bytes: entry.line_bytes, quarantined: entry.quarantined }
    }
}

impl Remotes {
    pub(crate) fn new(control: Arc<Control>, timeout: Duration) -> Self {
        Self { control, timeout, turn: AtomicUsize::new(0), known: Mutex::default() }
    }

    /// The block of a cut, made and uploaded by some builder. None when there is no builder.
    pub(crate) async fn build(&self, log_id: &str, cut: &Cut) -> Option<Result<BlockEntry, NotBuilt>> {
        let (address, channel) = self.choose()?;
        let outcome = tokio::time::timeout(self.timeout, ask(channel, log_id, cut)).await;
        let outcome =
            outcome.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no block in {:?}", self.timeout))));
        Some(match outcome {
            Ok(entry) if entry.range == cut.range && Totals::listed(&entry) == Totals::of(cut) => Ok(entry),
            Ok(entry) => Err(NotBuilt::Differs { made: Totals::listed(&entry), address }),
            Err(status) => {
                // A busy builder is a good one.
                if status.code() != tonic::Code::ResourceExhausted {
                    self.shun(&address);
                }
                Err(NotBuilt::Failed(format!("builder at {address}: {}", status.message())))
            }
        })
    }

    /// The next builder in turn that is not shunned.
    fn choose(&self) -> Option<(String, Channel)> {
        let view = self.control.view();
        let present: Vec<&str> =
            view.with_role(Role::Builder).filter(|p| !p.leaving).filter_map(|p| p.rpc.as_deref()).collect();
        let mut known = self.known.lock();
        known.retain(|address, _| present.contains(&address.as_str()));
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        for i in 0..present.len() {
            let address = present[(turn + i) % present.len()];
            if let Some(found) = known.get(address) {
                if found.shunned_until.is_none_or(|until| Instant::now() >= until) {
                    return Some((address.to_owned(), found.channel.clone()));
                }
                continue;
            }
            let Ok(endpoint) = Endpoint::from_shared(format!("http://{address}")) else { continue };
            let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).http2_keep_alive_interval(KEEP_ALIVE);
            let channel = endpoint.keep_alive_timeout(KEEP_ALIVE).keep_alive_while_idle(true).connect_lazy();
            known.insert(address.to_owned(), Known { channel: channel.clone(), shunned_until: None });
            return Some((address.to_owned(), channel));
        }
        None
    }

    fn shun(&self, address: &str) {
        if let Some(known) = self.known.lock().get_mut(address) {
            known.shunned_until = Some(Instant::now() + SHUNNED_FOR);
        }
    }
}

async fn ask(channel: Channel, log_id: &str, cut: &Cut) -> Result<BlockEntry, Status> {
    let OffsetRange { start, end } = cut.range;
    let request = BuildRequest {
        log_id: log_id.to_owned(),
        partition: cut.partition.index(),
        start: start.value(),
        end: end.value(),
    };
    let reply = BuilderClient::new(channel).max_decoding_message_size(ENTRY_BYTES_MAX).build(request).await?;
    serde_json::from_slice(&reply.into_inner().entry)
        .map_err(|error| Status::internal(format!("its answer cannot be read: {error}")))
}

/// An entry names each tenant of a block.
const ENTRY_BYTES_MAX: usize = 64 << 20;

/// Serves the build RPC.
pub(crate) struct BuildService {
    builder: Arc<Builder>,
    permits: Arc<Semaphore>,
}

/// The routes of the build RPC over `builder`, which makes at most `builds_max` blocks at once.
pub(crate) fn router(builder: Arc<Builder>, builds_max: usize) -> axum::Router {
    let service = BuildService { builder, permits: Arc::new(Semaphore::new(builds_max)) };
    axum::Router::new().route_service("/millrace.build.v1.Builder/{method}", BuilderServer::new(service))
}

#[tonic::async_trait]
impl BuildRpc for BuildService {
    async fn build(&self, request: Request<BuildRequest>) -> Result<Response<BuildReply>, Status> {
        let BuildRequest { log_id, partition, start, end } = request.into_inner();
        let ours = self.builder.log_id();
        if log_id != ours {
            return Err(Status::failed_precondition(format!("this builder works on log {ours:?}, not {log_id:?}")));
        }
        let range = OffsetRange::new(Offset::new(start), Offset::new(end));
        if start < 0 || range.is_empty() {
            return Err(Status::invalid_argument(format!("{range} is no cut")));
        }
        let Ok(_permit) = self.permits.clone().try_acquire_owned() else {
            return Err(Status::resource_exhausted("as many blocks as may be are being made"));
        };
        let partition = PartitionId::new(partition);
        let unavailable = |error: &dyn std::fmt::Display| Status::unavailable(error.to_string());
        let segment = assemble(self.builder.log(), partition, range).await.map_err(|error| unavailable(&error))?;
        let opened = self.builder.now();
        let cut = Cut { partition, range, segment, reason: CutReason::Full, opened };
        let entry = self.builder.upload(&cut).await.map_err(|error| unavailable(&error))?;
        tracing::info!(%partition, %range, rows = entry.rows, block_bytes = entry.bytes, "made a block for an owner");
        let entry = serde_json::to_vec(&entry).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(BuildReply { entry }))
    }
}
