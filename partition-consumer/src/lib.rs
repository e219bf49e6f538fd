//! Log to in-memory streams to recent answers and cuts.
