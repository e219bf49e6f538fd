//! A changed or truncated file gives an error, never a panic and never other rows.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use block::{BlockError, BlockIndex, BlockScan, Step, inspect, verify};
use bytes::Bytes;
use model::Needs;
use model::TimeRange;
use proptest::prelude::*;
use support::{any_block, open, rows_of, run};

fn everything() -> Needs {
    Needs::everything()
}

fn read_all(file: &Bytes) -> Result<Vec<support::ScannedRow>, BlockError> {
    let index = BlockIndex::open(file.len() as u64, file.clone())?;
    let streams = index.tenants().flat_map(|tenant| tenant.streams).collect();
    let batches = run(BlockScan::new(&index, streams, TimeRange::ALL, everything()), file)?;
    Ok(rows_of(&batches, &everything()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_flipped_bit_is_found(block in any_block(60), flips in proptest::collection::vec((any::<prop::sample::Index>(), 0..8u8), 30)) {
        let encoded = block.encode();
        let rows = read_all(&encoded.bytes).unwrap();
        for (at, bit) in flips {
            let mut file = encoded.bytes.to_vec();
            let at = at.index(file.len());
            file[at] ^= 1 << bit;
            let file = Bytes::from(file);
            let found = verify(file.clone()).map(|report| report.problems);
            prop_assert!(!matches!(&found, Ok(problems) if problems.is_empty()), "byte {at} of {} was missed", file.len());
            if let Ok(read) = read_all(&file) {
                prop_assert_eq!(&read, &rows);
            }
            let _ = inspect(file);
        }
    }

    /// No checksum covers the text of the seal, so only its canonical spelling is accepted.
    #[test]
    fn every_bit_of_the_end_counts(block in any_block(3)) {
        let encoded = block.encode();
        let length = encoded.bytes.len();
        for (at, bit) in (length - 80..length).flat_map(|at| (0..8u8).map(move |bit| (at, bit))) {
            let mut file = encoded.bytes.to_vec();
            file[at] ^= 1 << bit;
            prop_assert!(BlockIndex::open(length as u64, file.into()).is_err(), "bit {bit} of byte {at} of {length} was missed");
        }
    }

    #[test]
    fn a_cut_file_is_refused(block in any_block(60), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 20)) {
        let encoded = block.encode();
        for cut in cuts {
            let file = encoded.bytes.slice(..cut.index(encoded.bytes.len()));
            prop_assert!(verify(file.clone()).is_err());
            prop_assert!(BlockIndex::open(encoded.summary.bytes, file).is_err());
        }
    }

    #[test]
    fn other_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), ends_well in any::<bool>()) {
        let mut bytes = bytes;
        if ends_well {
            bytes.extend_from_slice(&[40, 0, 0, 0]);
            bytes.extend_from_slice(b"PAR1");
        }
        let bytes = Bytes::from(bytes);
        prop_assert!(BlockIndex::open(bytes.len() as u64, bytes.clone()).is_err());
        prop_assert!(BlockIndex::open(1 << 20, bytes).is_err());
    }

    /// A store may return the bytes of another object.
    #[test]
    fn data_of_another_place_is_found(block in any_block(60), shift in 1..50usize) {
        let encoded = block.encode();
        let index = open(&encoded);
        let streams: Vec<u32> = index.tenants().flat_map(|tenant| tenant.streams).collect();
        prop_assume!(!streams.is_empty());
        let mut scan = BlockScan::new(&index, streams, TimeRange::ALL, everything());
        let mut file = encoded.bytes.to_vec();
        file.rotate_left(shift);
        let file = Bytes::from(file);
        let error = loop {
            match scan.next() {
                Err(error) => break Some(error),
                Ok(Step::Done) => break None,
                Ok(Step::Batch(_)) => {}
                Ok(Step::NeedsData(ranges)) => {
                    let data = ranges.iter().map(|r| file.slice(r.start as usize..r.end as usize)).collect();
                    scan.supply(ranges, data).unwrap();
                }
            }
        };
        prop_assert!(error.is_some());
    }
}
