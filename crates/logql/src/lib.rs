//! LogQL as a library over batches of columns. It does no I/O.
//!
//! ```text
//! text ─parse─▶ Expr ─Query::prepare─▶ Scan(s) ─accept(Batch)*─▶ Partial(s) ─merge─▶ finish ─▶ Answer
//! ```
//!
//! [`parse`] covers the whole language and its static checks. [`Query::prepare`] plans: it determines what each scan
//! needs ([`model::Needs`]), and rejects what is not evaluated yet ([`QueryError::NotEvaluated`]). The same [`Scan`]
//! runs on an owner's memory and on pages of blocks; [`Partial`]s merge in any order, and can be sent.

#![forbid(unsafe_code)]

mod answer;
pub mod ast;
mod binary;
mod cells;
mod check;
mod duration;
mod entries;
mod error;
mod eval;
mod exact;
mod fold;
mod format;
mod grid;
mod ip;
mod jsonpath;
mod lexer;
mod linepattern;
mod names;
mod number;
mod params;
mod parse;
mod partial;
mod pipeline;
mod plan;
mod print;
mod query;
mod samples;
mod scan;
mod scan_id;
mod selectors;
mod size;
mod states;
mod statistics;
mod stats;
mod steps;
mod template;
mod tracks;
mod vector;

pub use answer::{Answer, ResultEntry, ResultStream, Sample, Series, format_value};
pub use check::reject_empty_compatible;
pub use error::{ParseError, QueryError};
pub use format::format_query;
pub use params::{Direction, Params};
pub use parse::{parse, parse_log, parse_matchers};
pub use partial::Partial;
pub use query::{Query, QueryKind};
pub use scan::Scan;
pub use scan_id::ScanId;
pub use stats::ScanStats;
