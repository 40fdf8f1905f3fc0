//! Frees that complete later: which of them are waited for together.
//!
//! Each such free holds a queue until its completion. Completions with no allocation between them make no difference to the
//! manager, so they are one *group*, with one queue, let go at the last of them. Groups that are outstanding at once need
//! different queues, of which there are at most [`HELPERS_MAX`]. Where that is too few, every two neighbouring groups become
//! one, and again until it is enough: memory then comes free late, by so many completions, but never early.

use std::collections::HashMap;

use crate::trace::{TraceEvent, TraceOp};

/// The most queues that are held. The manager tells 47 queues apart, beyond which they wait for each other.
pub(super) const HELPERS_MAX: usize = 32;

/// The late completions of a trace, in groups that are numbered in the order in which they complete.
#[derive(Debug, Default)]
pub(super) struct Completions {
    group_of: HashMap<u64, u32>,
    /// By group: the event that completes it.
    pub(super) release_events: Vec<u32>,
    /// How many groups are outstanding at most.
    pub(super) helper_count: usize,
    /// How many neighbouring groups became one; 1: nothing is freed late.
    pub(super) merged_count: usize,
}

/// From the first free of a group to its last completion, as places among the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    first_free: u32,
    last_completion: u32,
}

impl Completions {
    pub(super) fn new(events: &[TraceEvent]) -> Self {
        let mut group_of = HashMap::new();
        let mut spans: Vec<Span> = Vec::new();
        let mut is_open = false;
        for (event, index) in events.iter().zip(0..) {
            match event.op {
                TraceOp::Allocate => is_open = false,
                TraceOp::Free => {}
                TraceOp::FreeCompleted => {
                    if !is_open {
                        spans.push(Span { first_free: u32::MAX, last_completion: index });
                        is_open = true;
                    }
                    let group = spans.len() - 1;
                    spans[group].last_completion = index;
                    group_of.insert(event.id, group as u32);
                }
            }
        }
        for (event, index) in events.iter().zip(0..) {
            if event.op == TraceOp::Free
                && let Some(&group) = group_of.get(&event.id)
            {
                let first_free = &mut spans[group as usize].first_free;
                *first_free = index.min(*first_free);
            }
        }
        let (mut helper_count, mut merged_count) = (most_at_once(&spans), 1);
        while helper_count > HELPERS_MAX {
            spans = spans.chunks(2).map(joined).collect();
            group_of.values_mut().for_each(|group| *group /= 2);
            (helper_count, merged_count) = (most_at_once(&spans), 2 * merged_count);
        }
        let release_events = spans.iter().map(|span| span.last_completion).collect();
        Self { group_of, release_events, helper_count, merged_count }
    }

    /// The group that a free belongs to; `None` if it completes at once.
    pub(super) fn group_of(&self, id: u64) -> Option<u32> {
        self.group_of.get(&id).copied()
    }
}

fn joined(spans: &[Span]) -> Span {
    spans.iter().copied().fold(spans[0], |one, other| Span {
        first_free: one.first_free.min(other.first_free),
        last_completion: one.last_completion.max(other.last_completion),
    })
}

/// How many spans overlap at most.
fn most_at_once(spans: &[Span]) -> usize {
    let mut starts: Vec<u32> = spans.iter().map(|span| span.first_free).collect();
    starts.sort_unstable();
    // Spans are in the order of their ends.
    let mut ends = spans.iter().map(|span| span.last_completion).peekable();
    let (mut now, mut most) = (0_usize, 0);
    for start in starts {
        while ends.next_if(|&end| end < start).is_some() {
            now -= 1;
        }
        now += 1;
        most = most.max(now);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Trace;

    fn completions(lines: &str) -> (Completions, Trace) {
        let trace = Trace::read("test", format!("t_us,op,id,bytes,stream\n{lines}").as_bytes()).unwrap();
        (Completions::new(trace.events()), trace)
    }

    #[test]
    fn completions_without_an_allocation_between_them_are_one_group() {
        let lines = "0,a,1,9,0\n0,a,2,9,0\n0,a,3,9,0\n0,a,4,9,0\n1,f,1,9,0\n2,f,2,9,0\n3,f,3,9,0\n4,f,4,9,0\n\
                     5,c,2,9,0\n6,c,1,9,0\n7,a,5,9,0\n8,c,3,9,0\n";
        let (completions, _) = completions(lines);
        let groups = [1, 2, 3, 4, 5].map(|id| completions.group_of(id));
        assert_eq!(groups, [Some(0), Some(0), Some(1), None, None]);
        assert_eq!(completions.release_events, [9, 11]);
        assert_eq!((completions.helper_count, completions.merged_count), (2, 1));
    }

    #[test]
    fn one_queue_serves_groups_that_do_not_overlap() {
        let lines: String =
            (0..100).map(|id| format!("0,a,{id},9,0\n0,f,{id},9,0\n0,c,{id},9,0\n")).collect();
        let (completions, _) = completions(&lines);
        assert_eq!(completions.release_events.len(), 100);
        assert_eq!((completions.helper_count, completions.merged_count), (1, 1));
    }

    #[test]
    fn too_many_outstanding_completions_are_waited_for_together_and_never_early() {
        // In the order of their frees, and in the opposite one: 5000 are outstanding at once, with allocations between.
        for is_reversed in [false, true] {
            let mut lines: String = (0..5000).map(|id| format!("0,a,{id},9,0\n0,f,{id},9,0\n")).collect();
            for place in 0..5000 {
                let id = if is_reversed { 4999 - place } else { place };
                lines.push_str(&format!("1,c,{id},9,0\n1,a,{},9,0\n", 5000 + id));
            }
            let (completions, trace) = completions(&lines);
            assert!(
                completions.helper_count <= HELPERS_MAX && completions.helper_count > HELPERS_MAX / 2 - 1
            );
            assert_eq!(completions.merged_count, 256);
            for (index, event) in trace.events().iter().enumerate() {
                if event.op == TraceOp::FreeCompleted {
                    let group = completions.group_of(event.id).unwrap();
                    assert!(completions.release_events[group as usize] as usize >= index);
                }
            }
        }
    }
}
