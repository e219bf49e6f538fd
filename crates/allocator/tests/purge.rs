//! The option has the number that mimalloc gives it, and it can be set while no other thread runs.

use std::{env, process::Command, sync::mpsc, thread};

use millrace_allocator::{Allocator, PURGE_DELAY_VARIABLE, purge_delay_ms, return_memory_immediately};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

const CHILD: &str = "MILLRACE_TEST_PURGE_CHILD";

fn main() {
    if env::var_os(CHILD).is_some() {
        assert_eq!(purge_delay_ms(), 77, "the number is not that of the option: did mimalloc's major version change?");
        assert!(return_memory_immediately());
        assert_eq!(purge_delay_ms(), 77, "the operator's choice wins");
        return;
    }
    let mut child = Command::new(env::current_exe().expect("this program"));
    let status = child.env(CHILD, "1").env(PURGE_DELAY_VARIABLE, "77").status().expect("the child starts");
    assert!(status.success());

    let default = purge_delay_ms();
    assert!(default > 0, "otherwise nothing has to be set");
    let (end, wait) = mpsc::channel::<()>();
    let other = thread::Builder::new().spawn(move || wait.recv()).expect("a thread");
    assert!(!return_memory_immediately(), "another thread runs");
    assert_eq!(purge_delay_ms(), default);
    drop(end);
    let _ = other.join().expect("the thread ends");
    // The kernel removes a thread from the list a moment after it was joined.
    while !return_memory_immediately() {
        thread::yield_now();
    }
    assert_eq!(purge_delay_ms(), 0);
}
