//! What follows from a tenant's limits, computed once and used until they change.

use std::sync::Arc;

use limits::Limits;

use crate::bucket::Rate;
use crate::level::LevelRules;
use crate::otlp_rules::OtlpRules;

/// The limits of a tenant and what is compiled from them.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) limits: Arc<Limits>,
    pub(crate) otlp: OtlpRules,
    /// `None` when no level is to be found.
    pub(crate) levels: Option<LevelRules>,
    /// What one stream may bring; `None` when there is no limit.
    pub(crate) stream_rate: Option<Rate>,
}

impl Rules {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        Self {
            otlp: OtlpRules::new(&limits),
            levels: LevelRules::new(&limits),
            stream_rate: Rate::of_stream(&limits),
            limits,
        }
    }
}
