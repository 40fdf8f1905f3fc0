//! What compute-sanitizer would be told: this program runs itself with a library that plays the tool, and reads what that was told.

#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

mod common;

use aquifer_core::{Backend, Capabilities, MemoryManager, MemoryOptions};
use aquifer_cuda::{Cuda, CudaOptions};
use aquifer_testkit::config_with_budget;
use common::{cuda, with};
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

/// Set in a process that is to do a test's work.
const CHILD: &str = "AQUIFER_SANITIZER_TEST_CHILD";
const MINUTE: Duration = Duration::from_secs(60);
const LOG: &str = "NVTX_TEST_TOOL_LOG";

/// Runs the test `name` again with the tool, and answers what that was told of heaps and regions. In that process it does `work`
/// and answers nothing.
fn told(name: &str, work: impl FnOnce()) -> Option<Vec<String>> {
    if std::env::var_os(CHILD).is_some() {
        work();
        return None;
    }
    // Cargo has put it beside this program.
    let tool = std::env::current_exe()
        .unwrap()
        .with_file_name(format!("{DLL_PREFIX}nvtx_memory_test_tool{DLL_SUFFIX}"));
    assert!(tool.is_file(), "{} is built with this test", tool.display());
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(CHILD, "1");
    child.env(LOG, &log).env("NVTX_TEST_TOOL_MODE", "").env("NVTX_INJECTION64_PATH", tool);
    let output = child.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    let told = fs::read_to_string(&log).unwrap();
    let is_of_memory = |line: &&str| ["Heap", "Regions", "test:"].iter().any(|start| line.starts_with(start));
    Some(told.lines().filter(is_of_memory).map(str::to_owned).collect())
}

/// Writes a line among those of the tool.
fn say(line: &str) {
    let mut log =
        fs::OpenOptions::new().create(true).append(true).open(std::env::var_os(LOG).unwrap()).unwrap();
    writeln!(log, "test: {line}").unwrap();
}

fn manager(options: CudaOptions, in_flight_wait: Duration) -> MemoryManager<Cuda> {
    let mut config = config_with_budget(64 << 20);
    config.in_flight_wait = in_flight_wait;
    MemoryManager::with_config(with(options), config).unwrap()
}

fn register(address: &str, bytes: u64) -> String {
    format!("RegionsRegister 0xd1 0x102 48 1 0xa1 1 16 [{bytes} {address}] 0")
}

fn unregister(address: &str) -> String {
    format!("RegionsUnregister 0xd1 0x102 32 1 1 8 [{address}]")
}

#[test]
fn each_buffer_is_told_to_the_byte_while_it_lives() {
    let told = told("each_buffer_is_told_to_the_byte_while_it_lives", || {
        let manager = manager(CudaOptions::default(), MINUTE);
        assert!(manager.properties().capabilities.contains(Capabilities::SANITIZED));
        let first = manager.allocate_with(1000, MemoryOptions::DEFAULT.zeroed(true)).unwrap();
        say(&format!("{:#x}", first.device_address().unwrap()));
        let queue = manager.queue().unwrap();
        let second = queue.allocate(300).unwrap();
        say(&format!("{:#x}", second.device_address().unwrap()));
        drop(first);
        drop(manager.pinned().allocate(4096).unwrap());
        drop(second);
        manager.trim();
        say("over");
    });
    let Some(told) = told else { return };
    let addresses: Vec<&str> = told.iter().filter_map(|line| line.strip_prefix("test: 0x")).collect();
    let [first, second] = addresses[..] else { panic!("{told:#?}") };
    let (first, second) = (format!("0x{first}"), format!("0x{second}"));
    assert!(told[0].starts_with("HeapRegister") && told[0].contains(r#""block""#), "{told:#?}");
    assert_eq!(
        told[1..],
        [
            register(&first, 1000),
            format!("test: {first}"),
            register(&second, 300),
            format!("test: {second}"),
            unregister(&first),
            unregister(&second),
            "HeapUnregister 0xd1 0xa1".to_owned(),
            "test: over".to_owned(),
        ]
    );
}

#[test]
fn what_a_queue_may_use_is_not_said_to_be_free() {
    let told = told("what_a_queue_may_use_is_not_said_to_be_free", || {
        let manager = manager(CudaOptions::default(), Duration::ZERO);
        let queue = manager.queue().unwrap();
        let buffer = queue.allocate(1000).unwrap();
        let address = buffer.device_address();
        say(&format!("{:#x}", address.unwrap()));
        let hold = queue.raw().hold().unwrap();
        drop(buffer);
        say("freed");
        drop(hold);
        queue.raw().wait_idle();
        let next = queue.allocate(900).unwrap();
        assert_eq!(next.device_address(), address, "it is the same place");
        say("allocated");
    });
    let Some(told) = told else { return };
    let address = told.iter().find_map(|line| line.strip_prefix("test: 0x")).expect("the address is said");
    let address = format!("0x{address}");
    assert_eq!(
        told[1..7],
        [
            register(&address, 1000),
            format!("test: {address}"),
            "test: freed".to_owned(),
            unregister(&address),
            register(&address, 900),
            "test: allocated".to_owned(),
        ]
    );
}

#[test]
fn nothing_is_told_who_does_not_want_it() {
    let told = told("nothing_is_told_who_does_not_want_it", || {
        drop(manager(CudaOptions::default().sanitizer(false), MINUTE).allocate(1000).unwrap());
        say("over");
    });
    let Some(told) = told else { return };
    assert_eq!(told, ["test: over"]);
}

#[test]
fn without_a_tool_nothing_is_different() {
    // No tool finds its way into the tests' own process.
    let properties = cuda().properties().clone();
    assert!(!properties.capabilities.contains(Capabilities::SANITIZED));
    assert!(properties.capabilities.contains(Capabilities::SPARSE_BLOCKS));
}
