//! What was sent and what the server acknowledged: the truth that answers are held against.

use std::sync::Mutex;

/// One writer's lines, numbered from 0. Every line belongs to one push; a push is acknowledged or its fate unknown.
#[derive(Default)]
pub(crate) struct Ledger {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// For each line: was it acknowledged?
    acknowledged: Vec<bool>,
    /// For each line: when it was sent, to ask for it.
    streams: Vec<u8>,
    acknowledged_count: u64,
}

/// A copy of a ledger at one moment.
pub(crate) struct Snapshot {
    pub(crate) acknowledged: Vec<bool>,
    pub(crate) streams: Vec<u8>,
}

/// How answers differ from a ledger.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Differences {
    /// Acknowledged, not in the answer.
    pub(crate) lost: u64,
    /// More than once in the answer.
    pub(crate) doubled: u64,
    /// In the answer, never sent.
    pub(crate) invented: u64,
}

impl Differences {
    pub(crate) fn any(&self) -> bool {
        *self != Self::default()
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.invented += other.invented;
    }
}

impl Ledger {
    /// Enters lines that are about to be sent (one stream for each); the number of the first.
    pub(crate) fn begin(&self, streams: &[u8]) -> usize {
        let mut state = self.lock();
        let first = state.streams.len();
        state.streams.extend_from_slice(streams);
        let lines = state.streams.len();
        state.acknowledged.resize(lines, false);
        first
    }

    /// Says that `count` lines from `first` on were acknowledged.
    pub(crate) fn acknowledge(&self, first: usize, count: usize) {
        let mut state = self.lock();
        state.acknowledged[first..first + count].fill(true);
        state.acknowledged_count += count as u64;
    }

    /// Lines acknowledged, and lines sent.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.acknowledged_count, state.streams.len() as u64)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        Snapshot { acknowledged: state.acknowledged.clone(), streams: state.streams.clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the ledger")
    }
}

impl Snapshot {
    /// Compares the line numbers of an answer for one stream with what was acknowledged in this stream at the
    /// snapshot. `sent_later` is how many lines were sent by now: those may be in the answer, or not.
    pub(crate) fn compare(&self, stream: u8, answer: &[usize], sent_later: usize) -> Differences {
        let mut seen = vec![0u32; sent_later.max(self.streams.len())];
        let mut differences = Differences::default();
        for &number in answer {
            match seen.get_mut(number) {
                Some(times) => {
                    *times += 1;
                    differences.doubled += u64::from(*times == 2);
                }
                None => differences.invented += 1,
            }
        }
        for (number, times) in seen.iter().enumerate().take(self.streams.len()) {
            let ours = self.streams[number] == stream;
            differences.lost += u64::from(ours && self.acknowledged[number] && *times == 0);
            differences.invented += u64::from(!ours && *times > 0);
        }
        differences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_difference() {
        let ledger = Ledger::default();
        assert_eq!(ledger.begin(&[0, 1, 0]), 0);
        ledger.acknowledge(0, 3);
        assert_eq!(ledger.begin(&[0, 0]), 3);
        assert_eq!(ledger.counts(), (3, 5));
        let at = ledger.snapshot();
        let check = |answer: &[usize], lost, doubled, invented| {
            assert_eq!(at.compare(0, answer, 6), Differences { lost, doubled, invented }, "{answer:?}");
        };
        check(&[0, 2], 0, 0, 0);
        check(&[0, 2, 3, 5], 0, 0, 0);
        check(&[2], 1, 0, 0);
        check(&[0, 2, 2, 2], 0, 1, 0);
        check(&[0, 1, 2], 0, 0, 1);
        check(&[0, 2, 6], 0, 0, 1);
    }
}
