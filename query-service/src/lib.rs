//! Loki's HTTP API: plan, owners and blocks, merged answer.
