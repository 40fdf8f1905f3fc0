//! Random programs on streams; `common/streams.rs` tells what they do.

#![cfg(target_os = "linux")]

mod common;

#[path = "common/streams.rs"]
mod streams;

#[test]
fn nobody_reads_what_another_wrote() {
    for seed in 0..12 {
        println!("seed {seed}");
        assert_eq!(streams::wrong_buffers(seed, 300), Ok(0), "seed {seed}");
    }
}
