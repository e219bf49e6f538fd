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
