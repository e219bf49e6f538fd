//! `query` and `query_range`.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use logql::ast::Expr;

use crate::{
    encode::QueryAnswer,
    error::Error,
    request::Request,
    respond,
    service::{QueryOutcome, QueryRequest, QueryService, QuerySpan},
};

/// An answer with more entries or samples than this is encoded on processors, off the async threads.
const INLINE_ENTRIES_MAX: u64 = 500;

/// `/loki/api/v1/query_range`
pub(crate) async fn range(State(service): State<Arc<QueryService>>, request: Request) -> Result<Response, Error> {
    let params = &request.params;
    let text = params.get("query").to_owned();
    // A wrong query is refused before wrong parameters are.
    let expr = logql::parse(&text)?;
    let bounds = params.bounds(service.clock.now())?;
    // Checked here because Loki checks in this order.
    params.limit()?;
    params.direction()?;
    bounds.check_order()?;
    let step = params.step(bounds)?;
    bounds.check_points(step)?;
    let interval = params.interval()?;
    let span = QuerySpan::Range { bounds, step, interval };
    answer(&service, &request, (text, expr), span).await
}

/// `/loki/api/v1/query`
pub(crate) async fn instant(State(service): State<Arc<QueryService>>, request: Request) -> Result<Response, Error> {
    let params = &request.params;
    let text = params.get("query").to_owned();
    let expr = logql::parse(&text)?;
    if let Expr::Log(_) = expr {
        return Err(Error::bad(
            "log queries are not supported as an instant query type, please change your query to a range query type",
        ));
    }
    let time = params.time("time", service.clock.now())?;
    let span = QuerySpan::Instant(time);
    answer(&service, &request, (text, expr), span).await
}

async fn answer(
    service: &QueryService,
    request: &Request,
    (text, expr): (String, Expr),
    span: QuerySpan,
) -> Result<Response, Error> {
    let query = QueryRequest {
        text,
        expr,
        span,
        limit: request.params.limit()?,
        direction: request.params.direction()?,
        is_drilldown: request.is_drilldown(),
        goal: request.goal.clone(),
    };
    let QueryOutcome { answer, stats, warnings } = service.query_all(&request.tenants, &query).await?;
    let (direction, flags) = (query.direction, request.flags.clone());
    let encode =
        move || QueryAnswer { answer: &answer, direction, flags: &flags, warnings: &warnings, stats }.to_bytes();
    let body =
        if stats.entries_returned > INLINE_ENTRIES_MAX { service.processors().run(encode).await? } else { encode() };
    Ok(respond::json(body))
}
