//! Another process takes the device's memory: on a real device, since the driver in software is one process's own (`lost.rs` has it told).

#![cfg(target_os = "linux")]

mod common;

use aquifer_core::{ErrorKind, MemoryManager};
use aquifer_cuda::Cuda;
use aquifer_cuda::cudarc::driver::{CudaContext, result};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const CHILD: &str = "AQUIFER_CROWDED_TEST_CHILD";
const LEFT_BYTES: usize = 2 << 30;

#[test]
fn what_another_process_took_is_an_error_and_comes_back() {
    if std::env::var_os(CHILD).is_some() {
        return crowd();
    }
    if !common::is_real() {
        aquifer_testkit::skip("it needs a GPU (AQUIFER_TEST_GPU=1)");
        return;
    }
    let manager = MemoryManager::<Cuda>::new().unwrap();
    let kept = manager.allocate(64 << 20).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    let name = "what_another_process_took_is_an_error_and_comes_back";
    child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("crowded")), "the other process has the memory");

    let error = manager.allocate(4 << 30).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    println!("{error}");
    let small = manager.allocate(64 << 20).expect("so much is left");

    child.kill().unwrap();
    child.wait().unwrap();
    let large = manager.allocate(4 << 30).expect("it has come back");
    drop((kept, small, large));
    manager.trim();
    assert_eq!(manager.statistics().reserved.current, 0);
}

/// Takes all but [`LEFT_BYTES`], and waits to be killed.
fn crowd() {
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    let (free, _) = result::mem_get_info().unwrap();
    // SAFETY: it is never used.
    let _taken = unsafe { result::malloc_sync(free - LEFT_BYTES) }.unwrap();
    println!("crowded");
    let _ = std::io::stdin().lines().next();
}
