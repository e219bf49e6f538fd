//! Metrics, tracing, admin endpoints and shutdown.
