//! How a manager is set up: in code, and by environment variables that override the code.

use super::pinned::{PinnedConfig, WhenRefused};
use crate::budget_group::{BudgetGroup, BudgetGroupDesc};
use crate::clock::Clock;
use crate::pool::BucketLayout;
use crate::pressure::PressureConfig;
use crate::transfer::TransferConfig;
use aquifer_backend::{Error, ErrorKind};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

/// Whether memory is cleared before it is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ZeroPolicy {
    /// Only where an allocation asks for it ([`MemoryOptions::ZEROED`](crate::MemoryOptions::ZEROED)).
    #[default]
    OnRequest,
    /// Always: nothing that one allocation held can be read through the next, rounding included. Blocks that the
    /// driver has just cleared are not cleared again.
    OnReuse,
}

/// Where a pool gets its memory from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Policy {
    /// [`Policy::Elastic`] where the backend can and says what it costs, else [`Policy::Blocks`]. While there is enough memory it comes in larger
    /// pieces than with [`Policy::Elastic`] itself: that takes a third of the driver's time, and 1 % more memory.
    #[default]
    Automatic,
    /// Physical memory is mapped behind addresses as it is needed, so that what is free in several places serves one request. Memory
    /// types that cannot be sparse
    /// ([`MemoryFlags::SPARSE`](crate::MemoryFlags::SPARSE)) have blocks.
    Elastic,
    /// Blocks of memory with addresses of its own, for the driver to make and take back as a whole.
    Blocks,
}

/// How much is remembered of each live allocation, for [`live_allocations`](crate::MemoryManager::live_allocations).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Tracking {
    /// Nothing but the counts by tag. Costs nothing.
    #[default]
    Off,
    /// Size, tag, and the source line that called. Each allocation and free takes a lock.
    Places,
    /// The same and the whole stack. Costs microseconds an allocation.
    Backtraces,
}

/// A manager's configuration. [`Config::default`] is meant to be right; each setting says when to change it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Where memory comes from. `Elastic` is refused where the backend cannot.
    pub policy: Policy,
    /// How sizes are rounded.
    pub layout: BucketLayout,
    /// The most bytes to reserve from each heap, counting every block; at most
    /// [`BUDGET_BYTES_MAX`](crate::BUDGET_BYTES_MAX). `None`: what the backend says this process may use.
    pub budget_bytes: Option<u64>,
    /// Processes that share one budget, which the first heap is charged to beside its own ([`BudgetGroup`]). No by default.
    pub budget_group: Option<BudgetGroup>,
    /// Whether memory is cleared before it is handed out.
    pub zero_policy: ZeroPolicy,
    /// How much is remembered of each live allocation.
    pub tracking: Tracking,
    /// How long a block may hold nothing before it is given back; `None`: until [`trim`](crate::MemoryManager::trim)
    /// or until its bytes are needed elsewhere. Looked at when the pool grows and by
    /// [`release_idle`](crate::MemoryManager::release_idle). A [`PressureMonitor`](crate::PressureMonitor) looks by itself, and has times
    /// of its own ([`PressureResponse::idle_decay`](crate::PressureResponse::idle_decay)), of which the shorter holds.
    pub idle_decay: Option<Duration>,
    /// How long a block may hold nothing before it is made purgeable, where the backend can
    /// ([`mark_idle_purgeable`](crate::MemoryManager::mark_idle_purgeable)); `None`: not by itself. Looked at when
    /// [`Config::idle_decay`] is, which destroys purgeable blocks too.
    pub purgeable_after: Option<Duration>,
    /// How long an allocation that finds no memory waits for what has been freed but is still in use by a queue, before it
    /// fails: 10 s by default. Only if that could be enough. Also how long one waits that is [kept back](crate::Admission::Queue) while
    /// memory is short.
    pub in_flight_wait: Duration,
    /// Whether a thread of the manager's looks how far the queues are, from the first queue on; on by default. Off: call
    /// [`MemoryManager::settle`](crate::MemoryManager::settle) now and then; for simulation, where nothing may depend on
    /// threads' timing.
    pub reaper: bool,
    /// A file that everything is recorded to, as a trace, from the first allocation on; compressed if its name ends in
    /// `.gz`. It is complete when the manager and its buffers are gone (a manager in a `static` never is). Nothing is
    /// overwritten: if the file exists, the process's number and a count go before its extensions.
    pub record_to: Option<PathBuf>,
    /// Limits of pinned memory ([`MemoryKind::Pinned`](crate::MemoryKind::Pinned)).
    pub pinned: PinnedConfig,
    /// How [`Transfers`](crate::Transfers) are done.
    pub transfers: TransferConfig,
    /// How a [`PressureMonitor`](crate::PressureMonitor) judges and what it does; without one nothing of it holds.
    pub pressure: PressureConfig,
    /// Where the time comes from.
    pub clock: Clock,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            layout: BucketLayout::default(),
            budget_bytes: None,
            budget_group: None,
            zero_policy: ZeroPolicy::default(),
            tracking: Tracking::default(),
            idle_decay: None,
            purgeable_after: None,
            in_flight_wait: Duration::from_secs(10),
            reaper: true,
            record_to: None,
            pinned: PinnedConfig::DEFAULT,
            transfers: TransferConfig::default(),
            pressure: PressureConfig::default(),
            clock: Clock::default(),
        }
    }
}

/// The variables that [`Config::with_environment`] reads.
pub const ENVIRONMENT_VARIABLES: [(&str, &str); 16] = [
    ("AQUIFER_BUDGET", "the most bytes to reserve: 1073741824, 512M, 8G"),
    ("AQUIFER_BUDGET_GROUP", "a directory for the processes that share one budget: /dev/shm/trainers"),
    ("AQUIFER_BUDGET_GROUP_BYTES", "the budget of that group, needed by the first process: 64G"),
    (
        "AQUIFER_POLICY",
        "automatic, elastic (remapped pages), blocks, or power-of-two (blocks, one class for each power)",
    ),
    ("AQUIFER_SUB_CLASSES", "sub-classes per bucket: 1, 2, 4, 8, 16, 32 or 64"),
    ("AQUIFER_ZERO", "request or reuse: when memory is cleared"),
    ("AQUIFER_TRACKING", "off, places or backtraces: what is remembered of live allocations"),
    ("AQUIFER_RECORD", "a file that all allocations are recorded to, as a trace: run.csv.gz"),
    ("AQUIFER_IDLE_DECAY_MS", "milliseconds after which a block that holds nothing may go; off"),
    (
        "AQUIFER_PURGEABLE_AFTER_MS",
        "milliseconds after which a block that holds nothing becomes purgeable; off",
    ),
    ("AQUIFER_PINNED_COUNT", "the most pinned allocations that may be live: 64"),
    ("AQUIFER_PINNED_BYTES", "the largest pinned allocation, in bytes: 256M"),
    ("AQUIFER_PINNED_REFUSED", "error or unlocked: what comes where the driver locks no more memory"),
    ("AQUIFER_COPY_THREADS", "threads that copy for transfers: the number of processors, at most 8; 0: none"),
    ("AQUIFER_STAGING_BYTES", "the most pinned memory to stage transfers through: 64M"),
    (
        "AQUIFER_PRESSURE_THRESHOLDS",
        "shares of a limit at which moderate, warning, critical and emergency begin: 0.85,0.90,0.95,0.98",
    ),
];

impl Config {
    /// The same configuration with the policy of a name: `automatic`, `elastic`, `blocks`, or `power-of-two`, which is blocks with one
    /// class for each power of two. The others round as by default. `None` if there is no such policy.
    #[must_use]
    pub fn with_policy(mut self, name: &str) -> Option<Self> {
        (self.policy, self.layout) = match name {
            "automatic" => (Policy::Automatic, BucketLayout::default()),
            "elastic" => (Policy::Elastic, BucketLayout::default()),
            "blocks" => (Policy::Blocks, BucketLayout::default()),
            "power-of-two" => (Policy::Blocks, BucketLayout::power_of_two()),
            _ => return None,
        };
        Some(self)
    }

    /// The same configuration, with each setting replaced for which the environment has an `AQUIFER_` variable (see
    /// [`ENVIRONMENT_VARIABLES`]).
    ///
    /// Joins the group that `AQUIFER_BUDGET_GROUP` names, which must be there unless `AQUIFER_BUDGET_GROUP_BYTES` is set too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] naming the variable, if a value makes no sense; for the group also what [`BudgetGroup::join`]
    /// answers.
    pub fn with_environment(self) -> Result<Self, Error> {
        self.with_variables(|name| std::env::var_os(name))
    }

    fn with_variables(mut self, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let set = |name: &'static str| variable(name).filter(|value| !value.is_empty());
        let read = |name: &'static str| set(name).map(|value| (name, value.to_string_lossy().into_owned()));
        // A path need not be text.
        if let Some(path) = set("AQUIFER_RECORD") {
            self.record_to = Some(path.into());
        }
        let group_bytes = read("AQUIFER_BUDGET_GROUP_BYTES")
            .map(|(name, value)| parse_bytes(&value).ok_or_else(|| nonsense(name, &value)))
            .transpose()?;
        if let Some(path) = set("AQUIFER_BUDGET_GROUP") {
            self.budget_group = Some(join_group(&path, group_bytes)?);
        } else if group_bytes.is_some() {
            let message = "AQUIFER_BUDGET_GROUP_BYTES is set, but no AQUIFER_BUDGET_GROUP; set both or none";
            return Err(Error::new(ErrorKind::Configuration, "Config::with_environment", message));
        }
        if let Some((name, value)) = read("AQUIFER_BUDGET") {
            self.budget_bytes = Some(parse_bytes(&value).ok_or_else(|| nonsense(name, &value))?);
        }
        if let Some((name, value)) = read("AQUIFER_POLICY") {
            self = self.with_policy(&value).ok_or_else(|| nonsense(name, &value))?;
        }
        if let Some((name, value)) = read("AQUIFER_SUB_CLASSES") {
            let count = value.parse().map_err(|_| nonsense(name, &value))?;
            let layout = BucketLayout::with_sub_classes(count).map_err(|_| nonsense(name, &value))?;
            if self.layout != BucketLayout::power_of_two() {
                self.layout = layout;
            } else if count != 1 {
                let message =
                    format!("{name}={value:?}, but the power-of-two policy has one class per bucket");
                return Err(Error::new(ErrorKind::Configuration, "Config::with_environment", message));
            }
        }
        if let Some((name, value)) = read("AQUIFER_ZERO") {
            self.zero_policy = match value.as_str() {
                "request" => ZeroPolicy::OnRequest,
                "reuse" => ZeroPolicy::OnReuse,
                _ => return Err(nonsense(name, &value)),
            };
        }
        if let Some((name, value)) = read("AQUIFER_TRACKING") {
            self.tracking = match value.as_str() {
                "off" => Tracking::Off,
                "places" => Tracking::Places,
                "backtraces" => Tracking::Backtraces,
                _ => return Err(nonsense(name, &value)),
            };
        }
        if let Some((name, value)) = read("AQUIFER_IDLE_DECAY_MS") {
            self.idle_decay = milliseconds(name, &value)?;
        }
        if let Some((name, value)) = read("AQUIFER_PURGEABLE_AFTER_MS") {
            self.purgeable_after = milliseconds(name, &value)?;
        }
        if let Some((name, value)) = read("AQUIFER_PINNED_COUNT") {
            self.pinned.count_max = value.parse().map_err(|_| nonsense(name, &value))?;
        }
        if let Some((name, value)) = read("AQUIFER_PINNED_BYTES") {
            self.pinned.bytes_max = parse_bytes(&value).ok_or_else(|| nonsense(name, &value))?;
        }
        if let Some((name, value)) = read("AQUIFER_PINNED_REFUSED") {
            self.pinned.when_refused = match value.as_str() {
                "error" => WhenRefused::Error,
                "unlocked" => WhenRefused::UseUnlocked,
                _ => return Err(nonsense(name, &value)),
            };
        }
        if let Some((name, value)) = read("AQUIFER_COPY_THREADS") {
            self.transfers.copy_threads = value.parse().map_err(|_| nonsense(name, &value))?;
        }
        if let Some((name, value)) = read("AQUIFER_STAGING_BYTES") {
            self.transfers.staging_bytes = parse_bytes(&value).ok_or_else(|| nonsense(name, &value))?;
        }
        if let Some((name, value)) = read("AQUIFER_PRESSURE_THRESHOLDS") {
            let shares: Option<Vec<f64>> = value.split(',').map(|share| share.trim().parse().ok()).collect();
            self.pressure.thresholds =
                shares.and_then(|shares| shares.try_into().ok()).ok_or_else(|| nonsense(name, &value))?;
            self.pressure.check().map_err(|error| nonsense(name, &value).with_source(error))?;
        }
        Ok(self)
    }
}

fn join_group(path: &OsStr, budget_bytes: Option<u64>) -> Result<BudgetGroup, Error> {
    let joined = match budget_bytes {
        Some(bytes) => BudgetGroup::join(path, &BudgetGroupDesc::new(bytes)),
        None => BudgetGroup::open(path),
    };
    joined.map_err(|error| {
        let message = format!("AQUIFER_BUDGET_GROUP={path:?}: {}", error.message());
        Error::new(error.kind(), "Config::with_environment", message).with_source(error)
    })
}

/// A time, or none for `off`.
fn milliseconds(name: &'static str, value: &str) -> Result<Option<Duration>, Error> {
    match value {
        "off" => Ok(None),
        number => Ok(Some(Duration::from_millis(number.parse().map_err(|_| nonsense(name, value))?))),
    }
}

fn nonsense(name: &'static str, value: &str) -> Error {
    let meaning =
        ENVIRONMENT_VARIABLES.iter().find(|(known, _)| *known == name).map_or("", |(_, meaning)| meaning);
    Error::new(
        ErrorKind::Configuration,
        "Config::with_environment",
        format!("{name}={value:?} makes no sense; it is {meaning}"),
    )
}

/// Reads a size in bytes, with an optional suffix `K`, `M`, `G` or `T` for powers of 1024 (`KiB`, `kb` and the like
/// are the same).
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic() || letter == ' ');
    let shift = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Result<Config, Error> {
        Config::default().with_variables(|name| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
        })
    }

    #[test]
    fn the_environment_overrides_the_code() {
        let config = with(&[
            ("AQUIFER_BUDGET", "2G"),
            ("AQUIFER_SUB_CLASSES", "16"),
            ("AQUIFER_ZERO", "reuse"),
            ("AQUIFER_TRACKING", "places"),
            ("AQUIFER_RECORD", "a file that all allocations are recorded to, as a trace: run.csv.gz"),
            ("AQUIFER_IDLE_DECAY_MS", "250"),
            ("AQUIFER_PURGEABLE_AFTER_MS", "100"),
            ("AQUIFER_PINNED_COUNT", "3"),
            ("AQUIFER_PINNED_BYTES", "1M"),
            ("AQUIFER_PINNED_REFUSED", "unlocked"),
            ("AQUIFER_COPY_THREADS", "3"),
            ("AQUIFER_STAGING_BYTES", "8M"),
            ("AQUIFER_PRESSURE_THRESHOLDS", "0.5, 0.6,0.7,0.8"),
        ])
        .unwrap();
        assert_eq!(config.budget_bytes, Some(2 << 30));
        assert_eq!(config.layout.sub_classes(), 16);
        assert_eq!((config.zero_policy, config.tracking), (ZeroPolicy::OnReuse, Tracking::Places));
        assert_eq!(config.idle_decay, Some(Duration::from_millis(250)));
        assert_eq!(config.purgeable_after, Some(Duration::from_millis(100)));
        assert_eq!((config.transfers.copy_threads, config.transfers.staging_bytes), (3, 8 << 20));
        assert_eq!(config.pressure.thresholds, [0.5, 0.6, 0.7, 0.8]);
        for bad in ["0.5,0.6,0.7", "0.5,0.6,0.7,0.8,0.9", "0.4,0.6,0.7,0.8", "0.6,0.5,0.7,0.8"] {
            assert!(with(&[("AQUIFER_PRESSURE_THRESHOLDS", bad)]).is_err(), "{bad}");
        }
        let pinned = PinnedConfig::DEFAULT.count_max(3).bytes_max(1 << 20);
        assert_eq!(config.pinned, pinned.when_refused(WhenRefused::UseUnlocked));
        let off = with(&[("AQUIFER_PURGEABLE_AFTER_MS", "off"), ("AQUIFER_IDLE_DECAY_MS", "off")]).unwrap();
        assert_eq!((off.idle_decay, off.purgeable_after), (None, None));
        assert_eq!(with(&[("AQUIFER_POLICY", "power-of-two")]).unwrap().layout, BucketLayout::power_of_two());
        assert_eq!(with(&[("AQUIFER_BUDGET", "")]).unwrap().budget_bytes, None);
    }

    #[test]
    #[cfg(unix)]
    fn a_group_is_made_or_joined() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let error = with(&[("AQUIFER_BUDGET_GROUP", path)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "there is none");
        assert!(error.message().starts_with("AQUIFER_BUDGET_GROUP="), "{error}");
        let first = [("AQUIFER_BUDGET_GROUP", path), ("AQUIFER_BUDGET_GROUP_BYTES", "3M")];
        let made = with(&first).unwrap().budget_group.unwrap();
        let joined = with(&first[..1]).unwrap().budget_group.unwrap();
        assert_eq!((made.budget_bytes(), joined.budget_bytes()), (3 << 20, 3 << 20));
        assert_eq!(with(&first[1..]).unwrap_err().kind(), ErrorKind::Configuration, "bytes of which group?");
        let other = [first[0], ("AQUIFER_BUDGET_GROUP_BYTES", "4M")];
        assert_eq!(with(&other).unwrap_err().kind(), ErrorKind::Configuration);
    }

    #[test]
    fn nonsense_names_its_variable() {
        let is_path = |name| name == "AQUIFER_RECORD" || name == "AQUIFER_BUDGET_GROUP";
        for (name, _) in ENVIRONMENT_VARIABLES.into_iter().filter(|&(name, _)| !is_path(name)) {
            let error = with(&[(name, "a lot")]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.message().starts_with(name), "{error}");
        }
    }

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(parse_bytes("42"), Some(42));
        assert_eq!(parse_bytes("3 MiB"), Some(3 << 20));
        assert_eq!(parse_bytes("1t"), Some(1 << 40));
        for bad in ["", "G", "-1", "1.5G", "1X", "99999999999999999999", "16777217T"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }
}
