//! What the machine is: its memory, its name, its limits.
//!
//! Whatever is in a file is read below a root that tests replace. Systems without those files take the other way by
//! themselves, so there is little code for one system only.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// How many mappings Linux allows a process where nobody has changed it (`vm.max_map_count`, kernel documentation,
/// admin-guide/sysctl/vm).
const MAP_COUNT_MAX_DEFAULT: u64 = 65530;

/// The machine's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total_bytes: u64,
    /// What could be had without swapping, caches of files included.
    pub(crate) available_bytes: u64,
}

/// The path that is `absolute` when `root` is the root of the file system.
pub(crate) fn below(root: &Path, absolute: impl AsRef<Path>) -> PathBuf {
    let absolute = absolute.as_ref();
    root.join(absolute.strip_prefix("/").unwrap_or(absolute))
}

/// The text of a file of the system; `None` if it cannot be read.
pub(crate) fn read(root: &Path, absolute: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(below(root, absolute)).ok()
}

/// The machine's memory; `None` if the system does not say.
pub(crate) fn memory(root: &Path) -> Option<Memory> {
    memory_from_file(root).or_else(memory_from_call).filter(|memory| memory.total_bytes > 0)
}

/// As the kernel's file says, below a root that may have none.
pub(crate) fn memory_from_file(root: &Path) -> Option<Memory> {
    let text = read(root, "/proc/meminfo")?;
    let field = |name: &str| -> Option<u64> {
        let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let total_bytes = field("MemTotal")?;
    // Kernels before 3.14 do not say what is available: then nothing is known to be taken.
    let available_bytes = field("MemAvailable").unwrap_or(total_bytes).min(total_bytes);
    Some(Memory { total_bytes, available_bytes })
}

#[cfg(target_os = "linux")]
fn memory_from_call() -> Option<Memory> {
    let info = rustix::system::sysinfo();
    // The fields are as wide as a pointer; their products need not fit.
    #[allow(clippy::unnecessary_cast, reason = "the cast does something on 32-bit systems")]
    let bytes = |units| (units as u64).saturating_mul(u64::from(info.mem_unit));
    let total_bytes = bytes(info.totalram);
    Some(Memory { total_bytes, available_bytes: bytes(info.freeram).min(total_bytes) })
}

#[cfg(target_os = "macos")]
fn memory_from_call() -> Option<Memory> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory_specifics(sysinfo::MemoryRefreshKind::nothing().with_ram());
    let total_bytes = system.total_memory();
    // Zero is this crate's word for unknown.
    let available_bytes = Some(system.available_memory()).filter(|&bytes| bytes > 0).unwrap_or(total_bytes);
    Some(Memory { total_bytes, available_bytes: available_bytes.min(total_bytes) })
}

/// The device's name for people: `host memory`, with the processor's model where that is cheap to learn.
pub(crate) fn device_name(root: &Path) -> String {
    match processor_name(root) {
        Some(processor) => format!("host memory ({processor})"),
        None => "host memory".into(),
    }
}

fn processor_name(root: &Path) -> Option<String> {
    // One processor's entry is enough. The whole file can be a megabyte, and making it disturbs every processor.
    let mut start = Vec::new();
    File::open(below(root, "/proc/cpuinfo")).ok()?.take(4096).read_to_end(&mut start).ok()?;
    let start = String::from_utf8_lossy(&start);
    let line = start.lines().find(|line| line.starts_with("model name"))?;
    let name = line.split_once(':')?.1.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// How much memory this process has locked, in bytes; `None` if the system does not say.
pub(crate) fn locked_bytes(root: &Path) -> Option<u64> {
    let text = read(root, "/proc/self/status")?;
    let value = text.lines().find_map(|line| line.strip_prefix("VmLck:"))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// How many blocks of one OS page or more the system can hold at once.
pub(crate) fn block_count_max(root: &Path, block_bytes_max: u64, page_bytes: u64) -> u64 {
    if cfg!(target_os = "linux") {
        // Each block is at most one mapping (a pinned one of which parts were released may be more). The rest of the
        // process needs mappings too (libraries, stacks, its own allocator), and aligning or destroying a block needs one
        // more for a moment: an eighth is left to them.
        let count_max = map_count_max(root).unwrap_or(MAP_COUNT_MAX_DEFAULT);
        count_max - count_max / 8
    } else {
        // No such limit is documented on macOS; the address space is the limit.
        block_bytes_max / page_bytes
    }
}

/// How many mappings behind sparse blocks there may be.
#[cfg(target_os = "linux")]
pub(crate) fn mapping_count_max(root: &Path) -> u64 {
    // Each takes two of the process's mappings at most: itself, and the addresses between it and the next. So this is half of all
    // that there may be; where blocks take the rest, the kernel refuses one or the other with an error.
    (map_count_max(root).unwrap_or(MAP_COUNT_MAX_DEFAULT) / 4).max(1)
}

fn map_count_max(root: &Path) -> Option<u64> {
    read(root, "/proc/sys/vm/max_map_count")?.trim().parse().ok().filter(|&count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{bare_tree, tree};

    const MEMINFO: &str =
        "MemTotal:       24684084 kB\nMemFree:        23783808 kB\nMemAvailable:   24363112 kB\n";

    #[test]
    fn memory_is_read_in_bytes() {
        let root = tree(&[("proc/meminfo", MEMINFO)]);
        let expected = Memory { total_bytes: 24684084 * 1024, available_bytes: 24363112 * 1024 };
        assert_eq!(memory(root.path()), Some(expected));
    }

    #[test]
    fn available_is_everything_where_the_kernel_does_not_say() {
        let root = tree(&[("proc/meminfo", "MemTotal: 8 kB\n")]);
        assert_eq!(memory(root.path()), Some(Memory { total_bytes: 8192, available_bytes: 8192 }));
        let root = tree(&[("proc/meminfo", "MemTotal: 8 kB\nMemAvailable: 9 kB\n")]);
        assert_eq!(memory(root.path()), Some(Memory { total_bytes: 8192, available_bytes: 8192 }));
    }

    #[test]
    fn garbled_memory_falls_back_to_the_system_call() {
        let garbled = [
            "",
            "MemTotal:",
            "MemTotal: kB",
            "MemTotal: many kB",
            "MemTotal: -1 kB",
            "MemTotal: 8 pages",
            "MemTotal: 99999999999999999999 kB",
            "MemTotal: 18446744073709551615 kB",
        ];
        for text in garbled {
            let root = tree(&[("proc/meminfo", text)]);
            assert_eq!(memory_from_file(root.path()), None, "{text:?}");
            assert!(memory(root.path()).is_some(), "{text:?}");
        }
        assert!(memory(bare_tree().path()).is_some());
    }

    #[test]
    fn device_is_named_after_the_processor() {
        let root = tree(&[("proc/cpuinfo", "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n")]);
        assert_eq!(device_name(root.path()), "host memory (Some CPU @ 2 GHz)");
        for text in ["", "model name", "model name\t: \n", "processor\t: 0\n"] {
            assert_eq!(device_name(tree(&[("proc/cpuinfo", text)]).path()), "host memory", "{text:?}");
        }
        assert_eq!(device_name(bare_tree().path()), "host memory");
    }

    #[test]
    fn locked_memory_is_read_in_bytes() {
        let locked = |text: &str| locked_bytes(tree(&[("proc/self/status", text)]).path());
        assert_eq!(locked("VmPeak:\t 9 kB\nVmLck:\t      12 kB\nVmPin:\t 1 kB\n"), Some(12 * 1024));
        for garbled in
            ["", "VmLck:", "VmLck: kB", "VmLck: 1", "VmLck: -1 kB", "VmLck: 18446744073709551615 kB"]
        {
            assert_eq!(locked(garbled), None, "{garbled:?}");
        }
        assert_eq!(locked_bytes(bare_tree().path()), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn block_count_leaves_mappings_to_the_process() {
        let count = |text: &str| {
            let root = tree(&[("proc/sys/vm/max_map_count", text)]);
            block_count_max(root.path(), 1 << 46, 4096)
        };
        assert_eq!(count("8000\n"), 7000);
        assert_eq!(count("1"), 1);
        assert_eq!(count("18446744073709551615"), u64::MAX - u64::MAX / 8);
        let mappings = |text: &str| mapping_count_max(tree(&[("proc/sys/vm/max_map_count", text)]).path());
        assert_eq!((mappings("8000\n"), mappings("1")), (2000, 1));
        for text in ["", "0", "-1", "many", "99999999999999999999"] {
            assert_eq!((count(text), mappings(text)), (65530 - 65530 / 8, 65530 / 4), "{text:?}");
        }
    }
}
