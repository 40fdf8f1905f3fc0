//! When levels begin and end.

use super::response::PressureResponse;
use aquifer_backend::{Error, ErrorKind, PressureLevel, PressureReading};
use std::time::Duration;

/// The lowest and the highest threshold there may be.
const THRESHOLD_RANGE: std::ops::RangeInclusive<f64> = 0.5..=0.99;
const MARGIN_MAX: f64 = 0.25;

/// How a manager's pressure is watched, and what is done about it; [`Config::pressure`](crate::Config::pressure).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PressureConfig {
    /// The shares of a limit, used, at which moderate, warning, critical and emergency begin: rising, each from 0.5 to 0.99. By default
    /// 0.85, 0.90, 0.95 and 0.98.
    pub thresholds: [f64; 4],
    /// How far below its threshold the use must be for a level to end, as a share of the limit: 0.03 by default, at most 0.25.
    pub margin: f64,
    /// For how long that must hold without a break: 2 s by default. So a level ends at most once in this time; to a higher one it
    /// goes at once.
    pub fall_after: Duration,
    /// The shortest time between two readings of a source, however often it has news: 20 ms by default.
    pub debounce: Duration,
    /// How often all sources are read while any of them reports pressure, or while the manager holds so much that it might: 100 ms by
    /// default, at least 1 ms.
    pub tick: Duration,
    /// How often the budget of the device is asked for, which many systems have no news of: 1 s by default, at least 1 ms.
    pub device_interval: Duration,
    /// What is done at each level, lowest first.
    pub responses: [PressureResponse; 5],
    /// Whether the monitor has a thread; on by default. Off: call [`PressureMonitor::poll`](crate::PressureMonitor::poll), for
    /// simulation.
    pub thread: bool,
}

impl Default for PressureConfig {
    fn default() -> Self {
        Self {
            thresholds: [0.85, 0.90, 0.95, 0.98],
            margin: 0.03,
            fall_after: Duration::from_secs(2),
            debounce: Duration::from_millis(20),
            tick: Duration::from_millis(100),
            device_interval: Duration::from_secs(1),
            responses: PressureResponse::TABLE,
            thread: true,
        }
    }
}

impl PressureConfig {
    /// Checks the thresholds, the margin and the shares.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`], naming what makes no sense.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |message: String| Err(Error::new(ErrorKind::Configuration, "PressureConfig", message));
        let thresholds = self.thresholds;
        if !thresholds.iter().all(|threshold| THRESHOLD_RANGE.contains(threshold)) {
            return refuse(format!("thresholds {thresholds:?}; each must be from 0.5 to 0.99"));
        }
        if !thresholds.is_sorted_by(|lower, higher| lower < higher) {
            return refuse(format!("thresholds {thresholds:?}; each must be higher than the one before"));
        }
        if !(0.0..=MARGIN_MAX).contains(&self.margin) {
            return refuse(format!("a margin of {}; it must be from 0 to {MARGIN_MAX}", self.margin));
        }
        // Times are counted in whole milliseconds.
        let shortest = self.tick.min(self.device_interval);
        if shortest < Duration::from_millis(1) {
            return refuse(format!(
                "a tick or device_interval of {shortest:?} would never sleep; it must be 1 ms or more, and 100 ms and 1 s are usual"
            ));
        }
        let shares = self.responses.iter().filter_map(|response| response.idle_share_max);
        if let Some(share) = shares.into_iter().find(|share| share.is_nan() || *share < 0.0) {
            return refuse(format!("an idle_share_max of {share}; it must be 0 or more"));
        }
        Ok(())
    }

    /// The response to a level.
    #[must_use]
    pub fn response(&self, level: PressureLevel) -> &PressureResponse {
        &self.responses[level as usize]
    }

    /// The level that a reading stands for, whatever it was before.
    #[must_use]
    pub fn level_of(&self, reading: PressureReading) -> PressureLevel {
        self.level_below(reading, 0.0)
    }

    /// The level by thresholds that are lower by `margin`.
    pub(crate) fn level_below(&self, reading: PressureReading, margin: f64) -> PressureLevel {
        match reading {
            PressureReading::Level(level) => level,
            PressureReading::Usage { used_bytes, limit_bytes } => {
                let share = share(used_bytes, limit_bytes);
                let reached =
                    self.thresholds.iter().filter(|&&threshold| share >= threshold - margin).count();
                PressureLevel::ALL[reached]
            }
        }
    }

    /// How many bytes must go so that no level is left, if a reading tells.
    pub(crate) fn excess_bytes(&self, reading: PressureReading) -> Option<u64> {
        match reading {
            PressureReading::Level(_) => None,
            PressureReading::Usage { used_bytes, limit_bytes } => {
                let target = (self.thresholds[0] - self.margin) * limit_bytes as f64;
                Some(used_bytes.saturating_sub(target as u64))
            }
        }
    }
}

/// The share of a limit that is used; of no limit at all everything is.
pub(crate) fn share(used_bytes: u64, limit_bytes: u64) -> f64 {
    if limit_bytes == 0 { 1.0 } else { used_bytes as f64 / limit_bytes as f64 }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn used(used_bytes: u64) -> PressureReading {
        PressureReading::Usage { used_bytes, limit_bytes: 1000 }
    }

    #[test]
    fn a_level_begins_at_its_threshold() {
        let config = PressureConfig::default();
        for (bytes, level) in
            [(0, 0), (849, 0), (850, 1), (899, 1), (900, 2), (950, 3), (979, 3), (980, 4), (u64::MAX, 4)]
        {
            assert_eq!(config.level_of(used(bytes)), PressureLevel::ALL[level], "{bytes}");
        }
        let nothing = PressureReading::Usage { used_bytes: 0, limit_bytes: 0 };
        assert_eq!(config.level_of(nothing), PressureLevel::Emergency);
        assert_eq!(config.excess_bytes(used(1000)), Some(180));
        assert_eq!(config.excess_bytes(used(10)), Some(0));
        assert_eq!(config.excess_bytes(PressureReading::Level(PressureLevel::Critical)), None);
    }

    #[test]
    fn nonsense_is_named() {
        let with = |change: &dyn Fn(&mut PressureConfig)| {
            let mut config = PressureConfig::default();
            change(&mut config);
            config.check()
        };
        assert!(with(&|_| ()).is_ok());
        assert!(with(&|config| config.thresholds = [0.5, 0.6, 0.7, 0.99]).is_ok());
        let bad = [
            with(&|config| config.thresholds = [0.9, 0.85, 0.95, 0.98]),
            with(&|config| config.thresholds = [0.85, 0.85, 0.95, 0.98]),
            with(&|config| config.thresholds[0] = 0.49),
            with(&|config| config.thresholds[3] = 0.991),
            with(&|config| config.thresholds[2] = f64::NAN),
            with(&|config| config.margin = -0.1),
            with(&|config| config.margin = f64::INFINITY),
            with(&|config| config.tick = Duration::ZERO),
            with(&|config| config.tick = Duration::from_micros(999)),
            with(&|config| config.device_interval = Duration::ZERO),
            with(&|config| config.responses[1].idle_share_max = Some(f64::NAN)),
            with(&|config| config.responses[1].idle_share_max = Some(-1.0)),
        ];
        for answer in bad {
            let error = answer.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        }
    }
}
