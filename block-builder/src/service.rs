//! The build RPC: makes blocks for owners in other processes.

use std::sync::Arc;

use cut::{Cut, CutReason};
use model::{Offset, OffsetRange, PartitionId};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use crate::assemble::assemble;
use crate::proto::builder_server::{Builder as BuildRpc, BuilderServer};
use crate::proto::{BuildReply, BuildRequest};
use crate::upload::Uploader;

/// Serves the build RPC.
struct BuildService {
    uploader: Arc<Uploader>,
    /// One for each block that may be in the making, from reading the log to the upload. An owner that gets none makes
    /// the block itself.
    admitted: Arc<Semaphore>,
}

/// The routes of the build RPC. At most `builds_max` blocks are in the making at once.
pub(crate) fn router(uploader: Arc<Uploader>, builds_max: usize) -> axum::Router {
    let service = BuildService { uploader, admitted: Arc::new(Semaphore::new(builds_max)) };
    axum::Router::new().route_service("/millrace.build.v1.Builder/{method}", BuilderServer::new(service))
}

#[tonic::async_trait]
impl BuildRpc for BuildService {
    async fn build(&self, request: Request<BuildRequest>) -> Result<Response<BuildReply>, Status> {
        let BuildRequest { log_id, partition, start, end } = request.into_inner();
        let components = &self.uploader.components;
        let ours = components.heads.log_id();
        if log_id != ours {
            return Err(Status::failed_precondition(format!("this builder works on log {ours:?}, not {log_id:?}")));
        }
        let range = OffsetRange::new(Offset::new(start), Offset::new(end));
        if start < 0 || range.is_empty() {
            return Err(Status::invalid_argument(format!("{range} is not a range of a cut")));
        }
        let Ok(_admitted) = self.admitted.clone().try_acquire_owned() else {
            return Err(Status::resource_exhausted("this builder makes as many blocks as it may; try another one"));
        };
        let partition = PartitionId::new(partition);
        let unavailable = |error: &dyn std::fmt::Display| Status::unavailable(error.to_string());
        let segment = assemble(&*components.log, partition, range).await.map_err(|error| unavailable(&error))?;
        let cut = Cut { partition, range, segment, reason: CutReason::Full, opened: components.clock.now() };
        let entry = self.uploader.upload(&cut).await.map_err(|error| unavailable(&error))?;
        tracing::info!(%partition, %range, rows = entry.rows, block_bytes = entry.bytes, "made a block for an owner");
        let entry = serde_json::to_vec(&entry).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(BuildReply { entry }))
    }
}
