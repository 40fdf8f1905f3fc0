//! Everything that this machine offers.

use aquifer_backend::{Error, PressureNotifier, PressureReading, PressureSource, PressureWake};

use super::options::PressureOptions;

/// The sources of this machine for this process.
#[derive(Debug, Default)]
pub struct SystemSources {
    /// What there is, best first. None is started; each was started for a moment to see whether it works.
    pub sources: Vec<Box<dyn PressureSource>>,
    /// What there is not, in the same order.
    pub absent: Vec<AbsentSource>,
}

/// A source that this machine does not offer to this process.
#[derive(Debug)]
pub struct AbsentSource {
    /// What it is, in one short line.
    pub name: String,
    /// Why it is not to be had, and what would change that.
    pub reason: Error,
}

impl AbsentSource {
    /// Nothing that is tried again, whatever it was.
    fn error(&self) -> Error {
        let message = self.reason.message().to_owned();
        Error::new(aquifer_backend::ErrorKind::Unsupported, self.reason.operation(), message)
    }
}

impl PressureSource for AbsentSource {
    fn name(&self) -> String {
        self.name.clone()
    }

    /// # Errors
    ///
    /// Always: [`ErrorKind::Unsupported`](aquifer_backend::ErrorKind::Unsupported), with the reason.
    fn start(&mut self, _notifier: &PressureNotifier) -> Result<(), Error> {
        Err(self.error())
    }

    fn wake(&self) -> PressureWake<'_> {
        PressureWake::Notifies
    }

    /// # Errors
    ///
    /// Always.
    fn read(&mut self) -> Result<PressureReading, Error> {
        Err(self.error())
    }
}

impl SystemSources {
    /// All of them as sources for a monitor, also those that are absent: they never start, and the monitor's statistics say why.
    #[must_use]
    pub fn into_all(self) -> Vec<Box<dyn PressureSource>> {
        let absent = self.absent.into_iter().map(|absent| Box::new(absent) as Box<dyn PressureSource>);
        self.sources.into_iter().chain(absent).collect()
    }
}

/// Everything that this machine offers to this process, and for each source that it does not offer, why.
///
/// In this order, since what is nearer to the process and comes sooner is better: pressure stall information of the process's
/// control group, then of the machine; control groups of version 2, then of version 1; the machine's memory. Where the kernel
/// refuses triggers, stall information is polled, and the trigger is named as absent. With options that make no sense everything is
/// absent.
///
/// Blocks for some tens of system calls on files of the kernel's.
#[must_use]
pub fn system_sources(options: &PressureOptions) -> SystemSources {
    let mut found = SystemSources::default();
    if let Err(reason) = options.validate("system_sources") {
        found.absent.push(AbsentSource { name: "all sources of the system".into(), reason });
        return found;
    }
    #[cfg(target_os = "linux")]
    linux::add(&mut found, options);
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    found.offer("machine memory", || super::MachineSource::new(options));
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    found.absent.push(AbsentSource {
        name: "machine memory".into(),
        reason: Error::new(
            aquifer_backend::ErrorKind::Unsupported,
            "system_sources",
            "pressure is told on Linux and macOS; give sources of your own here",
        ),
    });
    found
}

#[cfg_attr(
    not(any(target_os = "linux", target_os = "macos")),
    expect(dead_code, reason = "nothing is offered there")
)]
impl SystemSources {
    /// Adds what `make` makes, if that can be started; else says why not. Whether it was added.
    fn offer<S: PressureSource + 'static>(
        &mut self,
        name: &str,
        make: impl Fn() -> Result<S, Error>,
    ) -> bool {
        match Self::try_out(&make) {
            Ok(source) => {
                self.sources.push(Box::new(source));
                true
            }
            Err(reason) => {
                self.absent.push(AbsentSource { name: name.to_owned(), reason });
                false
            }
        }
    }

    /// One that was not started, if another like it can be.
    fn try_out<S: PressureSource>(make: impl Fn() -> Result<S, Error>) -> Result<S, Error> {
        make()?.start(&PressureNotifier::new(|| {}))?;
        make()
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::Path;

    use aquifer_backend::{Error, ErrorKind};

    use super::super::{
        CgroupV1NoticeSource, CgroupV1Source, CgroupV2Source, PressureOptions, PsiSource, START,
    };
    use super::{AbsentSource, SystemSources};
    use crate::cgroup::{VERSION_2, groups_of};
    use crate::facts;

    const GROUP_PSI: &str = "psi of this process's control group";

    pub(super) fn add(found: &mut SystemSources, options: &PressureOptions) {
        let system_file = facts::below(&options.root, PsiSource::SYSTEM_FILE);
        match groups_of(&options.root, &VERSION_2).first() {
            None => found.absent.push(no_group("this process is in no cgroup v2 hierarchy")),
            // The top group has no type. Its pressure is the machine's, so where that is told once, once is enough.
            Some(own) if !own.file("cgroup.type").exists() && system_file.exists() => {
                let message =
                    format!("{} is the top group, whose pressure is the machine's", own.folder.display());
                found.absent.push(no_group(&message));
            }
            Some(own) => psi(found, GROUP_PSI, &own.file("memory.pressure"), options),
        }
        psi(found, "psi of the machine", &system_file, options);
        found.offer("cgroup v2 usage", || CgroupV2Source::new(options));
        found.offer("cgroup v1 notices", || CgroupV1NoticeSource::new(options));
        found.offer("cgroup v1 usage", || CgroupV1Source::new(options));
    }

    fn no_group(message: &str) -> AbsentSource {
        AbsentSource { name: GROUP_PSI.into(), reason: Error::new(ErrorKind::Unsupported, START, message) }
    }

    fn psi(found: &mut SystemSources, name: &str, file: &Path, options: &PressureOptions) {
        let is_woken =
            found.offer(&format!("{name}, woken by a trigger"), || PsiSource::new(file, options.psi.clone()));
        if !is_woken {
            let polled = || PsiSource::polled(file, options.psi.clone(), options.interval);
            found.offer(&format!("{name}, polled"), polled);
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::tree::{bare_tree, tree};
    use aquifer_backend::ErrorKind;
    use std::path::Path;

    fn options(root: &Path) -> PressureOptions {
        PressureOptions { root: root.into(), ..PressureOptions::default() }
    }

    /// Names with the root as `/`, in order.
    fn offered(root: &Path) -> (Vec<String>, Vec<String>) {
        let found = system_sources(&options(root));
        let prefix = format!("{}/", root.display());
        let names = found.sources.iter().map(|source| source.name().replace(&prefix, "/")).collect();
        for absent in &found.absent {
            assert!(!absent.reason.message().is_empty());
        }
        (names, found.absent.into_iter().map(|absent| absent.name).collect())
    }

    const STALLS: &str =
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 600 kB\n");

    #[test]
    fn a_bare_machine_offers_nothing_and_says_why() {
        let (sources, absent) = offered(bare_tree().path());
        assert_eq!(sources, [""; 0]);
        assert_eq!(
            absent,
            [
                "psi of this process's control group",
                "psi of the machine, woken by a trigger",
                "psi of the machine, polled",
                "cgroup v2 usage",
                "cgroup v1 notices",
                "cgroup v1 usage",
                "machine memory",
            ]
        );
    }

    #[test]
    fn version_2_with_its_controller() {
        let root = tree(&[
            MEMINFO,
            ("proc/pressure/memory", STALLS),
            ("proc/self/cgroup", "0::/app\n"),
            ("sys/fs/cgroup/app/cgroup.type", "domain\n"),
            ("sys/fs/cgroup/app/memory.pressure", STALLS),
            ("sys/fs/cgroup/app/memory.max", "100000\n"),
            ("sys/fs/cgroup/app/memory.current", "90000\n"),
        ]);
        let expected = [
            "psi some 100ms/2s /sys/fs/cgroup/app/memory.pressure",
            "psi some 100ms/2s /proc/pressure/memory",
            "cgroup v2 usage /sys/fs/cgroup/app",
            "machine memory /proc/meminfo",
        ];
        // A recorded file takes every trigger.
        let (sources, absent) = offered(root.path());
        assert_eq!(sources, expected);
        assert_eq!(absent, ["cgroup v1 notices", "cgroup v1 usage"]);
    }

    #[test]
    fn version_1_beside_version_2_at_its_top() {
        let root = tree(&[
            MEMINFO,
            ("proc/pressure/memory", STALLS),
            ("proc/self/cgroup", "4:memory:/app\n0::/\n"),
            ("sys/fs/cgroup/memory.pressure", STALLS),
            ("sys/fs/cgroup/memory/app/memory.limit_in_bytes", "100000\n"),
            ("sys/fs/cgroup/memory/app/memory.usage_in_bytes", "90000\n"),
        ]);
        let (sources, absent) = offered(root.path());
        let expected = [
            "psi some 100ms/2s /proc/pressure/memory",
            "cgroup v1 usage /sys/fs/cgroup/memory/app",
            "machine memory /proc/meminfo",
        ];
        assert_eq!(sources, expected);
        assert_eq!(absent, ["psi of this process's control group", "cgroup v2 usage", "cgroup v1 notices"]);
        // Where the machine's is not to be seen, the top group's will do.
        std::fs::remove_file(root.path().join("proc/pressure/memory")).unwrap();
        assert_eq!(offered(root.path()).0[0], "psi some 100ms/2s /sys/fs/cgroup/memory.pressure");
    }

    #[test]
    fn options_that_make_no_sense_leave_nothing() {
        let mut options = PressureOptions::default();
        options.psi.rules.clear();
        let found = system_sources(&options);
        assert!(found.sources.is_empty());
        assert_eq!(found.absent.len(), 1);
        assert_eq!(found.absent[0].reason.kind(), ErrorKind::Configuration);
    }
}
