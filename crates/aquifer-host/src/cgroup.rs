//! The control groups this process is in, versions 1 and 2, and what their files say of memory.
//!
//! A process is in one group per hierarchy, named in `/proc/self/cgroup`. Every group from there up to the top limits
//! it. Where a hierarchy is mounted stands in `/proc/self/mountinfo`; a container often sees only a part of it, whose top is then
//! the container's own group.

use std::io;
use std::path::{Path, PathBuf};

use crate::budget::Bound;
use crate::facts;

/// The names of one version's files.
#[derive(Debug)]
pub(crate) struct Version {
    file_system: &'static str,
    /// The option by which the right one of several mounts is known.
    mount_option: Option<&'static str>,
    /// Where the hierarchy is, if the list of mounts does not tell.
    mount_point_default: &'static str,
    /// Files with a limit. The lowest counts.
    limits: &'static [&'static str],
    usage: &'static str,
    /// The field of `memory.stat` with file contents that have not been used lately.
    inactive_file: &'static str,
}

pub(crate) static VERSION_1: Version = Version {
    file_system: "cgroup",
    mount_option: Some("memory"),
    mount_point_default: "/sys/fs/cgroup/memory",
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    inactive_file: "total_inactive_file",
};

pub(crate) static VERSION_2: Version = Version {
    file_system: "cgroup2",
    mount_option: None,
    mount_point_default: "/sys/fs/cgroup",
    // Above memory.high a process is not refused memory but slowed down until it is of no use.
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    inactive_file: "inactive_file",
};

#[cfg(target_os = "linux")]
impl Version {
    /// For messages.
    pub(crate) fn in_words(&self) -> &'static str {
        if self.mount_option.is_none() { "cgroup v2" } else { "cgroup v1" }
    }

    /// The names of the files with limits, for messages.
    pub(crate) fn limits_in_words(&self) -> String {
        self.limits.join(", ")
    }
}

/// One control group that can be seen from here.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) folder: PathBuf,
    pub(crate) version: &'static Version,
}

/// The groups that bind this process: its own of each hierarchy that may have memory's files, each followed by those above it.
pub(crate) fn groups(root: &Path) -> Vec<Group> {
    let lines = facts::read(root, "/proc/self/cgroup").unwrap_or_default();
    let mut groups = Vec::new();
    for line in lines.lines() {
        // hierarchy:controllers:group, and the group may hold further colons.
        let mut fields = line.splitn(3, ':');
        let (Some(hierarchy), Some(controllers), Some(group)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let version = if controllers.split(',').any(|controller| controller == "memory") {
            &VERSION_1
        } else if hierarchy == "0" && controllers.is_empty() {
            &VERSION_2
        } else {
            continue;
        };
        let folders = levels(root, version, Path::new(group));
        groups.extend(folders.map(|folder| Group { folder, version }));
    }
    groups
}

/// The groups of one version, the process's own first.
#[cfg(target_os = "linux")]
pub(crate) fn groups_of(root: &Path, version: &Version) -> Vec<Group> {
    groups(root).into_iter().filter(|group| std::ptr::eq(group.version, version)).collect()
}

/// All limits that bind this process. Anything absent or garbled is no limit.
pub(crate) fn bounds(root: &Path) -> Vec<Bound> {
    groups(root).iter().filter_map(Group::bound).collect()
}

impl Group {
    /// A file of the group's.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The lowest limit in bytes; `None` if there is none, or no file that could hold one, as at the top.
    ///
    /// # Errors
    ///
    /// A file that is there, and cannot be read or is garbled.
    #[cfg(target_os = "linux")]
    pub(crate) fn limit_bytes(&self) -> io::Result<Option<u64>> {
        let mut lowest = None;
        for name in self.version.limits {
            match self.number(name) {
                Ok(limit) => lowest = lowest.into_iter().chain(limit).min(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(lowest)
    }

    /// What is used and could not be had at once, in bytes.
    ///
    /// # Errors
    ///
    /// It cannot be read or is garbled. Without `memory.stat` nothing is known to be droppable.
    pub(crate) fn used_bytes(&self) -> io::Result<u64> {
        let used_bytes = self.number(self.version.usage)?.unwrap_or(0);
        // The kernel counts file contents as used but drops those not used lately as soon as memory is wanted.
        let stat = std::fs::read_to_string(self.file("memory.stat")).unwrap_or_default();
        let droppable_bytes = stat.lines().find_map(|line| {
            line.strip_prefix(self.version.inactive_file)?.strip_prefix(' ')?.trim().parse::<u64>().ok()
        });
        Ok(used_bytes.saturating_sub(droppable_bytes.unwrap_or(0)))
    }

    fn bound(&self) -> Option<Bound> {
        let limits = self.version.limits.iter().filter_map(|name| self.number(name).ok().flatten());
        Some(Bound { bytes_max: limits.min()?, used_bytes: self.used_bytes().unwrap_or(0) })
    }

    /// The number in a file; `None` if it says "max", which is none.
    fn number(&self, name: &str) -> io::Result<Option<u64>> {
        let text = std::fs::read_to_string(self.file(name))?;
        match text.trim() {
            "max" => Ok(None),
            digits => digits.parse().map(Some).map_err(|_| {
                let path = self.file(name);
                io::Error::new(io::ErrorKind::InvalidData, format!("{} says {text:?}", path.display()))
            }),
        }
    }
}

/// The folders of a group and of all groups above it that can be seen.
fn levels(root: &Path, version: &Version, group: &Path) -> impl Iterator<Item = PathBuf> {
    let (mount_point, mount_root) = mount(root, version, group)
        .unwrap_or_else(|| (PathBuf::from(version.mount_point_default), PathBuf::from("/")));
    let top = facts::below(root, mount_point);
    // A group outside of this process's namespace is written with "..", and is not to be seen; only the top is.
    let is_visible = group.is_absolute() && !group.components().any(|part| part.as_os_str() == "..");
    let below_top = if is_visible { group.strip_prefix(&mount_root).unwrap_or(group) } else { Path::new("") };
    let own = facts::below(&top, below_top);
    let levels: Vec<_> =
        own.ancestors().take_while(|level| level.starts_with(&top)).map(Path::to_owned).collect();
    levels.into_iter()
}

/// Where a hierarchy is mounted, and which group is its top there: the first mount that shows `group`.
///
/// Spaces in either are written as octal escapes and not decoded here: the default is then taken.
fn mount(root: &Path, version: &Version, group: &Path) -> Option<(PathBuf, PathBuf)> {
    let mounts = facts::read(root, "/proc/self/mountinfo")?;
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let (file_system, options) = (kind.next()?, kind.nth(1)?);
        let mut place = place.split(' ');
        let (mount_root, mount_point) = (place.nth(3)?, place.next()?);
        let is_ours = file_system == version.file_system
            && version.mount_option.is_none_or(|name| options.split(',').any(|option| option == name))
            && group.starts_with(mount_root)
            && !mount_point.contains('\\');
        is_ours.then(|| (mount_point.into(), mount_root.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{bare_tree, tree};

    fn bound(bytes_max: u64, used_bytes: u64) -> Bound {
        Bound { bytes_max, used_bytes }
    }

    #[test]
    fn version_2_counts_every_level() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/app/worker\n"),
            ("sys/fs/cgroup/app/memory.max", "4096000\n"),
            ("sys/fs/cgroup/app/memory.current", "96000\n"),
            ("sys/fs/cgroup/app/worker/memory.max", "max\n"),
            ("sys/fs/cgroup/app/worker/memory.high", "max\n"),
            ("sys/fs/cgroup/app/worker/memory.current", "1\n"),
            ("sys/fs/cgroup/other/memory.max", "1\n"),
        ]);
        assert_eq!(bounds(root.path()), [bound(4096000, 96000)]);
    }

    #[test]
    fn version_2_takes_the_lower_of_max_and_high() {
        for (max, high, expected) in
            [("500", "400", 400), ("400", "500", 400), ("max", "400", 400), ("400", "max", 400)]
        {
            let root = tree(&[
                ("proc/self/cgroup", "0::/app\n"),
                ("sys/fs/cgroup/app/memory.max", max),
                ("sys/fs/cgroup/app/memory.high", high),
                ("sys/fs/cgroup/app/memory.current", "100\n"),
            ]);
            assert_eq!(bounds(root.path()), [bound(expected, 100)], "{max} {high}");
        }
    }

    #[test]
    fn inactive_files_do_not_count_as_used() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "1000\n"),
            ("sys/fs/cgroup/memory.current", "900\n"),
            (
                "sys/fs/cgroup/memory.stat",
                "anon 1\nfile 700\ninactive_file_x 3\ninactive_file 600\nactive_file 100\n",
            ),
        ]);
        assert_eq!(bounds(root.path()), [bound(1000, 300)]);
    }

    #[test]
    fn version_1_is_read_at_every_level() {
        let root = tree(&[
            ("proc/self/cgroup", "5:cpuacct,memory:/a/b\n4:cpu:/z\n"),
            (
                "proc/self/mountinfo",
                "35 31 0:32 / /cg/mem rw,relatime shared:1 - cgroup cgroup rw,cpuacct,memory\n",
            ),
            ("cg/mem/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cg/mem/memory.usage_in_bytes", "5000\n"),
            ("cg/mem/a/memory.limit_in_bytes", "3000\n"),
            ("cg/mem/a/memory.usage_in_bytes", "2000\n"),
            ("cg/mem/a/memory.stat", "inactive_file 1\ntotal_inactive_file 500\n"),
            ("cg/mem/a/b/memory.limit_in_bytes", "2500\n"),
        ]);
        assert_eq!(
            bounds(root.path()),
            [bound(2500, 0), bound(3000, 1500), bound(9223372036854771712, 5000)]
        );
    }

    #[test]
    fn version_1_in_a_container_that_sees_its_group_as_the_top() {
        let files = [
            ("proc/self/cgroup", "4:memory:/docker/abc/sub\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "3000\n"),
            ("sys/fs/cgroup/memory/sub/memory.limit_in_bytes", "2000\n"),
        ];
        // Without the list of mounts only the top can be found.
        assert_eq!(bounds(tree(&files).path()), [bound(3000, 0)]);
        let mounts = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let root = tree(&[files[0], files[1], files[2], ("proc/self/mountinfo", mounts)]);
        assert_eq!(bounds(root.path()), [bound(2000, 0), bound(3000, 0)]);
    }

    #[test]
    fn hybrid_has_its_memory_in_version_1() {
        let root = tree(&[
            ("proc/self/cgroup", "4:memory:/a\n1:name=systemd:/\n0::/\n"),
            (
                "proc/self/mountinfo",
                "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                 32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                 35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
            ),
            ("sys/fs/cgroup/unified/cgroup.procs", "1\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "700\n"),
            ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "800\n"),
        ]);
        assert_eq!(bounds(root.path()), [bound(700, 800)]);
    }

    #[test]
    fn a_group_outside_of_the_namespace_is_bound_by_the_top() {
        for group in ["0::/../../x\n", "0::/..\n", "0::relative\n", "0::\n"] {
            let root = tree(&[
                ("proc/self/cgroup", group),
                ("x/memory.max", "1\n"),
                ("sys/x/memory.max", "2\n"),
                ("sys/memory.max", "3\n"),
                ("sys/fs/cgroup/memory.max", "900\n"),
            ]);
            assert_eq!(bounds(root.path()), [bound(900, 0)], "{group:?}");
        }
    }

    #[test]
    fn absent_and_garbled_files_are_no_limit() {
        assert_eq!(bounds(bare_tree().path()), []);
        assert_eq!(bounds(tree(&[("proc/self/cgroup", "0::/gone\n")]).path()), []);
        for groups in ["", "\n\n", ":", "::", "0:", "0:/", "x::/", "1:cpu:/\n"] {
            let root = tree(&[("proc/self/cgroup", groups), ("sys/fs/cgroup/memory.max", "900\n")]);
            assert_eq!(bounds(root.path()), [], "{groups:?}");
        }
        for limit in ["", "max", "-1", "12 MB", "1e9", "0x10", "18446744073709551616", "\u{fffd}"] {
            let root = tree(&[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", limit)]);
            assert_eq!(bounds(root.path()), [], "{limit:?}");
        }
        for usage in ["", "max", "-1", "18446744073709551616"] {
            let root = tree(&[
                ("proc/self/cgroup", "0::/\n"),
                ("proc/self/mountinfo", "garbled - x\n - \n35 31 0:32 / - cgroup2\n\u{fffd}"),
                ("sys/fs/cgroup/memory.max", "900\n"),
                ("sys/fs/cgroup/memory.current", usage),
                ("sys/fs/cgroup/memory.stat", "inactive_file\ninactive_file x\n"),
            ]);
            assert_eq!(bounds(root.path()), [bound(900, 0)], "{usage:?}");
        }
    }

    #[test]
    fn group_names_may_hold_colons() {
        let root = tree(&[("proc/self/cgroup", "0::/a:b\n"), ("sys/fs/cgroup/a:b/memory.max", "900\n")]);
        assert_eq!(bounds(root.path()), [bound(900, 0)]);
    }
}
