//! HTTP in, validated, limited, routed records in the log.
