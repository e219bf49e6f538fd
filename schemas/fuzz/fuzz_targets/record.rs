//! Decoding returns an error or a readable record for any bytes, and never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_model::Offset;
use millrace_model::Needs;
use millrace_schemas::Record;

fuzz_target!(|data: &[u8]| {
    read(data.to_vec());
    // The checksum refuses most mutations. Repair header and checksum, so that the fuzzer reaches the code after them.
    let mut sealed = data.to_vec();
    if sealed.len() >= 52 {
        let len = sealed.len() as u32;
        sealed[..8].copy_from_slice(b"MRec\x01\0\0\0");
        sealed[12..16].copy_from_slice(&len.to_le_bytes());
        let checksum = crc32c::crc32c(&sealed[12..]);
        sealed[8..12].copy_from_slice(&checksum.to_le_bytes());
        read(sealed);
    }
});

fn read(bytes: Vec<u8>) {
    if let Ok(record) = Record::decode(bytes.into()) {
        for slice in record.streams() {
            let rows: usize = slice.rows().map(|row| row.line.len() + row.metadata().count()).sum();
            let batch = slice.batch(Offset::ZERO, &Needs::everything());
            assert!(batch.len() == slice.len() && rows < usize::MAX);
        }
    }
}
