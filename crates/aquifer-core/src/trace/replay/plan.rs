//! What of a trace reaches the manager, and which thread does it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::PROGRESS_STEPS;
use crate::pool::BucketLayout;
use crate::trace::{Trace, TraceOp};

/// How many steps a thread takes in a row where there are too few streams to deal.
const RUN_STEPS: usize = 64;

/// One call to the manager. A slot is the place of a live buffer in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Allocate { slot: u32, bytes: u64 },
    Free { slot: u32 },
}

/// A trace without anything that would have to be looked up on the way.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// The event that each step came from.
    pub(super) event_indices: Vec<u32>,
    /// How many buffers are live at most.
    pub(super) slot_count: usize,
    /// The most bytes that are allocated at once, rounding included.
    pub(super) allocated_bytes_peak: u64,
    event_count: usize,
}

impl Plan {
    /// A free that completes later is left out, and its completion takes its place. Slots are used again, so that the
    /// table stays small enough for the processor's caches.
    pub(super) fn new(trace: &Trace, layout: &BucketLayout) -> Self {
        let events = trace.events();
        let completed_later: HashSet<u64> =
            events.iter().filter(|event| event.op == TraceOp::FreeCompleted).map(|event| event.id).collect();
        let mut plan = Self {
            steps: Vec::new(),
            event_indices: Vec::new(),
            slot_count: 0,
            allocated_bytes_peak: 0,
            event_count: events.len(),
        };
        let mut allocated_bytes = 0_u64;
        let mut live: HashMap<u64, u32> = HashMap::new();
        let mut unused_slots = Vec::new();
        for (event_index, event) in events.iter().enumerate() {
            // Sums that do not fit belong to allocations that no manager can serve.
            let event_bytes = layout.round_up(event.bytes).unwrap_or(event.bytes);
            let step = match event.op {
                TraceOp::Allocate => {
                    allocated_bytes = allocated_bytes.saturating_add(event_bytes);
                    plan.allocated_bytes_peak = plan.allocated_bytes_peak.max(allocated_bytes);
                    // Slots and events are fewer than TRACE_EVENT_COUNT_MAX, so they fit 32 bits.
                    let slot = unused_slots.pop().unwrap_or(plan.slot_count as u32);
                    plan.slot_count = plan.slot_count.max(slot as usize + 1);
                    live.insert(event.id, slot);
                    Step::Allocate { slot, bytes: event.bytes }
                }
                TraceOp::Free if completed_later.contains(&event.id) => continue,
                TraceOp::Free | TraceOp::FreeCompleted => {
                    allocated_bytes = allocated_bytes.saturating_sub(event_bytes);
                    let slot = live.remove(&event.id).expect("a valid trace frees once, after allocating");
                    unused_slots.push(slot);
                    Step::Free { slot }
                }
            };
            plan.steps.push(step);
            plan.event_indices.push(event_index as u32);
        }
        plan
    }

    /// How many events are over when `steps_done` steps are.
    pub(super) fn events_done(&self, steps_done: usize) -> usize {
        self.event_indices.get(steps_done).map_or(self.event_count, |&next| next as usize)
    }

    /// Which thread takes which steps: runs in the order of the trace that cover all steps.
    pub(super) fn deal(&self, trace: &Trace, threads: usize) -> Vec<Run> {
        let mut stream_indices = HashMap::new();
        for event in trace.events() {
            let next = stream_indices.len();
            stream_indices.entry(event.stream).or_insert(next);
        }
        let are_streams_dealt = stream_indices.len() >= threads;
        let mut runs: Vec<Run> = Vec::new();
        for (step_index, &event_index) in self.event_indices.iter().enumerate() {
            let turn = if are_streams_dealt {
                stream_indices[&trace.events()[event_index as usize].stream]
            } else {
                step_index / RUN_STEPS
            };
            let thread = turn % threads;
            match runs.last_mut() {
                // A run that is too long would keep its progress to itself.
                Some(run) if run.thread == thread && run.steps.len() < PROGRESS_STEPS => {
                    run.steps.end = step_index + 1;
                }
                _ => runs.push(Run { thread, steps: step_index..step_index + 1 }),
            }
        }
        runs
    }
}

/// Steps that one thread takes in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) thread: usize,
    pub(super) steps: Range<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(lines: &str) -> Trace {
        Trace::read("test", format!("t_us,op,id,bytes,stream\n{lines}").as_bytes()).unwrap()
    }

    fn plan(trace: &Trace) -> Plan {
        Plan::new(trace, &BucketLayout::default())
    }

    #[test]
    fn a_completion_takes_the_place_of_its_free_and_slots_are_used_again() {
        let plan = plan(&trace("0,a,9,10,0\n1,a,4,20,1\n2,f,9,0,0\n3,f,4,0,1\n4,c,9,0,0\n5,a,2,30,0\n"));
        let expected = [
            Step::Allocate { slot: 0, bytes: 10 },
            Step::Allocate { slot: 1, bytes: 20 },
            Step::Free { slot: 1 },
            Step::Free { slot: 0 },
            Step::Allocate { slot: 0, bytes: 30 },
        ];
        assert_eq!(plan.steps, expected);
        assert_eq!(plan.event_indices, [0, 1, 3, 4, 5]);
        assert_eq!((plan.slot_count, plan.allocated_bytes_peak), (2, 512));
        assert_eq!([0, 2, 4, 5].map(|done| plan.events_done(done)), [0, 3, 5, 6]);
    }

    #[test]
    fn streams_are_dealt_where_there_are_enough() {
        let trace = trace("0,a,1,1,7\n1,a,2,1,7\n2,a,3,1,9\n3,a,4,1,8\n4,f,3,1,9\n");
        let plan = plan(&trace);
        let runs = |threads| -> Vec<_> {
            plan.deal(&trace, threads).into_iter().map(|run| (run.thread, run.steps)).collect()
        };
        assert_eq!(runs(2), [(0, 0..2), (1, 2..3), (0, 3..4), (1, 4..5)]);
        assert_eq!(runs(3), [(0, 0..2), (1, 2..3), (2, 3..4), (1, 4..5)]);
        assert_eq!(runs(4), [(0, 0..5)]);
    }

    #[test]
    fn runs_are_dealt_where_there_are_too_few_streams() {
        let lines: String = (0..200).map(|id| format!("0,a,{id},1,0\n")).collect();
        let trace = trace(&lines);
        let runs = plan(&trace).deal(&trace, 3);
        let expected = [(0, 0..64), (1, 64..128), (2, 128..192), (0, 192..200)];
        assert_eq!(runs, expected.map(|(thread, steps)| Run { thread, steps }));
    }
}
