//! The consumer with the real builder, over a log and a store in memory.

mod chaos;
mod directed;
mod exactly_once;
mod fleet;
mod handoff;
mod world;
