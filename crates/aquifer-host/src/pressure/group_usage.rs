//! How full the control groups are that bind this process.

use std::io;
use std::path::Path;

use aquifer_backend::{Error, ErrorKind, PressureLevel, PressureReading};

use super::START;
use super::files::unreadable;
use crate::cgroup::{Group, Version, groups_of};
use crate::facts;

/// The groups of one hierarchy, from the process's own to the top: those that it was in when this was made.
#[derive(Debug, Clone)]
pub(super) struct GroupUsage {
    /// Never empty. The process's own first.
    groups: Vec<Group>,
    /// A limit that is not below this is none.
    machine_bytes: u64,
}

impl GroupUsage {
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`]: this process is in no such hierarchy.
    pub(super) fn find(root: &Path, version: &'static Version) -> Result<Self, Error> {
        let groups = groups_of(root, version);
        if groups.is_empty() {
            let message = format!(
                "/proc/self/cgroup names no {} hierarchy with memory for this process; the other sources do without",
                version.in_words()
            );
            return Err(Error::new(ErrorKind::Unsupported, START, message));
        }
        // Without a limit version 1 says 2^63 less one page.
        let machine_bytes = facts::memory(root).map_or(1 << 62, |memory| memory.total_bytes);
        Ok(Self { groups, machine_bytes })
    }

    /// The process's own group.
    pub(super) fn own(&self) -> &Path {
        &self.groups[0].folder
    }

    /// # Errors
    ///
    /// [`ErrorKind::Driver`]: the process's own group has gone.
    pub(super) fn check(&self, operation: &'static str) -> Result<(), Error> {
        std::fs::metadata(self.own()).map(drop).map_err(|error| unreadable(operation, self.own(), error))
    }

    /// The groups that have a limit now, each with it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`]: the process's own group has gone, or a limit cannot be understood.
    pub(super) fn limited(&self, operation: &'static str) -> Result<Vec<(&Group, u64)>, Error> {
        // Without this a group that goes would look like one without a limit.
        self.check(operation)?;
        let mut limited = Vec::new();
        for group in &self.groups {
            let limit = group.limit_bytes().map_err(|error| group_error(operation, group, error))?;
            limited.extend(limit.filter(|&limit| limit < self.machine_bytes).map(|limit| (group, limit)));
        }
        Ok(limited)
    }

    /// The groups that have a limit now, at least one.
    ///
    /// # Errors
    ///
    /// As for [`Self::limited`]; [`ErrorKind::Unsupported`]: none has one.
    pub(super) fn some_limited(&self, operation: &'static str) -> Result<Vec<(&Group, u64)>, Error> {
        let limited = self.limited(operation)?;
        if limited.is_empty() {
            let message = format!(
                "neither {} nor any group above it has a limit ({}) below the machine's memory, so only the machine bounds \
                 this process",
                self.own().display(),
                self.groups[0].version.limits_in_words()
            );
            return Err(Error::new(ErrorKind::Unsupported, operation, message));
        }
        Ok(limited)
    }

    /// As [`Self::tightest`], for a source that has started: a limit that is lifted may come again, and presses nobody meanwhile.
    ///
    /// # Errors
    ///
    /// As for [`Self::limited`], and if what is used cannot be understood.
    pub(super) fn reading(&self, operation: &'static str) -> Result<PressureReading, Error> {
        match self.tightest(operation) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                Ok(PressureReading::Level(PressureLevel::Normal))
            }
            reading => reading,
        }
    }

    /// How full the group is that is fullest, against its limit.
    ///
    /// # Errors
    ///
    /// As for [`Self::some_limited`], and if what is used cannot be understood.
    pub(super) fn tightest(&self, operation: &'static str) -> Result<PressureReading, Error> {
        let mut tightest: Option<(u64, u64)> = None;
        for (group, limit) in self.some_limited(operation)? {
            let used = group.used_bytes().map_err(|error| group_error(operation, group, error))?;
            // used / limit, without dividing by 0. Two groups that may have nothing are equal.
            let is_fuller = |&(other_used, other_limit): &(u64, u64)| {
                u128::from(used) * u128::from(other_limit) > u128::from(other_used) * u128::from(limit)
            };
            if tightest.as_ref().is_none_or(is_fuller) {
                tightest = Some((used, limit));
            }
        }
        let (used_bytes, limit_bytes) = tightest.unwrap_or_default();
        Ok(PressureReading::Usage { used_bytes, limit_bytes })
    }
}

fn group_error(operation: &'static str, group: &Group, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::InvalidData {
        let message = format!("{} is not understood: {error}", group.folder.display());
        return Error::new(ErrorKind::Driver, operation, message).with_source(error);
    }
    unreadable(operation, &group.folder, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{VERSION_1, VERSION_2};
    use crate::tree::{bare_tree, tree};

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 600 kB\n");
    const OWN: (&str, &str) = ("proc/self/cgroup", "4:memory:/a/b\n0::/a/b\n");

    fn usage(used_bytes: u64, limit_bytes: u64) -> PressureReading {
        PressureReading::Usage { used_bytes, limit_bytes }
    }

    #[test]
    fn the_fullest_group_counts_whatever_its_limit() {
        let root = tree(&[
            MEMINFO,
            OWN,
            ("sys/fs/cgroup/memory.current", "999000\n"),
            ("sys/fs/cgroup/a/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.high", "500000\n"),
            ("sys/fs/cgroup/a/memory.current", "450000\n"),
            ("sys/fs/cgroup/a/memory.stat", "inactive_file 50000\n"),
            ("sys/fs/cgroup/a/b/memory.max", "300000\n"),
            ("sys/fs/cgroup/a/b/memory.high", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "100000\n"),
        ]);
        let groups = GroupUsage::find(root.path(), &VERSION_2).unwrap();
        assert!(groups.own().ends_with("sys/fs/cgroup/a/b"));
        assert_eq!(groups.tightest("test").unwrap(), usage(400_000, 500_000));
        let write = |name: &str, text: &str| std::fs::write(root.path().join(name), text).unwrap();
        write("sys/fs/cgroup/a/b/memory.current", "270000\n");
        assert_eq!(groups.tightest("test").unwrap(), usage(270_000, 300_000));
        // A limit of 0 is fuller than any.
        write("sys/fs/cgroup/a/memory.high", "0\n");
        assert_eq!(groups.tightest("test").unwrap(), usage(400_000, 0));
        // One that is not below the machine's memory is none.
        write("sys/fs/cgroup/a/memory.high", "1024000\n");
        write("sys/fs/cgroup/a/b/memory.max", "max\n");
        let error = groups.tightest("test").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.message().contains("memory.max, memory.high"), "{error}");
    }

    #[test]
    fn version_1_counts_alike() {
        let root = tree(&[
            MEMINFO,
            OWN,
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "500000\n"),
            ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "450000\n"),
            ("sys/fs/cgroup/memory/a/memory.stat", "inactive_file 3\ntotal_inactive_file 50000\n"),
            ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        let groups = GroupUsage::find(root.path(), &VERSION_1).unwrap();
        assert_eq!(groups.tightest("test").unwrap(), usage(400_000, 500_000));
    }

    #[test]
    fn what_is_absent_garbled_or_gone_is_told() {
        let error = GroupUsage::find(bare_tree().path(), &VERSION_2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");

        let own = "sys/fs/cgroup/a/b";
        let root = tree(&[
            MEMINFO,
            OWN,
            ("sys/fs/cgroup/a/memory.max", "500000\n"),
            ("sys/fs/cgroup/a/memory.current", "450000\n"),
            ("sys/fs/cgroup/a/b/memory.max", "300000\n"),
            ("sys/fs/cgroup/a/b/memory.current", "100000\n"),
        ]);
        let groups = GroupUsage::find(root.path(), &VERSION_2).unwrap();
        for (file, good) in [("memory.max", "300000\n"), ("memory.current", "100000\n")] {
            let path = root.path().join(own).join(file);
            for garbled in ["", "-1", "12 MB", "1e9", "18446744073709551616", "\u{fffd}"] {
                std::fs::write(&path, garbled).unwrap();
                let error = groups.tightest("test").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Driver, "{garbled:?}: {error}");
                assert!(error.message().contains(own), "{error}");
            }
            std::fs::write(&path, good).unwrap();
        }
        assert!(groups.tightest("test").is_ok());
        std::fs::remove_dir_all(root.path().join(own)).unwrap();
        let error = groups.tightest("test").unwrap_err();
        assert!(error.kind() == ErrorKind::Driver && error.message().contains("has gone"), "{error}");
    }
}
