//! Chooses the order of streams in a block. Compression sees one page at a time, so streams with similar lines should be
//! neighbours. Labels do not tell which streams are similar (those of one application are, those of one host are not), so
//! the order is made from the lines. On the benchmark's corpus the line column becomes a tenth smaller than in the order
//! of labels, as small as with the best order of labels chosen by hand; see `FORMAT.md`.

/// Number of minimum hashes of a sketch. The share of equal hashes estimates the share of words in common.
const HASHES: usize = 16;

/// Number of lines in a sketch.
const LINES: usize = 16;

/// Only this many bytes of each line go into a sketch.
const LINE_BYTES: usize = 512;

/// Number of candidates that are compared with the last stream.
const CANDIDATES: usize = 512;

/// A summary of the words in some lines of a stream. Two sketches can be compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamSketch([u32; HASHES]);

impl StreamSketch {
    /// A sketch of some lines of a stream. Only the first 16 lines count, so choose lines spread over the stream.
    ///
    /// For a stream of `n` rows, take every `n.div_ceil(16)`-th line.
    pub fn new<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut minima = [u32::MAX; HASHES];
        for line in lines.into_iter().take(LINES) {
            let line = &line[..line.len().min(LINE_BYTES)];
            for word in line.split(|byte| !byte.is_ascii_alphabetic()).filter(|word| word.len() >= 3) {
                let hash = hash(word);
                for (i, minimum) in minima.iter_mut().enumerate() {
                    // Each position of the sketch mixes the hash of the word differently.
                    let mixed =
                        (hash ^ (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd);
                    *minimum = (*minimum).min((mixed >> 32) as u32);
                }
            }
        }
        Self(minima)
    }

    /// Number of equal hashes of two sketches.
    fn agreement(&self, other: &Self) -> usize {
        self.0.iter().zip(&other.0).filter(|(a, b)| a == b).count()
    }
}

/// FNV-1a, which is fast for short words.
fn hash(word: &[u8]) -> u64 {
    word.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// Indexes of the sketches in an order in which similar ones are neighbours. Each step goes to the most similar of the next
/// candidates, or to the earliest of several. The same sketches always give the same order.
pub fn packing_order(sketches: &[StreamSketch]) -> Vec<usize> {
    let mut waiting: Vec<usize> = (0..sketches.len()).collect();
    if waiting.len() > CANDIDATES {
        // Sorting puts most similar sketches close enough to be candidates of each other.
        waiting.sort_by(|a, b| sketches[*a].cmp(&sketches[*b]));
    }
    let mut order = Vec::with_capacity(waiting.len());
    // The candidates are the first of the remaining sketches. The next remaining one replaces a chosen candidate.
    let mut waiting = waiting.into_iter();
    let mut candidates: Vec<usize> = waiting.by_ref().take(CANDIDATES).collect();
    let mut last: Option<usize> = None;
    while !candidates.is_empty() {
        let mut best = (0, 0);
        if let Some(last) = last {
            for (place, candidate) in candidates.iter().enumerate() {
                let agreement = sketches[last].agreement(&sketches[*candidate]);
                if agreement > best.1 {
                    best = (place, agreement);
                }
            }
        }
        let chosen = candidates.remove(best.0);
        candidates.extend(waiting.next());
        order.push(chosen);
        last = Some(chosen);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_streams_become_neighbours() {
        let kinds = ["connection reset by peer", "user logged in from address", "disk quota exceeded on volume"];
        let sketch = |i: usize| {
            let line = format!("{} number {i}", kinds[i % 3]);
            StreamSketch::new([line.as_bytes()])
        };
        for count in [0, 1, 10, 100, 1500] {
            let sketches: Vec<_> = (0..count).map(sketch).collect();
            let order = packing_order(&sketches);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..count).collect::<Vec<_>>(), "every stream once");
            let changes = order.windows(2).filter(|pair| pair[0] % 3 != pair[1] % 3).count();
            assert!(changes <= 2, "{changes} changes of kind among {count}");
        }
    }

    #[test]
    fn streams_without_words_keep_their_order() {
        let sketches = vec![StreamSketch::new([&b"1 2 3"[..]]); 5];
        assert_eq!(packing_order(&sketches), [0, 1, 2, 3, 4]);
    }
}
