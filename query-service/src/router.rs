//! The paths of the API and their handlers.

use std::sync::Arc;

use axum::{
    Router,
    handler::Handler,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{MethodRouter, any, get, post},
};
use http::StatusCode;

use crate::{
    error::{Error, text_response},
    gzip::{self, Gzip},
    labels, misc, query,
    service::QueryService,
    tail, volume,
};

type Routes = MethodRouter<Arc<QueryService>>;

impl QueryService {
    /// All endpoints that read, and `POST /flush`. There is no fallback for unknown paths, so that the caller can merge the
    /// routers of several services and add [`crate::not_found`].
    pub fn router(self: &Arc<Self>) -> Router {
        let gzip = Gzip { bytes_min: self.config().gzip_bytes_min, processors: self.processors().clone() };
        let api = Router::new()
            .route("/query", read(query::instant))
            .route("/query_range", read(query::range))
            .route("/labels", read(labels::names))
            .route("/label", read(labels::names))
            .route("/label/{name}/values", read(labels::values))
            .route("/series", read(labels::series))
            .route("/detected_labels", read(labels::detected))
            .route("/index/stats", read(volume::stats))
            .route("/index/volume", read(volume::instant))
            .route("/index/volume_range", read(volume::range))
            .route("/format_query", read(misc::format_query))
            .route("/drilldown-limits", get(misc::drilldown_limits))
            .route("/status/buildinfo", get(misc::build_info))
            .route("/tail", get(tail::open))
            // Grafana hides features whose endpoint has status 404.
            .route("/patterns", any(patterns))
            .route("/index/shards", not_implemented("index/shards"))
            .route("/detected_fields", not_implemented("detected_fields"))
            .route("/detected_field/{name}/values", not_implemented("detected_field values"))
            .route("/delete", not_implemented("log deletion"))
            .route("/rules", not_implemented("the rules API"))
            .route("/rules/{*rest}", not_implemented("the rules API"));
        Router::new()
            .nest("/loki/api/v1", api)
            .route("/prometheus/api/v1/rules", not_implemented("the rules API"))
            .route("/prometheus/api/v1/alerts", not_implemented("the alerts API"))
            .route("/config/tenant/v1/limits", get(misc::tenant_limits))
            .layer(from_fn_with_state(gzip, gzip::compress))
            .route("/flush", post(misc::flush))
            .with_state(self.clone())
    }
}

/// An endpoint that reads. It takes GET, and POST with a form.
fn read<H, T>(handler: H) -> Routes
where
    H: Handler<T, Arc<QueryService>>,
    T: 'static,
{
    get(handler.clone()).post(handler)
}

async fn patterns() -> Response {
    text_response(StatusCode::NOT_FOUND, "pattern detection is not implemented yet".to_owned())
}

fn not_implemented(what: &'static str) -> Routes {
    any(move || async move { Error::NotImplemented(what.to_owned()).into_response() })
}
