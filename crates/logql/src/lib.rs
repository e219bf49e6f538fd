//! LogQL as a library over batches of columns; no I/O.
//!
//! ```text
//! text ─parse─▶ Expr ─Query::prepare─▶ Scan(s) ─accept(Batch)*─▶ Partial(s) ─merge─▶ finish ─▶ Answer
//! ```
//!
//! [`parse`] covers the whole language and its static checks. [`Query::prepare`] plans: it says what each scan needs
//! ([`Needs`]), and refuses what is not evaluated yet ([`QueryError::NotEvaluated`]). The same [`Scan`] runs on an
//! owner's memory and on pages of blocks; [`Partial`]s merge in any order, and can be sent.

#![forbid(unsafe_code)]

pub mod ast;
mod check;
mod duration;
mod error;
mod fold;
mod format;
mod ip;
mod jsonpath;
mod lexer;
mod linepattern;
mod names;
mod number;
mod parse;
mod print;
mod size;
mod template;

pub use error::ParseError;
pub use format::format_query;
pub use parse::{parse, parse_log, parse_matchers, reject_empty_compatible};
