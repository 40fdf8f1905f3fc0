//! A manager that gives memory away too early, planted in the core: random programs on streams show it. For the whole process, so in one
//! of its own:
//! `cargo test -p aquifer-cuda --features planted-bugs --test planted_reuse`.

#![cfg(target_os = "linux")]

mod common;

#[path = "common/streams.rs"]
mod streams;

use aquifer_core::{Bug, plant};

#[test]
fn reuse_before_completion_is_seen() {
    let first_wrong = || (0..12).map(|seed| streams::wrong_buffers(seed, 300)).find(|found| *found != Ok(0));
    assert_eq!(first_wrong(), None, "without a bug");
    plant(Some(Bug::Reuse));
    // Either two write the same memory, or its pages go to another range while they are written.
    let found = first_wrong().expect("the planted bug is seen");
    println!("seen: {found:?} (wrong buffers, or what the driver says)");
}
