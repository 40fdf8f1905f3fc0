//! Memory of the host that devices write, whatever the process does.

use std::ptr::NonNull;

/// Zeroed pages of the system's.
///
/// After a `fork` they are the parent's alone: pages that both have are copied for whoever writes first, and if that is the parent, the
/// device goes on writing those that were locked, which are the child's then. The child finds zeros there.
#[derive(Debug)]
pub(super) struct Memory {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a range of memory, which no thread has more to do with than another.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

#[cfg(target_os = "linux")]
mod system {
    use super::*;
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    impl Memory {
        /// `None` if the system has none. `bytes` are whole pages.
        pub(in crate::words) fn new(bytes: usize) -> Option<Self> {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping where the system likes takes nothing from anybody.
            let start = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, access, MapFlags::PRIVATE) };
            let start = start.ok()?;
            // Systems older than Linux 4.14 do not know it; there a program does better not to fork.
            // SAFETY: it says only what a child finds there.
            let _ = unsafe { madvise(start, bytes, Advice::LinuxWipeOnFork) };
            Some(Self { start: NonNull::new(start.cast())?, bytes })
        }
    }

    impl Drop for Memory {
        fn drop(&mut self) {
            // SAFETY: the mapping is this value's, and nobody uses it any more.
            let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::*;
    use std::alloc::{Layout, alloc_zeroed, dealloc};

    /// The largest page of a system without `fork`.
    const ALIGNMENT_BYTES: usize = 64 << 10;

    fn layout(bytes: usize) -> Option<Layout> {
        Layout::from_size_align(bytes, ALIGNMENT_BYTES).ok()
    }

    impl Memory {
        /// `None` if the system has none. `bytes` are whole pages, and not 0.
        pub(in crate::words) fn new(bytes: usize) -> Option<Self> {
            // SAFETY: the layout has a size.
            let start = unsafe { alloc_zeroed(layout(bytes)?) };
            Some(Self { start: NonNull::new(start)?, bytes })
        }
    }

    impl Drop for Memory {
        fn drop(&mut self) {
            if let Some(layout) = layout(self.bytes) {
                // SAFETY: allocated with this layout, and nobody uses it any more.
                unsafe { dealloc(self.start.as_ptr(), layout) };
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_child_does_not_share_it() {
        let memory = Memory::new(64 << 10).expect("there is memory");
        let start = memory.start().addr().get();
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("Linux has it");
        let hex = |text: &str| usize::from_str_radix(text, 16).ok();
        // The range's line, and some lines further what the system knows of it.
        let mut lines = maps.lines().skip_while(|line| {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            range.and_then(|(first, end)| Some((hex(first)?..hex(end)?).contains(&start))) != Some(true)
        });
        let flags = lines.find(|line| line.starts_with("VmFlags:")).expect("each range has them");
        assert!(flags.split(' ').any(|flag| flag == "wf"), "{flags}");
    }
}
