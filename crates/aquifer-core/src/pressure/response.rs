//! What is done at each level: values in a table.

use crate::transfer::Priority;
use std::time::Duration;

/// What becomes of a new request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Admission {
    /// It is served as ever.
    #[default]
    Accept = 0,
    /// It waits until the level falls: `allocate` for up to [`Config::in_flight_wait`](crate::Config::in_flight_wait), `allocate_async`
    /// for as long as it was told to; then it fails with [`ErrorKind::UnderPressure`](aquifer_backend::ErrorKind::UnderPressure), or
    /// [`ErrorKind::TimedOut`](aquifer_backend::ErrorKind::TimedOut). Where the monitor has no thread
    /// ([`PressureConfig::thread`](crate::PressureConfig::thread)) nobody would open while `allocate` blocks, so it fails at once.
    Queue = 1,
    /// It fails with [`ErrorKind::UnderPressure`](aquifer_backend::ErrorKind::UnderPressure).
    Refuse = 2,
}

/// What is done while memory is as short as one level says.
///
/// The first four are about memory that nobody uses; it goes first. Only if the level is as high without it, what follows is done:
/// the user's own memory is asked for, and new requests are kept back.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct PressureResponse {
    /// How much may be kept in blocks that hold nothing, as a share of live bytes; `None`: no limit. What is above is given back,
    /// now and whenever there is more again. Purgeable blocks do not count: the system may have them anyway.
    pub idle_share_max: Option<f64>,
    /// How long a block may hold nothing before it is given back; `None`: for ever. If
    /// [`Config::idle_decay`](crate::Config::idle_decay) is shorter, that holds.
    pub idle_decay: Option<Duration>,
    /// Blocks that hold nothing are made purgeable at once, where the backend can: the system may take their memory, and they
    /// can be used again.
    pub mark_purgeable: bool,
    /// All caches are emptied, and free parts of used blocks are given back where the backend can.
    pub trim: bool,
    /// The reclaim callbacks of this priority and below are called ([`MemoryManager::on_reclaim`](crate::MemoryManager::on_reclaim)),
    /// lowest first, until enough is free; `None`: none.
    pub callbacks_up_to: Option<i32>,
    /// What becomes of new requests of each [`Priority`]: low, normal, high.
    pub admission: [Admission; 3],
}

impl PressureResponse {
    /// Caches as they are, but what is idle for 10 s goes.
    pub const NORMAL: Self = Self {
        idle_share_max: None,
        idle_decay: Some(Duration::from_secs(10)),
        mark_purgeable: false,
        trim: false,
        callbacks_up_to: None,
        admission: [Admission::Accept; 3],
    };

    /// The table by default.
    ///
    /// | level | idle at most | decay | purgeable | trim | callbacks | low priority |
    /// | --- | --- | --- | --- | --- | --- | --- |
    /// | normal | | 10 s | | | | accepted |
    /// | moderate | 1/8 of live | 1 s | yes | | | accepted |
    /// | warning | 1/32 of live | 250 ms | yes | yes | | accepted |
    /// | critical | none | at once | | yes | all | queued |
    /// | emergency | none | at once | | yes | all | refused |
    ///
    /// Requests of normal and high priority are always accepted by default: a program that fills its budget on purpose is at
    /// the highest level for as long as it runs, and must not be stopped by that.
    pub const TABLE: [Self; 5] = [
        Self::NORMAL,
        Self {
            idle_share_max: Some(1.0 / 8.0),
            idle_decay: Some(Duration::from_secs(1)),
            mark_purgeable: true,
            ..Self::NORMAL
        },
        Self {
            idle_share_max: Some(1.0 / 32.0),
            idle_decay: Some(Duration::from_millis(250)),
            mark_purgeable: true,
            trim: true,
            ..Self::NORMAL
        },
        Self {
            idle_share_max: Some(0.0),
            idle_decay: Some(Duration::ZERO),
            trim: true,
            callbacks_up_to: Some(i32::MAX),
            admission: [Admission::Queue, Admission::Accept, Admission::Accept],
            ..Self::NORMAL
        },
        Self {
            idle_share_max: Some(0.0),
            idle_decay: Some(Duration::ZERO),
            trim: true,
            callbacks_up_to: Some(i32::MAX),
            admission: [Admission::Refuse, Admission::Accept, Admission::Accept],
            ..Self::NORMAL
        },
    ];

    /// What becomes of a request.
    #[must_use]
    pub fn admission_of(&self, priority: Priority) -> Admission {
        self.admission[priority as usize]
    }
}

impl Default for PressureResponse {
    fn default() -> Self {
        Self::NORMAL
    }
}
