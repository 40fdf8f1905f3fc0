//! What the kernel says of this process's memory.

#![allow(dead_code, reason = "no test uses all of it")]

use std::io::Write;

/// A field of `/proc/self/status` that is a size, in bytes.
pub(crate) fn status_bytes(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    kib(text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap()) * 1024
}

fn kib(text: &str) -> u64 {
    text.trim().strip_suffix("kB").unwrap().trim().parse().unwrap()
}

/// The sum of a field of `/proc/self/smaps` over the mappings that lie between two addresses, in bytes; `None` if there is no
/// such file.
pub(crate) fn mapped_bytes(name: &str, start: usize, end: usize) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps").ok()?;
    let (mut is_inside, mut sum) = (false, 0);
    for line in text.lines() {
        let range = line.split(' ').next().unwrap().split_once('-');
        let address = |text: &str| usize::from_str_radix(text, 16).ok();
        if let Some((first, last)) = range.and_then(|(first, last)| Some((address(first)?, address(last)?))) {
            is_inside = start <= first && last <= end;
        } else if is_inside
            && let Some(value) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(':'))
        {
            sum += kib(value) * 1024;
        }
    }
    Some(sum)
}

/// Says that something is not tested, past the test harness, which would swallow it.
pub(crate) fn skipped(why: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}
