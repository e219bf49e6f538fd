//! Arithmetic and comparison of two numbers.

use crate::ast::{BinaryOp, CompareOp};

/// Whether the comparison holds. Floats compare by the rules of IEEE 754.
pub(crate) fn compare<T: PartialOrd>(op: CompareOp, a: T, b: T) -> bool {
    match op {
        CompareOp::Equal => a == b,
        CompareOp::NotEqual => a != b,
        CompareOp::Greater => a > b,
        CompareOp::GreaterOrEqual => a >= b,
        CompareOp::Less => a < b,
        CompareOp::LessOrEqual => a <= b,
    }
}

/// Returns the value of an arithmetic operation, or `None` for other operations. Division and modulo by zero give NaN.
pub(crate) fn arithmetic(op: BinaryOp, a: f64, b: f64) -> Option<f64> {
    Some(match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div if b == 0.0 => f64::NAN,
        BinaryOp::Div => a / b,
        BinaryOp::Mod if b == 0.0 => f64::NAN,
        BinaryOp::Mod => a % b,
        BinaryOp::Pow => a.powf(b),
        BinaryOp::Or | BinaryOp::And | BinaryOp::Unless | BinaryOp::Compare(_) => return None,
    })
}

/// Evaluates an operation on two literals. Comparisons yield 1 or 0. Returns `None` for set operations.
pub(crate) fn literals(op: BinaryOp, a: f64, b: f64) -> Option<f64> {
    match op {
        BinaryOp::Compare(op) => Some(if compare(op, a, b) { 1.0 } else { 0.0 }),
        op => arithmetic(op, a, b),
    }
}

/// Go's `%f`: six decimals.
pub(crate) fn format_f(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        format!("{value:.6}")
    }
}
