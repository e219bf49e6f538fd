//! Sums of floats that do not depend on the order of the summands.
//!
//! Partials merge in any order, so a running sum would round differently from one run to the next. An [`ExactSum`]
//! keeps rounding errors as further terms (Shewchuk's expansions), and rounds once, at the end.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Values of at least this magnitude are scaled down before they are summed, so that their sum cannot overflow.
const LARGE: f64 = f64::from_bits((960 + 1023) << 52);
/// The scale of large values, a power of two: multiplying by it is exact.
const SCALE: f64 = f64::from_bits((64 + 1023) << 52);
/// An upper bound for the number of terms. Terms do not overlap, so their exponents differ by at least 53.
const TERMS_MAX: usize = 64;

/// The exact sum of any number of finite values, and the plain sum of infinities and NaN.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ExactSum {
    /// The greatest term.
    head: f64,
    /// The other terms, by ascending magnitude. Sums of whole numbers need none.
    rest: Vec<f64>,
    /// The sum of infinities and NaN; 0 if there are none.
    special: f64,
    /// The sum of values beyond [`LARGE`], divided by [`SCALE`].
    large: Option<Box<ExactSum>>,
}

/// Returns `a + b` rounded, and the rounding error.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let (a, b) = if a.abs() < b.abs() { (b, a) } else { (a, b) };
    let sum = a + b;
    (sum, b - (sum - a))
}

/// Returns `a * b` rounded, and the rounding error.
fn two_product(a: f64, b: f64) -> (f64, f64) {
    let product = a * b;
    if product.is_finite() { (product, a.mul_add(b, -product)) } else { (product, 0.0) }
}

impl ExactSum {
    /// Adds a value.
    pub(crate) fn add(&mut self, value: f64) {
        if !value.is_finite() {
            self.special += value;
        } else if value.abs() >= LARGE {
            self.large.get_or_insert_default().add_term(value / SCALE);
        } else {
            self.add_term(value);
        }
    }

    /// Adds the product of two values.
    pub(crate) fn add_product(&mut self, a: f64, b: f64) {
        let (product, cut_off) = two_product(a, b);
        self.add(product);
        self.add(cut_off);
    }

    fn add_term(&mut self, value: f64) {
        let mut carry = value;
        let mut kept = 0;
        for i in 0..self.rest.len() {
            let (sum, cut_off) = two_sum(carry, self.rest[i]);
            if cut_off != 0.0 {
                self.rest[kept] = cut_off;
                kept += 1;
            }
            carry = sum;
        }
        self.rest.truncate(kept);
        let (sum, cut_off) = two_sum(carry, self.head);
        if cut_off != 0.0 {
            self.rest.push(cut_off);
        }
        self.head = sum;
    }

    /// Adds another sum.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.add_term(other.head);
        other.rest.iter().for_each(|term| self.add_term(*term));
        self.special += other.special;
        if let Some(large) = &other.large {
            self.large.get_or_insert_default().merge(large);
        }
    }

    /// Returns the sum, rounded to the nearest float.
    pub(crate) fn total(&self) -> f64 {
        self.divided(1.0)
    }

    /// Returns the sum divided by `count`. The result is finite if the quotient is, even if the sum is not.
    pub(crate) fn divided(&self, count: f64) -> f64 {
        if self.special != 0.0 {
            return self.special;
        }
        let sum = self.rounded() / count;
        self.large.as_ref().map_or(sum, |large| large.rounded() / count * SCALE + sum)
    }

    /// Whether infinities or NaN were added.
    pub(crate) fn is_special(&self) -> bool {
        self.special != 0.0
    }

    fn rounded(&self) -> f64 {
        let mut terms = self.rest.iter().rev().copied();
        let mut sum = self.head;
        while let Some(term) = terms.next() {
            let (rounded, cut_off) = two_sum(sum, term);
            sum = rounded;
            if cut_off == 0.0 {
                continue;
            }
            // The sum is exactly between two floats, so the smaller terms decide.
            if terms.next().is_some_and(|below| below != 0.0 && (below > 0.0) == (cut_off > 0.0)) {
                let twice = cut_off * 2.0;
                let next = sum + twice;
                if next - sum == twice {
                    sum = next;
                }
            }
            break;
        }
        sum
    }

    /// Returns `count` times this sum, minus the square of `other`.
    pub(crate) fn times_minus_square(&self, count: f64, other: &Self) -> f64 {
        let mut result = Self::default();
        self.terms().for_each(|term| result.add_product(term, count));
        for a in other.terms() {
            other.terms().for_each(|b| result.add_product(-a, b));
        }
        result.total()
    }

    fn terms(&self) -> impl Iterator<Item = f64> {
        let large = self.large.iter().flat_map(|large| large.rest.iter().chain([&large.head]).map(|t| t * SCALE));
        self.rest.iter().chain([&self.head]).copied().chain(large)
    }

    /// Whether a received sum is valid.
    pub(crate) fn fits(&self) -> bool {
        let are_terms = self.rest.iter().chain([&self.head]).all(|term| term.is_finite());
        let special_fits = self.special == 0.0 || !self.special.is_finite();
        let large_fits = self.large.as_ref().is_none_or(|large| large.fits());
        are_terms && self.rest.len() <= TERMS_MAX && special_fits && large_fits
    }
}

/// The bits of all numbers, because not every serialization format supports NaN.
#[derive(Serialize, Deserialize)]
struct SentSum {
    terms: Vec<u64>,
    special: u64,
    /// Terms of the scaled sum of large values; empty if there are none.
    large: Vec<u64>,
}

fn sent_terms(sum: &ExactSum) -> Vec<u64> {
    sum.rest.iter().chain([&sum.head]).map(|term| term.to_bits()).collect()
}

fn read_terms(terms: Vec<u64>) -> Option<ExactSum> {
    let mut rest: Vec<f64> = terms.into_iter().map(f64::from_bits).collect();
    let head = rest.pop()?;
    Some(ExactSum { head, rest, ..ExactSum::default() })
}

impl Serialize for ExactSum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let large = self.large.as_ref().map(|large| sent_terms(large)).unwrap_or_default();
        SentSum { terms: sent_terms(self), special: self.special.to_bits(), large }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ExactSum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let sent = SentSum::deserialize(deserializer)?;
        let sum = read_terms(sent.terms).ok_or_else(|| D::Error::custom("a sum without terms"))?;
        Ok(ExactSum { special: f64::from_bits(sent.special), large: read_terms(sent.large).map(Box::new), ..sum })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(values: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        values.iter().for_each(|v| sum.add(*v));
        sum
    }

    #[test]
    fn totals() {
        const INF: f64 = f64::INFINITY;
        let check = |values: &[f64], expected: f64, mean: f64| {
            let sum = sum(values);
            let same = |found: f64, expected: f64| found == expected || (found.is_nan() && expected.is_nan());
            assert!(same(sum.total(), expected), "{values:?}: {} is not {expected}", sum.total());
            let found = sum.divided(values.len().max(1) as f64);
            assert!(same(found, mean), "{values:?}: {found} is not {mean}");
        };
        check(&[], 0.0, 0.0);
        check(&[1.0, 2.0, 6.0], 9.0, 3.0);
        check(&[0.1, 0.2, 0.3], 0.6, 0.6 / 3.0);
        check(&[0.1; 10], 1.0, 0.1);
        check(&[1e100, 1.0, -1e100, 1.0], 2.0, 0.5);
        check(&[1e16, 1.0, 1e-16], 10_000_000_000_000_002.0, 10_000_000_000_000_002.0 / 3.0);
        check(&[f64::MAX, f64::MAX], INF, f64::MAX);
        check(&[f64::MAX, -f64::MAX, 1.5], 1.5, 0.5);
        check(&[5e-324, 5e-324], 1e-323, 5e-324);
        check(&[1.0, INF, 2.0], INF, INF);
        check(&[INF, -INF, 2.0], f64::NAN, f64::NAN);
        check(&[f64::NAN, 2.0], f64::NAN, f64::NAN);
    }

    proptest! {
        #[test]
        fn order_does_not_matter(
            values in proptest::collection::vec(prop_oneof![any::<f64>(), -10.0..10.0, (-50i32..50).prop_map(f64::from)], 0..30),
            split in 0usize..30,
        ) {
            let forwards = sum(&values);
            let reversed: Vec<f64> = values.iter().rev().copied().collect();
            let (one, two) = reversed.split_at(split.min(values.len()));
            let mut merged = sum(two);
            merged.merge(&sum(one));
            prop_assert!(forwards.fits() && merged.fits());
            let text = serde_json::to_string(&merged).unwrap();
            let read: ExactSum = serde_json::from_str(&text).unwrap();
            let (a, b) = (forwards.total(), read.total());
            prop_assert!(a == b || (a.is_nan() && b.is_nan()), "{a} {b}");
        }

        #[test]
        fn whole_numbers_are_exact(values in proptest::collection::vec(-1_000_000i64..1_000_000, 0..50)) {
            let sum = sum(&values.iter().map(|v| *v as f64).collect::<Vec<_>>());
            prop_assert_eq!(sum.total(), values.iter().sum::<i64>() as f64);
            prop_assert!(sum.rest.is_empty());
        }
    }
}
