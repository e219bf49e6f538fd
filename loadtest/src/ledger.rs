//! Records what was sent and what the server acknowledged. Answers are compared with it.

use std::{
    ops::Range,
    sync::{Mutex, MutexGuard},
};

/// Number of a stream of a writer.
pub(crate) type StreamNumber = u16;

/// The lines of one writer, numbered from 0. Every line belongs to one push, and a push is either acknowledged or of
/// unknown fate.
#[derive(Default)]
pub(crate) struct Ledger {
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The line was sent; answers may contain it.
    Unknown,
    /// The line was acknowledged; answers must contain it.
    Acknowledged,
    /// The line was acknowledged and later reported as lost; answers must not contain it.
    ReportedLost,
}

#[derive(Default)]
struct State {
    fates: Vec<Fate>,
    /// The stream of each line.
    streams: Vec<StreamNumber>,
    acknowledged_count: u64,
}

/// A copy of a ledger at one moment, and the lines that an answer must contain.
pub(crate) struct Snapshot {
    fates: Vec<Fate>,
    streams: Vec<StreamNumber>,
}

/// How an answer differs from a ledger.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Differences {
    /// Number of acknowledged lines that the answer lacks.
    pub(crate) lost: u64,
    /// Number of lines that the answer contains more than once.
    pub(crate) doubled: u64,
    /// Number of lines in the answer that were never sent, or were reported as lost.
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
    /// Records lines that are about to be sent, given the stream of each. Returns the number of the first line.
    pub(crate) fn begin(&self, streams: &[StreamNumber]) -> usize {
        let mut state = self.lock();
        let first = state.streams.len();
        state.streams.extend_from_slice(streams);
        let lines = state.streams.len();
        state.fates.resize(lines, Fate::Unknown);
        first
    }

    /// Records that `count` lines from `first` on were acknowledged.
    pub(crate) fn acknowledge(&self, first: usize, count: usize) {
        let mut state = self.lock();
        state.fates[first..first + count].fill(Fate::Acknowledged);
        state.acknowledged_count += count as u64;
    }

    /// Records that these acknowledged lines were reported as lost. Answers must no longer contain them.
    pub(crate) fn report_lost(&self, lines: Range<usize>) {
        self.lock().fates[lines].fill(Fate::ReportedLost);
    }

    /// Returns the number of acknowledged lines, lost ones included, and the number of lines sent.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.acknowledged_count, state.streams.len() as u64)
    }

    /// Returns the number of lines sent in one stream.
    pub(crate) fn sent(&self, stream: StreamNumber) -> u64 {
        self.lock().streams.iter().filter(|s| **s == stream).count() as u64
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        Snapshot { fates: state.fates.clone(), streams: state.streams.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the ledger")
    }
}

impl Snapshot {
    /// Limits the lines that an answer must contain to these; any other line may be missing.
    pub(crate) fn owing(mut self, lines: Range<usize>) -> Self {
        for (number, fate) in self.fates.iter_mut().enumerate() {
            if *fate == Fate::Acknowledged && !lines.contains(&number) {
                *fate = Fate::Unknown;
            }
        }
        self
    }

    /// Returns the number of lines of a stream that an answer must contain.
    pub(crate) fn owed(&self, stream: StreamNumber) -> u64 {
        self.of_stream(stream).filter(|(_, fate)| *fate == Fate::Acknowledged).count() as u64
    }

    /// Returns the numbers of all lines that an answer must contain.
    pub(crate) fn owed_numbers(&self) -> impl Iterator<Item = usize> {
        self.fates.iter().enumerate().filter(|(_, fate)| **fate == Fate::Acknowledged).map(|(number, _)| number)
    }

    /// Returns the number of lines of a stream that were reported as lost.
    pub(crate) fn reported_lost(&self, stream: StreamNumber) -> u64 {
        self.of_stream(stream).filter(|(_, fate)| *fate == Fate::ReportedLost).count() as u64
    }

    fn of_stream(&self, stream: StreamNumber) -> impl Iterator<Item = (usize, Fate)> {
        let all = self.streams.iter().zip(&self.fates).enumerate();
        all.filter(move |(_, (s, _))| **s == stream).map(|(number, (_, fate))| (number, *fate))
    }

    /// Compares the line numbers of an answer for one stream with what had been acknowledged in the stream when the
    /// snapshot was taken. `sent_later` is the number of lines sent by now; the answer may contain them.
    pub(crate) fn compare(&self, stream: StreamNumber, answer: &[usize], sent_later: usize) -> Differences {
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
            let (there, fate) = (*times > 0, self.fates[number]);
            differences.lost += u64::from(ours && fate == Fate::Acknowledged && !there);
            differences.invented += u64::from(there && (!ours || fate == Fate::ReportedLost));
        }
        differences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differences(lost: u64, doubled: u64, invented: u64) -> Differences {
        Differences { lost, doubled, invented }
    }

    #[test]
    fn finds_every_difference() {
        let ledger = Ledger::default();
        assert_eq!(ledger.begin(&[0, 1, 0]), 0);
        ledger.acknowledge(0, 3);
        assert_eq!(ledger.begin(&[0, 0]), 3);
        assert_eq!((ledger.counts(), ledger.sent(0), ledger.sent(1)), ((3, 5), 4, 1));
        let at = ledger.snapshot();
        assert_eq!((at.owed(0), at.owed(1)), (2, 1));
        let check = |answer: &[usize], lost, doubled, invented| {
            assert_eq!(at.compare(0, answer, 6), differences(lost, doubled, invented), "{answer:?}");
        };
        check(&[0, 2], 0, 0, 0);
        check(&[0, 2, 3, 5], 0, 0, 0);
        check(&[2], 1, 0, 0);
        check(&[0, 2, 2, 2], 0, 1, 0);
        check(&[0, 1, 2], 0, 0, 1);
        check(&[0, 2, 6], 0, 0, 1);
    }

    #[test]
    fn an_answer_may_owe_one_push_only() {
        let ledger = Ledger::default();
        ledger.begin(&[0, 0, 0, 1]);
        ledger.acknowledge(0, 4);
        let at = ledger.snapshot().owing(2..4);
        assert_eq!((at.owed(0), at.owed(1)), (1, 1));
        assert_eq!(at.compare(0, &[2], 4), differences(0, 0, 0));
        assert_eq!(at.compare(0, &[0, 1, 2], 4), differences(0, 0, 0));
        assert_eq!(at.compare(0, &[0, 1, 1], 4), differences(1, 1, 0));
        let nothing = ledger.snapshot().owing(0..0);
        assert_eq!(nothing.compare(0, &[], 4), differences(0, 0, 0));
    }

    #[test]
    fn what_is_reported_as_lost_is_owed_no_longer_and_must_not_come_back() {
        let ledger = Ledger::default();
        ledger.begin(&[0, 0, 0]);
        ledger.acknowledge(0, 3);
        ledger.report_lost(1..2);
        let at = ledger.snapshot();
        assert_eq!((at.owed(0), at.reported_lost(0), ledger.counts()), (2, 1, (3, 3)));
        assert_eq!(at.compare(0, &[0, 2], 3), differences(0, 0, 0));
        assert_eq!(at.compare(0, &[0, 1, 2], 3), differences(0, 0, 1));
        assert_eq!(at.compare(0, &[0], 3), differences(1, 0, 0));
    }
}
