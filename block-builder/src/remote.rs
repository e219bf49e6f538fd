//! Builders in processes of their own, as an owner sees them. They make blocks from the log, so that owners keep their
//! processors for reads.
//!
//! ```text
//! owner: cut [F, e) ──Build(partition, F, e)──▶ builder: log ─▶ segment ─▶ block ─▶ PUT
//!        head CAS  ◀───────── entry ──────────┘
//! ```
//!
//! Nothing depends on them. If there is no builder, or the one that is asked fails, is busy or slow, the owner makes the
//! block itself; a block that the builder has uploaded by then is an orphan. If a builder's block differs from what the
//! owner would make, both have read the same records of the same log, and one of them read wrongly: the owner reads the
//! records again and lists the result of that.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use catalogue::BlockEntry;
use control::{Control, Role};
use cut::Cut;
use model::OffsetRange;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::proto::BuildRequest;
use crate::proto::builder_client::BuilderClient;

/// A builder that failed is not asked again for this long.
const SHUNNED_FOR: Duration = Duration::from_secs(10);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A builder that is paused or gone is noticed after about twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// The largest answer. An entry names each tenant of a block.
const ENTRY_BYTES_MAX: usize = 64 << 20;

/// The builder processes of an installation.
pub(crate) struct RemoteBuilders {
    control: Arc<Control>,
    timeout: Duration,
    turn: AtomicUsize,
    by_address: Mutex<HashMap<String, RemoteBuilder>>,
}

struct RemoteBuilder {
    channel: Channel,
    shunned_until: Option<Instant>,
}

/// Why there is no block from a builder.
#[derive(Debug)]
pub(crate) enum NotBuilt {
    /// The builder failed, was busy, or slow.
    Failed(String),
    /// The block differs from what the owner's cut would make.
    Differs {
        /// The totals of the builder's block.
        made: CutTotals,
        /// The builder.
        address: String,
    },
}

/// Totals of the rows in a cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CutTotals {
    rows: u64,
    line_bytes: u64,
    quarantined: u64,
}

impl CutTotals {
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

impl RemoteBuilders {
    pub(crate) fn new(control: Arc<Control>, timeout: Duration) -> Self {
        Self { control, timeout, turn: AtomicUsize::new(0), by_address: Mutex::default() }
    }

    /// Has a builder make and upload the block of a cut. `None` if there is no builder.
    pub(crate) async fn build(&self, log_id: &str, cut: &Cut) -> Option<Result<BlockEntry, NotBuilt>> {
        let (address, channel) = self.choose()?;
        let outcome = tokio::time::timeout(self.timeout, ask(channel, log_id, cut)).await;
        let outcome =
            outcome.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no block in {:?}", self.timeout))));
        Some(match outcome {
            Ok(entry) if entry.range == cut.range && CutTotals::listed(&entry) == CutTotals::of(cut) => Ok(entry),
            Ok(entry) => Err(NotBuilt::Differs { made: CutTotals::listed(&entry), address }),
            Err(status) => {
                // Being busy is no failure: the builder is asked again.
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
        let mut by_address = self.by_address.lock();
        by_address.retain(|address, _| present.contains(&address.as_str()));
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        for i in 0..present.len() {
            let address = present[(turn + i) % present.len()];
            if let Some(builder) = by_address.get(address) {
                if builder.shunned_until.is_none_or(|until| Instant::now() >= until) {
                    return Some((address.to_owned(), builder.channel.clone()));
                }
                continue;
            }
            let Ok(endpoint) = Endpoint::from_shared(format!("http://{address}")) else { continue };
            let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).http2_keep_alive_interval(KEEP_ALIVE);
            let channel = endpoint.keep_alive_timeout(KEEP_ALIVE).keep_alive_while_idle(true).connect_lazy();
            by_address.insert(address.to_owned(), RemoteBuilder { channel: channel.clone(), shunned_until: None });
            return Some((address.to_owned(), channel));
        }
        None
    }

    fn shun(&self, address: &str) {
        if let Some(builder) = self.by_address.lock().get_mut(address) {
            builder.shunned_until = Some(Instant::now() + SHUNNED_FOR);
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
