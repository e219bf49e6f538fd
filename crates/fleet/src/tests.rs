//! Fleets of owners behind real servers, over a control topic in memory.

mod asking;
mod tails;
mod world;
