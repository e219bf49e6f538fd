//! The consumer with the real builder, over a log and a store in memory.

mod directed;
mod exactly_once;
mod world;
