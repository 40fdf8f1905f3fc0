//! What of a trace reaches the manager, and which thread does it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::PROGRESS_STEPS;
use super::completions::Completions;
use crate::pool::BucketLayout;
use crate::trace::{Trace, TraceEvent, TraceOp};

/// How many steps a thread takes in a row where there are too few streams to deal.
const RUN_STEPS: usize = 64;

/// The most queues that streams are given. The stream after these shares the first one's, and so on.
const STREAM_QUEUES_MAX: usize = 256;

/// One call to the manager. A slot is the place of a live buffer in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The queue is a place in a table; 0 and without meaning in a plan without queues.
    Allocate {
        queue: u16,
        slot: u32,
        bytes: u64,
    },
    Free {
        slot: u32,
    },
    /// Another queue uses the memory until the group is released.
    FreeLater {
        slot: u32,
        group: u32,
    },
    Release {
        group: u32,
    },
}

/// A trace without anything that would have to be looked up on the way.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// The event that each step came from.
    pub(super) event_indices: Vec<u32>,
    /// How many buffers are live at most.
    pub(super) slot_count: usize,
    /// How many allocations and frees there are.
    pub(super) operation_count: usize,
    /// The most bytes that are allocated at once, rounding included.
    pub(super) allocated_bytes_peak: u64,
    /// The most that are freed and not completed at once, in a plan with queues.
    pub(super) quarantined_bytes_peak: u64,
    /// How many queues the streams need; 0 in a plan without queues.
    pub(super) stream_queue_count: usize,
    pub(super) completions: Completions,
    event_count: usize,
}

/// Whether queues make any difference to a trace: it has several streams, or frees that complete later.
pub(super) fn has_queues(trace: &Trace) -> bool {
    let events = trace.events();
    events.iter().any(|event| event.op == TraceOp::FreeCompleted || event.stream != events[0].stream)
}

impl Plan {
    /// A plan without queues: a free that completes later is left out, and its completion takes its place.
    pub(super) fn new(trace: &Trace, layout: &BucketLayout) -> Self {
        let completions = trace.events().iter().filter(|event| event.op == TraceOp::FreeCompleted);
        let completed_later: HashSet<u64> = completions.map(|event| event.id).collect();
        let is_left_out =
            |event: &TraceEvent| event.op == TraceOp::Free && completed_later.contains(&event.id);
        let mut planner = Planner::new(trace, Completions::default());
        for (index, event) in trace.events().iter().enumerate().filter(|(_, event)| !is_left_out(event)) {
            let bytes = rounded(layout, event);
            let step = match event.op {
                TraceOp::Allocate => planner.allocate(event, bytes, 0),
                TraceOp::Free | TraceOp::FreeCompleted => Step::Free { slot: planner.free(event, bytes) },
            };
            planner.push(index, step);
        }
        planner.finish()
    }

    /// A plan with a queue for each stream, in order of appearance, and queues that are held until frees complete.
    pub(super) fn on_queues(trace: &Trace, layout: &BucketLayout) -> Self {
        let mut planner = Planner::new(trace, Completions::new(trace.events()));
        let mut queue_of = HashMap::new();
        let (mut next_group, mut quarantined_bytes) = (0_u32, 0_u64);
        for (index, event) in trace.events().iter().enumerate() {
            let bytes = rounded(layout, event);
            match event.op {
                TraceOp::Allocate => {
                    let next = queue_of.len() % STREAM_QUEUES_MAX;
                    let queue = *queue_of.entry(event.stream).or_insert(next as u16);
                    let step = planner.allocate(event, bytes, queue);
                    planner.push(index, step);
                }
                TraceOp::Free => {
                    let slot = planner.free(event, bytes);
                    let group = planner.plan.completions.group_of(event.id);
                    if group.is_some() {
                        quarantined_bytes = quarantined_bytes.saturating_add(bytes);
                        let peak = &mut planner.plan.quarantined_bytes_peak;
                        *peak = quarantined_bytes.max(*peak);
                    }
                    let step = group.map_or(Step::Free { slot }, |group| Step::FreeLater { slot, group });
                    planner.push(index, step);
                }
                TraceOp::FreeCompleted => {
                    quarantined_bytes = quarantined_bytes.saturating_sub(bytes);
                    let release_events = &planner.plan.completions.release_events;
                    if release_events.get(next_group as usize).is_some_and(|&event| event as usize == index) {
                        planner.push(index, Step::Release { group: next_group });
                        next_group += 1;
                    }
                }
            }
        }
        planner.plan.stream_queue_count = queue_of.len().min(STREAM_QUEUES_MAX);
        planner.finish()
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

/// What an event's memory comes to. Sums that do not fit belong to allocations that no manager can serve.
fn rounded(layout: &BucketLayout, event: &TraceEvent) -> u64 {
    layout.round_up(event.bytes).unwrap_or(event.bytes)
}

/// A plan in the making. Slots are used again, so that the table stays small enough for the processor's caches.
struct Planner {
    plan: Plan,
    allocated_bytes: u64,
    live: HashMap<u64, u32>,
    unused_slots: Vec<u32>,
}

impl Planner {
    fn new(trace: &Trace, completions: Completions) -> Self {
        let plan = Plan {
            steps: Vec::new(),
            event_indices: Vec::new(),
            slot_count: 0,
            operation_count: 0,
            allocated_bytes_peak: 0,
            quarantined_bytes_peak: 0,
            stream_queue_count: 0,
            completions,
            event_count: trace.events().len(),
        };
        Self { plan, allocated_bytes: 0, live: HashMap::new(), unused_slots: Vec::new() }
    }

    fn push(&mut self, event_index: usize, step: Step) {
        self.plan.steps.push(step);
        // There are fewer events than TRACE_EVENT_COUNT_MAX, so their places fit 32 bits; slots do too.
        self.plan.event_indices.push(event_index as u32);
    }

    fn allocate(&mut self, event: &TraceEvent, rounded_bytes: u64, queue: u16) -> Step {
        let plan = &mut self.plan;
        plan.operation_count += 1;
        self.allocated_bytes = self.allocated_bytes.saturating_add(rounded_bytes);
        plan.allocated_bytes_peak = plan.allocated_bytes_peak.max(self.allocated_bytes);
        let slot = self.unused_slots.pop().unwrap_or(plan.slot_count as u32);
        plan.slot_count = plan.slot_count.max(slot as usize + 1);
        self.live.insert(event.id, slot);
        Step::Allocate { queue, slot, bytes: event.bytes }
    }

    fn free(&mut self, event: &TraceEvent, rounded_bytes: u64) -> u32 {
        self.plan.operation_count += 1;
        self.allocated_bytes = self.allocated_bytes.saturating_sub(rounded_bytes);
        let slot = self.live.remove(&event.id).expect("a valid trace frees once, after allocating");
        self.unused_slots.push(slot);
        slot
    }

    fn finish(self) -> Plan {
        self.plan
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
            Step::Allocate { queue: 0, slot: 0, bytes: 10 },
            Step::Allocate { queue: 0, slot: 1, bytes: 20 },
            Step::Free { slot: 1 },
            Step::Free { slot: 0 },
            Step::Allocate { queue: 0, slot: 0, bytes: 30 },
        ];
        assert_eq!(plan.steps, expected);
        assert_eq!(plan.event_indices, [0, 1, 3, 4, 5]);
        assert_eq!((plan.slot_count, plan.allocated_bytes_peak), (2, 512));
        assert_eq!([0, 2, 4, 5].map(|done| plan.events_done(done)), [0, 3, 5, 6]);
    }

    #[test]
    fn with_queues_a_free_stands_where_it_was_and_its_completion_releases() {
        let trace = trace(
            "0,a,9,10,5\n1,a,4,20,3\n2,f,9,0,5\n3,f,4,0,3\n4,c,9,0,5\n5,c,4,0,3\n6,a,2,30,5\n7,f,2,0,5\n",
        );
        let plan = Plan::on_queues(&trace, &BucketLayout::default());
        let expected = [
            Step::Allocate { queue: 0, slot: 0, bytes: 10 },
            Step::Allocate { queue: 1, slot: 1, bytes: 20 },
            Step::FreeLater { slot: 0, group: 0 },
            Step::FreeLater { slot: 1, group: 0 },
            Step::Release { group: 0 },
            Step::Allocate { queue: 0, slot: 1, bytes: 30 },
            Step::Free { slot: 1 },
        ];
        assert_eq!(plan.steps, expected);
        assert_eq!(plan.event_indices, [0, 1, 2, 3, 5, 6, 7]);
        assert_eq!((plan.stream_queue_count, plan.operation_count), (2, 6));
        assert_eq!((plan.allocated_bytes_peak, plan.quarantined_bytes_peak), (512, 512));
        assert!(has_queues(&trace));
    }

    #[test]
    fn queues_make_no_difference_to_one_stream_without_completions() {
        assert!(!has_queues(&trace("0,a,1,1,7\n1,a,2,1,7\n2,f,2,1,7\n")));
        assert!(has_queues(&trace("0,a,1,1,7\n1,a,2,1,8\n")));
        assert!(has_queues(&trace("0,a,1,1,7\n1,f,1,1,7\n1,c,1,1,7\n")));
    }

    #[test]
    fn streams_beyond_the_last_queue_share_queues() {
        let lines: String = (0..600).map(|id| format!("0,a,{id},1,{}\n", 10_000 - id)).collect();
        let trace = trace(&lines);
        let plan = Plan::on_queues(&trace, &BucketLayout::default());
        assert_eq!(plan.stream_queue_count, STREAM_QUEUES_MAX);
        let queue_of = |index: usize| match plan.steps[index] {
            Step::Allocate { queue, .. } => queue,
            step => panic!("{step:?}"),
        };
        assert_eq!([0, 255, 256, 599].map(queue_of), [0, 255, 0, 87]);
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
