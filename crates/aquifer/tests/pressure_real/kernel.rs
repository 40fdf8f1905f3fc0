//! What the kernel says, heard by the test itself, beside the monitor.

use crate::groups::Group;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Somebody else who listens to what a source listens to.
#[derive(Debug)]
pub(crate) struct Listener {
    descriptor: OwnedFd,
    news: PollFlags,
}

impl Listener {
    /// To the notices that memory is taken back from a group of version 1.
    pub(crate) fn to_notices(group: &Group) -> Result<Self, String> {
        let counter = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let file = File::open(group.file("memory.pressure_level")).map_err(|error| error.to_string())?;
        let line = format!("{} {} low,local", counter.as_raw_fd(), file.as_raw_fd());
        std::fs::write(group.file("cgroup.event_control"), line)
            .map_err(|error| format!("no notices: {error}"))?;
        Ok(Self { descriptor: counter, news: PollFlags::IN })
    }

    /// To stalls of that share, in percent, of 2 s.
    pub(crate) fn to_stalls(file: &Path, percent: u32) -> Result<Self, String> {
        let refused = |error| format!("no trigger on {}: {error}", file.display());
        let mut trigger = OpenOptions::new().read(true).write(true).open(file).map_err(refused)?;
        trigger.write_all(format!("some {} 2000000\0", percent * 20_000).as_bytes()).map_err(refused)?;
        Ok(Self { descriptor: trigger.into(), news: PollFlags::PRI })
    }

    /// Whether there is news within `timeout`.
    pub(crate) fn has_news(&self, timeout: Duration) -> bool {
        let timeout = Timespec::try_from(timeout).unwrap();
        let mut descriptors = [PollFd::from_borrowed_fd(self.descriptor.as_fd(), self.news)];
        rustix::io::retry_on_intr(|| poll(&mut descriptors, Some(&timeout))).unwrap() == 1
    }
}

/// How many processes of a group of version 1 the kernel has ended for want of memory; or why it does not say.
pub(crate) fn kills(group: &Group) -> Result<u64, String> {
    let text =
        std::fs::read_to_string(group.file("memory.oom_control")).map_err(|error| error.to_string())?;
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.parse().ok()).ok_or_else(|| "the kernel does not count kills".into())
}

/// Whether memory can be written elsewhere instead of being short.
pub(crate) fn has_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

/// A field of `/proc/self/task/<thread>/status` that is a number.
pub(crate) fn thread_status(thread: i32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap().trim().parse().unwrap()
}

/// The threads of this process that are monitors'.
pub(crate) fn monitor_threads() -> Vec<i32> {
    let mut threads = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().map(Result::unwrap) {
        // One that ends meanwhile has no name any more. The kernel keeps 15 bytes.
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.trim_end() == "aquifer-pressur" {
            threads.push(task.file_name().to_str().unwrap().parse().unwrap());
        }
    }
    threads
}

/// How much processor time a thread of this process has had, in the kernel's ticks.
pub(crate) fn cpu_time(thread: i32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
    // The fields 14 and 15 (proc_pid_stat(5)); the second may have spaces in it.
    let fields: Vec<_> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_secs(1).mul_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
