//! The names of operators and functions in query text.

use crate::ast::{BinaryOp, CompareOp, Conversion, LineOp, RangeOp, VectorOp};

const RANGE_OPS: [(&str, RangeOp); 15] = [
    ("rate", RangeOp::Rate),
    ("rate_counter", RangeOp::RateCounter),
    ("count_over_time", RangeOp::CountOverTime),
    ("bytes_rate", RangeOp::BytesRate),
    ("bytes_over_time", RangeOp::BytesOverTime),
    ("avg_over_time", RangeOp::AvgOverTime),
    ("sum_over_time", RangeOp::SumOverTime),
    ("min_over_time", RangeOp::MinOverTime),
    ("max_over_time", RangeOp::MaxOverTime),
    ("stdvar_over_time", RangeOp::StdvarOverTime),
    ("stddev_over_time", RangeOp::StddevOverTime),
    ("quantile_over_time", RangeOp::QuantileOverTime),
    ("first_over_time", RangeOp::FirstOverTime),
    ("last_over_time", RangeOp::LastOverTime),
    ("absent_over_time", RangeOp::AbsentOverTime),
];

const VECTOR_OPS: [(&str, VectorOp); 12] = [
    ("sum", VectorOp::Sum),
    ("avg", VectorOp::Avg),
    ("max", VectorOp::Max),
    ("min", VectorOp::Min),
    ("count", VectorOp::Count),
    ("stddev", VectorOp::Stddev),
    ("stdvar", VectorOp::Stdvar),
    ("bottomk", VectorOp::Bottomk),
    ("topk", VectorOp::Topk),
    ("sort", VectorOp::Sort),
    ("sort_desc", VectorOp::SortDesc),
    ("approx_topk", VectorOp::ApproxTopk),
];

impl RangeOp {
    pub(crate) fn named(name: &str) -> Option<Self> {
        RANGE_OPS.iter().find(|(n, _)| *n == name).map(|(_, op)| *op)
    }

    /// The function's name.
    pub fn as_str(self) -> &'static str {
        RANGE_OPS.iter().find(|(_, op)| *op == self).map_or("", |(name, _)| name)
    }
}

impl VectorOp {
    pub(crate) fn named(name: &str) -> Option<Self> {
        VECTOR_OPS.iter().find(|(n, _)| *n == name).map(|(_, op)| *op)
    }

    /// The function's name.
    pub fn as_str(self) -> &'static str {
        VECTOR_OPS.iter().find(|(_, op)| *op == self).map_or("", |(name, _)| name)
    }
}

impl CompareOp {
    /// The operator as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
        }
    }
}

impl BinaryOp {
    /// The operator as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Or => "or",
            Self::And => "and",
            Self::Unless => "unless",
            Self::Compare(op) => op.as_str(),
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
        }
    }

    /// True for `or`, `and` and `unless`.
    pub fn is_set(self) -> bool {
        matches!(self, Self::Or | Self::And | Self::Unless)
    }

    /// Returns how tightly it binds, from 1 (`or`) to 6 (`^`).
    pub(crate) fn binds(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And | Self::Unless => 2,
            Self::Compare(_) => 3,
            Self::Add | Self::Sub => 4,
            Self::Mul | Self::Div | Self::Mod => 5,
            Self::Pow => 6,
        }
    }
}

impl LineOp {
    /// The operator as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Contains => "|=",
            Self::NotContains => "!=",
            Self::Regex => "|~",
            Self::NotRegex => "!~",
            Self::Pattern => "|>",
            Self::NotPattern => "!>",
        }
    }
}

impl Conversion {
    /// Returns the function that selects this conversion, or `None` for plain numbers.
    pub fn function(self) -> Option<&'static str> {
        match self {
            Self::Number => None,
            Self::Duration => Some("duration"),
            Self::DurationSeconds => Some("duration_seconds"),
            Self::Bytes => Some("bytes"),
        }
    }
}
