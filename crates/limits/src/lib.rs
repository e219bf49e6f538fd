//! Per-tenant limits under Loki's names, the overrides file and its reload.
