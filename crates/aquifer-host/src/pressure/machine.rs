//! The machine's memory.

use std::path::PathBuf;
use std::time::Duration;

use aquifer_backend::{Error, ErrorKind, PressureNotifier, PressureReading, PressureSource, PressureWake};

use super::options::PressureOptions;
use super::{READ, START};
use crate::facts;

/// How much of the machine's memory is used and could not be had at once: on Linux `MemTotal` less `MemAvailable` of
/// `/proc/meminfo`. It is read at an interval, works everywhere, and knows nothing of limits below the machine's memory.
#[derive(Debug, Clone)]
pub struct MachineSource {
    root: PathBuf,
    interval: Duration,
}

impl MachineSource {
    /// One for this machine.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`]: options that make no sense.
    pub fn new(options: &PressureOptions) -> Result<Self, Error> {
        options.validate("MachineSource::new")?;
        Ok(Self { root: options.root.clone(), interval: options.interval })
    }

    fn usage(&self, operation: &'static str) -> Result<PressureReading, Error> {
        // On Linux not from the system call: it counts caches of files as used.
        #[cfg(target_os = "linux")]
        let memory = facts::memory_from_file(&self.root);
        #[cfg(not(target_os = "linux"))]
        let memory = facts::memory(&self.root);
        match memory.filter(|memory| memory.total_bytes > 0) {
            Some(memory) => Ok(PressureReading::Usage {
                used_bytes: memory.total_bytes - memory.available_bytes,
                limit_bytes: memory.total_bytes,
            }),
            None => {
                let message = "the system does not say how much memory there is; on Linux mount /proc, where meminfo says it";
                Err(Error::new(ErrorKind::Driver, operation, message))
            }
        }
    }
}

impl PressureSource for MachineSource {
    fn name(&self) -> String {
        if cfg!(target_os = "linux") {
            format!("machine memory {}", facts::below(&self.root, "/proc/meminfo").display())
        } else {
            "machine memory".into()
        }
    }

    /// # Errors
    ///
    /// [`ErrorKind::Driver`]: the system does not say.
    fn start(&mut self, _notifier: &PressureNotifier) -> Result<(), Error> {
        self.usage(START).map(drop)
    }

    fn wake(&self) -> PressureWake<'_> {
        PressureWake::Interval(self.interval)
    }

    fn read(&mut self) -> Result<PressureReading, Error> {
        self.usage(READ)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tree;

    fn source(meminfo: &str) -> (tempfile::TempDir, MachineSource) {
        let root = tree(&[("proc/meminfo", meminfo)]);
        let options = PressureOptions { root: root.path().into(), ..PressureOptions::default() };
        let source = MachineSource::new(&options).unwrap();
        (root, source)
    }

    #[test]
    fn what_is_not_available_is_used() {
        let (root, mut source) = source("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\n");
        source.start(&PressureNotifier::new(|| {})).unwrap();
        let usage = |used: u64| PressureReading::Usage { used_bytes: used * 1024, limit_bytes: 1000 * 1024 };
        assert_eq!(source.read().unwrap(), usage(400));
        assert!(matches!(source.wake(), PressureWake::Interval(interval) if interval.as_secs() == 1));
        std::fs::write(root.path().join("proc/meminfo"), "MemTotal: 1000 kB\nMemAvailable: 50 kB\n").unwrap();
        assert_eq!(source.read().unwrap(), usage(950));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn garbled_memory_is_an_error() {
        for garbled in ["", "MemTotal: 0 kB\nMemAvailable: 0 kB\n", "MemTotal: many kB\n"] {
            let (_root, mut source) = source(garbled);
            let error = source.start(&PressureNotifier::new(|| {})).unwrap_err();
            assert_eq!((error.kind(), error.operation()), (ErrorKind::Driver, START), "{error}");
            assert_eq!(source.read().unwrap_err().operation(), READ);
        }
    }

    #[test]
    fn this_machine_has_memory() {
        let mut source = MachineSource::new(&PressureOptions::default()).unwrap();
        source.start(&PressureNotifier::new(|| {})).unwrap();
        let PressureReading::Usage { used_bytes, limit_bytes } = source.read().unwrap() else {
            panic!("it knows no levels")
        };
        assert!(0 < used_bytes && used_bytes <= limit_bytes, "{used_bytes} of {limit_bytes}");
    }
}
