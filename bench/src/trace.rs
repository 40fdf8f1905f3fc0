//! What an allocator sees of a recorded trace.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use aquifer::trace::{TraceError, TraceOp};

use crate::mix::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Allocate {
        id: u32,
        bytes: u64,
        stream: u64,
    },
    /// The memory may be used again: at the free's completion where the trace has one, else at its request.
    Free {
        id: u32,
    },
}

#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) name: String,
    /// Lines of the file.
    pub(crate) events: usize,
    pub(crate) operations: Vec<Operation>,
    /// Above every id.
    pub(crate) ids: u32,
    /// The most bytes requested and not yet requested to be freed.
    pub(crate) requested_bytes_peak: u64,
}

/// Reads the trace at `path`.
pub(crate) fn read(path: &Path) -> Result<Trace, TraceError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.split('.').next().unwrap_or_default().to_owned();
    Ok(operations(name, &aquifer::trace::Trace::open(path)?))
}

fn operations(name: String, trace: &aquifer::trace::Trace) -> Trace {
    let events = trace.events();
    let completes = |op| op == TraceOp::FreeCompleted;
    let completed: HashSet<u64> =
        events.iter().filter(|event| completes(event.op)).map(|event| event.id).collect();
    let mut operations = Vec::with_capacity(events.len());
    let mut numbers = HashMap::new();
    for event in events {
        // A trace's ids may be any numbers; the handles' table wants them dense.
        let next = numbers.len() as u32;
        let id = *numbers.entry(event.id).or_insert(next);
        match event.op {
            TraceOp::Allocate => {
                operations.push(Operation::Allocate { id, bytes: event.bytes, stream: event.stream });
            }
            TraceOp::Free if completed.contains(&event.id) => {}
            TraceOp::Free | TraceOp::FreeCompleted => operations.push(Operation::Free { id }),
        }
    }
    let requested_bytes_peak = trace.summary().live_bytes_peak;
    Trace { name, events: events.len(), operations, ids: numbers.len() as u32, requested_bytes_peak }
}

/// What a variant scales all sizes by.
const SCALES: [f64; 5] = [1.0, 0.5, 2.0, 0.2, 3.0];
/// How far from 1 a distinct size's own factor may be.
const SPREADS: [f64; 4] = [0.02, 0.1, 0.2, 0.25];

impl Trace {
    /// The trace with other sizes, by `number`: a scale, and for each distinct size a factor of its own.
    pub(crate) fn variant(&self, number: u64) -> Self {
        let scale = SCALES[(number % SCALES.len() as u64) as usize];
        let spread = SPREADS[(number / SCALES.len() as u64 % SPREADS.len() as u64) as usize];
        let resize = |bytes: u64| {
            let own = Random::new(bytes ^ number << 48).unit() * 2.0 - 1.0;
            ((bytes as f64 * scale * (1.0 + spread * own)) as u64).max(1)
        };
        let mut live = vec![0; self.ids as usize];
        let (mut requested, mut requested_bytes_peak) = (0, 0);
        let mut operations = self.operations.clone();
        for operation in &mut operations {
            match operation {
                Operation::Allocate { id, bytes, .. } => {
                    *bytes = resize(*bytes);
                    live[*id as usize] = *bytes;
                    requested += *bytes;
                    requested_bytes_peak = requested_bytes_peak.max(requested);
                }
                Operation::Free { id } => requested -= live[*id as usize],
            }
        }
        let name = format!("{}~{number}", self.name);
        Self { name, events: self.events, operations, ids: self.ids, requested_bytes_peak }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_counts_when_requested_and_takes_effect_when_completed() -> Result<(), TraceError> {
        let text = "t_us,op,id,bytes,stream\n0,a,1,100,0\n1,f,1,100,0\n2,a,2,50,1\n3,c,1,100,0\n4,f,2,50,1\n";
        let trace = operations("t".to_owned(), &aquifer::trace::Trace::read("t", text.as_bytes())?);
        assert_eq!((trace.events, trace.ids, trace.requested_bytes_peak), (5, 2, 100));
        let first = Operation::Allocate { id: 0, bytes: 100, stream: 0 };
        let second = Operation::Allocate { id: 1, bytes: 50, stream: 1 };
        assert_eq!(trace.operations, [first, second, Operation::Free { id: 0 }, Operation::Free { id: 1 }]);
        Ok(())
    }
}
