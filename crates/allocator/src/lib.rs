//! The allocator of the `millrace` binary: mimalloc, and the one option of it that depends on the role.
//!
//! mimalloc keeps freed memory for a second before it returns it to the system. That is right for most roles. A process
//! that consumes frees tens of megabytes after each cut, so its peak is lower when freed memory goes back immediately.
//! mimalloc reads the option from the environment before `main`, and has a C function to set it later. The Rust crate
//! does not export that function, so this crate declares it (docs/adr/0017-allocator-options.md).

use std::ffi::{c_int, c_long};

/// The allocator itself, for `#[global_allocator]`.
///
/// Pushes allocate and free megabytes on many threads. The system's allocator keeps too much of that memory.
pub use mimalloc::MiMalloc as Allocator;

/// An operator's own choice in milliseconds, read by mimalloc before `main`.
pub const PURGE_DELAY_VARIABLE: &str = "MIMALLOC_PURGE_DELAY";

/// Position of `mi_option_purge_delay` in `mi_option_t` of mimalloc 3. The test `purge` compares it with the variable.
const PURGE_DELAY: c_int = 15;

#[allow(unsafe_code, reason = "two functions of mimalloc that its Rust crate does not export")]
mod mimalloc_options {
    use super::{c_int, c_long};

    // SAFETY: the signatures are those of mimalloc.h, where `mi_option_t` is an enum without negative values. Both
    // functions check the option's number; `mi_option_get` may be called at any time.
    unsafe extern "C" {
        pub(super) safe fn mi_option_get(option: c_int) -> c_long;
        fn mi_option_set(option: c_int, value: c_long);
    }

    /// Sets an option, unless another thread runs.
    pub(super) fn set(option: c_int, value: c_long) -> bool {
        let is_only_thread = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
        if is_only_thread {
            // SAFETY: the function writes to a table without a lock, so no other thread may read it meanwhile; this is
            // the only thread of the process.
            unsafe { mi_option_set(option, value) };
        }
        is_only_thread
    }
}

/// Lets the allocator return freed memory to the system immediately, unless the operator chose a delay with
/// [`PURGE_DELAY_VARIABLE`]. Call it at the beginning of `main`.
///
/// Returns false, and changes nothing, when the process already has other threads, or is not on Linux.
///
/// It costs CPU: pages that are used again must be mapped again. Measured with `loadtest bench` in all-in-one, medians
/// of three runs: peak memory 471 in place of 522 MB, CPU 7.5 in place of 6.8 s per raw GB. A gateway, which reuses its
/// memory all the time, spent a sixth of its CPU on it.
pub fn return_memory_immediately() -> bool {
    std::env::var_os(PURGE_DELAY_VARIABLE).is_some() || mimalloc_options::set(PURGE_DELAY, 0)
}

/// Milliseconds the allocator keeps freed memory; 0 returns it immediately.
pub fn purge_delay_ms() -> i64 {
    mimalloc_options::mi_option_get(PURGE_DELAY)
}
