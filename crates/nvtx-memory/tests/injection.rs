//! The whole way to a tool: this program runs itself with a library that plays the tool, and compares what that was told.
//!
//! The lines of the first test are what the tool writes for a C program that makes the same calls through NVIDIA's own headers
//! (`nvidia-nvtx` 13.5.25), and there is no byte in the structures that they do not show. One thing is different there: the headers
//! initialise the extension when it is first called, so its line comes after the domain's.

// The tool's structures are those of 64-bit systems.
#![cfg(target_pointer_width = "64")]

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;

use nvtx_memory::{Domain, is_tool_present};

/// Set in a process that is to do the work of the test of that name.
const CHILD: &str = "NVTX_MEMORY_TEST_CHILD";
const TOOL: &str = "NVTX_INJECTION64_PATH";

const BLOCK: u64 = 0x7f00_0000_0000;

/// The tool, which Cargo has put beside this program.
fn tool() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.with_file_name(format!("{DLL_PREFIX}nvtx_memory_test_tool{DLL_SUFFIX}"))
}

/// Runs the test `name` again, in a process of its own, with `tool` behaving as `mode` says, and answers what the tool was told, line by line.
/// In that process it does `work` and answers nothing.
fn with_tool(name: &str, tool: Option<&Path>, mode: &str, work: impl FnOnce()) -> Option<Vec<String>> {
    if std::env::var_os(CHILD).is_some() {
        work();
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(CHILD, name).env_remove(TOOL);
    child.env("NVTX_TEST_TOOL_LOG", &log).env("NVTX_TEST_TOOL_MODE", mode);
    if let Some(tool) = tool {
        child.env(TOOL, tool);
    }
    let output = child.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let told = fs::read_to_string(&log).unwrap_or_default();
    assert!(output.status.success(), "{}: {errors}; the tool was told: {told}", output.status);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("1 passed"), "the child has run the test {name}: {said}");
    Some(told.lines().map(str::to_owned).collect())
}

/// What is told to a tool that takes all there is.
fn told(name: &str, mode: &str, work: impl FnOnce()) -> Option<Vec<String>> {
    let tool = tool();
    assert!(tool.is_file(), "{} is built with this test", tool.display());
    with_tool(name, Some(&tool), mode, work)
}

/// The lines without those about the initialisation, which are the same for all.
fn calls(told: &[String]) -> Vec<&str> {
    let initialisation = |line: &&str| line.starts_with("core: ") || line.starts_with("extension ");
    told.iter().map(String::as_str).filter(|line| !initialisation(line)).collect()
}

/// What a program without a tool finds.
fn finds_no_tool() {
    assert!(!is_tool_present());
    assert!(Domain::create("nobody's").is_none());
}

#[test]
fn a_tool_is_told_the_same_as_by_the_headers() {
    let told = told("a_tool_is_told_the_same_as_by_the_headers", "", || {
        assert!(is_tool_present());
        let domain = Domain::create("aquifer").unwrap();
        let heap = domain.register_heap(BLOCK, 1 << 20, "block 1").unwrap();
        assert!(heap.register_region(BLOCK + 256, 1000, Some("weights")));
        assert!(heap.register_region(BLOCK + 2048, 1, None));
        assert!(heap.name_region(BLOCK + 2048, "one byte"));
        assert!(heap.unregister_region(BLOCK + 256));
        heap.reset();
    });
    let Some(told) = told else { return };
    assert_eq!(
        told,
        [
            "core: table 2 is null: true; versions 24 3; callbacks 16",
            "core: no module 0",
            "core: module 1 has 16 entries, 15 filled, ends null: true",
            "core: module 2 has 9 entries, 8 filled, ends null: true",
            "core: module 3 has 15 entries, 14 filled, ends null: true",
            "core: module 4 has 7 entries, 6 filled, ends null: true",
            "core: module 5 has 16 entries, 15 filled, ends null: true",
            "core: module 6 has 7 entries, 6 filled, ends null: true",
            "core: no module 7",
            "extension [3, 40, 1, 258], 1 segment 1 with 63 slots, all zero: true; 0 0",
            r#"DomainCreateA "aquifer" = 0xd1"#,
            r#"HeapRegister 0xd1 0x102 48 [0, 1, 1] 16 [1048576 0x7f0000000000] 0 1 "block 1" = 0xa1"#,
            "RegionsRegister 0xd1 0x102 48 1 0xa1 1 16 [1000 0x7f0000000100] 0",
            r#"RegionsName 0xd1 0x102 40 0 1 32 [1 1 0x7f0000000100 "weights" 0 0] 0"#,
            "RegionsRegister 0xd1 0x102 48 1 0xa1 1 16 [1 0x7f0000000800] 0",
            r#"RegionsName 0xd1 0x102 40 0 1 32 [1 1 0x7f0000000800 "one byte" 0 0] 0"#,
            "RegionsUnregister 0xd1 0x102 32 1 1 8 [0x7f0000000100]",
            "HeapReset 0xd1 0xa1",
            "HeapUnregister 0xd1 0xa1",
            "DomainDestroy 0xd1",
        ]
    );
}

#[test]
fn what_cannot_be_is_not_told() {
    let told = told("what_cannot_be_is_not_told", "", || {
        let domain = Domain::create("refusing").unwrap();
        assert!(domain.register_heap(BLOCK, 0, "empty").is_none());
        assert!(domain.register_heap(u64::MAX, 2, "past the last address").is_none());
        let heap = domain.register_heap(BLOCK, 4096, "").unwrap();
        for (start, bytes) in
            [(BLOCK, 0), (BLOCK - 1, 2), (BLOCK, 4097), (BLOCK + 4096, 1), (BLOCK + 1, u64::MAX)]
        {
            assert!(!heap.register_region(start, bytes, Some("outside")), "{start:#x}, {bytes} bytes");
        }
        assert!(!heap.name_region(BLOCK + 4096, "outside"));
        assert!(!heap.name_region(BLOCK, ""));
        assert!(!heap.unregister_region(BLOCK - 1));
        assert!(heap.register_region(BLOCK, 4096, Some("")));
        assert!(heap.register_region(BLOCK + 4095, 1, None));
    });
    let Some(told) = told else { return };
    assert_eq!(
        calls(&told),
        [
            r#"DomainCreateA "refusing" = 0xd1"#,
            r#"HeapRegister 0xd1 0x102 48 [0, 1, 1] 16 [4096 0x7f0000000000] 0 0 null = 0xa1"#,
            "RegionsRegister 0xd1 0x102 48 1 0xa1 1 16 [4096 0x7f0000000000] 0",
            "RegionsRegister 0xd1 0x102 48 1 0xa1 1 16 [1 0x7f0000000fff] 0",
            "HeapUnregister 0xd1 0xa1",
            "DomainDestroy 0xd1",
        ]
    );
}

#[test]
fn names_are_told_as_the_sanitizer_takes_them() {
    let told = told("names_are_told_as_the_sanitizer_takes_them", "", || {
        let domain = Domain::create("a\0b\n~").unwrap();
        let heap = domain.register_heap(BLOCK, 64, "grün").unwrap();
        assert!(heap.name_region(BLOCK, &"x".repeat(49)));
        assert!(heap.name_region(BLOCK, &"x".repeat(50)));
    });
    let Some(told) = told else { return };
    let calls = calls(&told);
    assert_eq!(calls[0], r#"DomainCreateA "a?b?~" = 0xd1"#);
    assert!(calls[1].contains(r#""gr?n""#), "{}", calls[1]);
    assert!(calls[2].contains(&format!(r#""{}""#, "x".repeat(49))), "{}", calls[2]);
    assert_eq!(calls[3], calls[2]);
}

#[test]
fn a_domain_ends_after_its_last_heap() {
    let told = told("a_domain_ends_after_its_last_heap", "", || {
        let domain = Domain::create("first").unwrap();
        let first = domain.register_heap(BLOCK, 1, "").unwrap();
        let second = domain.clone().register_heap(BLOCK + 1, 1, "").unwrap();
        drop(domain);
        drop(first);
        drop(Domain::create("second"));
        drop(second);
    });
    let Some(told) = told else { return };
    let names: Vec<_> = calls(&told).into_iter().filter(|line| !line.starts_with("HeapRegister")).collect();
    assert_eq!(
        names,
        [
            r#"DomainCreateA "first" = 0xd1"#,
            "HeapUnregister 0xd1 0xa1",
            r#"DomainCreateA "second" = 0xd2"#,
            "DomainDestroy 0xd2",
            "HeapUnregister 0xd1 0xa2",
            "DomainDestroy 0xd1",
        ]
    );
}

#[test]
fn without_the_variable_nothing_is_loaded() {
    assert_eq!(with_tool("without_the_variable_nothing_is_loaded", None, "", finds_no_tool), expected(&[]));
}

#[test]
fn a_library_that_is_not_there_is_no_tool() {
    let name = "a_library_that_is_not_there_is_no_tool";
    for path in ["", "./.", "not-there/libtool.so"] {
        assert_eq!(with_tool(name, Some(Path::new(path)), "", finds_no_tool), expected(&[]));
    }
}

#[test]
fn a_library_that_has_no_entry_points_is_no_tool() {
    // On Linux every program has this one, so that it loads.
    let library = if cfg!(target_os = "linux") { "libc.so.6" } else { "not-there" };
    let name = "a_library_that_has_no_entry_points_is_no_tool";
    assert_eq!(with_tool(name, Some(Path::new(library)), "", finds_no_tool), expected(&[]));
}

#[test]
fn a_tool_that_refuses_memory_is_told_nothing() {
    let told = told("a_tool_that_refuses_memory_is_told_nothing", "no memory", finds_no_tool);
    let Some(told) = told else { return };
    assert!(told.iter().any(|line| line.starts_with("extension ")), "it has been asked: {told:?}");
    assert_eq!(calls(&told), [""; 0]);
}

#[test]
fn a_tool_without_functions_is_no_tool() {
    let told = told("a_tool_without_functions_is_no_tool", "no functions", finds_no_tool);
    let Some(told) = told else { return };
    assert!(told.iter().any(|line| line.starts_with("extension ")), "it has been asked: {told:?}");
}

#[test]
fn disabled_slots_are_not_called() {
    let told = told("disabled_slots_are_not_called", "disabled", finds_no_tool);
    let Some(told) = told else { return };
    assert!(told.iter().any(|line| line.starts_with("extension ")), "it has been asked: {told:?}");
}

#[test]
fn without_the_core_heaps_are_in_the_shared_domain() {
    let told = told("without_the_core_heaps_are_in_the_shared_domain", "no core", || {
        let domain = Domain::create("never seen").unwrap();
        drop(domain.register_heap(BLOCK, 16, "block").unwrap());
    });
    let Some(told) = told else { return };
    assert_eq!(
        calls(&told),
        [
            r#"HeapRegister 0x0 0x102 48 [0, 1, 1] 16 [16 0x7f0000000000] 0 1 "block" = 0xa1"#,
            "HeapUnregister 0x0 0xa1",
        ]
    );
}

fn refuses_heaps(name: &str, mode: &str, handle: &str) {
    let told = told(name, mode, || {
        let domain = Domain::create("aquifer").unwrap();
        assert!(domain.register_heap(BLOCK, 16, "block").is_none());
    });
    let Some(told) = told else { return };
    let calls = calls(&told);
    assert_eq!(calls.len(), 3, "{calls:?}");
    assert!(calls[1].starts_with("HeapRegister ") && calls[1].ends_with(handle), "{calls:?}");
    assert_eq!(calls[2], "DomainDestroy 0xd1");
}

#[test]
fn a_refused_heap_is_none() {
    refuses_heaps("a_refused_heap_is_none", "no heaps", " = 0x0");
}

#[test]
fn a_heap_refused_in_the_early_way_is_none() {
    refuses_heaps("a_heap_refused_in_the_early_way_is_none", "no heaps, early", " = 0xffffffffffffffff");
}

#[test]
fn threads_find_the_tool_once_and_share_a_heap() {
    const THREADS: u64 = 4;
    const REGIONS: u64 = 8;
    let told = told("threads_find_the_tool_once_and_share_a_heap", "", || {
        let start = Barrier::new(THREADS as usize);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    start.wait();
                    assert!(is_tool_present());
                });
            }
        });
        let heap = Domain::create("aquifer").unwrap().register_heap(BLOCK, THREADS * REGIONS, "").unwrap();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let heap = &heap;
                scope.spawn(move || {
                    for region in thread * REGIONS..(thread + 1) * REGIONS {
                        assert!(heap.register_region(BLOCK + region, 1, None));
                    }
                });
            }
        });
    });
    let Some(told) = told else { return };
    assert_eq!(told.iter().filter(|line| line.starts_with("extension ")).count(), 1);
    let mut registered: Vec<_> = told.iter().filter(|line| line.starts_with("RegionsRegister ")).collect();
    registered.sort();
    let one = |region| format!("RegionsRegister 0xd1 0x102 48 1 0xa1 1 16 [1 {:#x}] 0", BLOCK + region);
    let expected: Vec<_> = (0..THREADS * REGIONS).map(one).collect();
    assert_eq!(registered, expected.iter().collect::<Vec<_>>());
}

/// What [`with_tool`] answers where the tool is told these lines: in the child it answers nothing.
fn expected(lines: &[&str]) -> Option<Vec<String>> {
    std::env::var_os(CHILD).is_none().then(|| lines.iter().map(|&line| line.to_owned()).collect())
}
