//! The rules that hold between the events of a trace.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{TRACE_EVENT_COUNT_MAX, TraceErrorKind, TraceEvent, TraceOp};

/// How far an allocation has come.
enum Phase {
    Live,
    Freed,
    Completed,
}

struct Allocation {
    bytes: u64,
    phase: Phase,
}

/// Sees the events one after the other and stops at the first that cannot follow those before it.
pub(super) struct Checker {
    // The ids come from the input. The standard hasher is keyed, so nobody can choose them to collide.
    allocations: HashMap<u64, Allocation>,
    live_bytes: u64,
    time_us: u64,
    event_count: usize,
    event_count_max: usize,
}

impl Checker {
    pub(super) fn new() -> Self {
        Self::with_event_count_max(TRACE_EVENT_COUNT_MAX)
    }

    pub(super) fn with_event_count_max(event_count_max: usize) -> Self {
        Self { allocations: HashMap::new(), live_bytes: 0, time_us: 0, event_count: 0, event_count_max }
    }

    /// The event with its allocation's size, if it may come now.
    pub(super) fn check(&mut self, mut event: TraceEvent) -> Result<TraceEvent, TraceErrorKind> {
        let id = event.id;
        if self.event_count == self.event_count_max {
            return Err(TraceErrorKind::TooManyEvents { count_max: self.event_count_max });
        }
        if event.time_us < self.time_us {
            return Err(TraceErrorKind::TimeGoesBack { time_us: event.time_us, previous_us: self.time_us });
        }
        if event.op == TraceOp::Allocate {
            self.allocate(&event)?;
        } else {
            let Some(allocation) = self.allocations.get_mut(&id) else {
                return Err(TraceErrorKind::UnknownId { id, op: event.op });
            };
            allocation.phase = match (event.op, &allocation.phase) {
                (TraceOp::Free, Phase::Live) => {
                    self.live_bytes -= allocation.bytes;
                    Phase::Freed
                }
                (TraceOp::Free, Phase::Freed | Phase::Completed) => {
                    return Err(TraceErrorKind::DoubleFree { id });
                }
                (_, Phase::Live) => return Err(TraceErrorKind::CompletedBeforeFree { id }),
                (_, Phase::Freed) => Phase::Completed,
                (_, Phase::Completed) => return Err(TraceErrorKind::CompletedTwice { id }),
            };
            event.bytes = allocation.bytes;
        }
        self.time_us = event.time_us;
        self.event_count += 1;
        Ok(event)
    }

    fn allocate(&mut self, event: &TraceEvent) -> Result<(), TraceErrorKind> {
        let &TraceEvent { id, bytes, .. } = event;
        if bytes == 0 {
            return Err(TraceErrorKind::ZeroBytes { id });
        }
        let Entry::Vacant(entry) = self.allocations.entry(id) else {
            return Err(TraceErrorKind::DuplicateId { id });
        };
        let Some(live_bytes) = self.live_bytes.checked_add(bytes) else {
            return Err(TraceErrorKind::LiveBytesOverflow { id });
        };
        self.live_bytes = live_bytes;
        entry.insert(Allocation { bytes, phase: Phase::Live });
        Ok(())
    }

    /// What can only be said at the end.
    pub(super) fn finish(self) -> Result<(), TraceErrorKind> {
        if self.event_count == 0 { Err(TraceErrorKind::NoEvents) } else { Ok(()) }
    }
}
