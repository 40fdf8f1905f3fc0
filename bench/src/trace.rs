//! Reads a recorded allocation trace: CSV with the columns `t_us,op,id,bytes,stream`, perhaps gzip-compressed.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

/// What an allocator sees of a trace.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Allocate {
        id: u32,
        bytes: u64,
        stream: u32,
    },
    /// The memory may be used again: written at the free's completion where the trace has one, else at its request.
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

/// Reads the trace at `path`; an id must be allocated once, before it is freed.
pub(crate) fn read(path: &Path) -> Result<Trace, Box<dyn Error>> {
    let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let gzip = path.extension().is_some_and(|extension| extension == "gz");
    let source: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.split('.').next().unwrap_or_default().to_owned();
    parse(source, name).map_err(|error| format!("{}: {error}", path.display()).into())
}

fn parse(source: impl Read, name: String) -> Result<Trace, Box<dyn Error>> {
    let lines = csv::Reader::from_reader(source)
        .into_deserialize()
        .collect::<Result<Vec<(u64, char, u32, u64, u32)>, _>>()?;
    let completed: HashSet<u32> = lines.iter().filter(|line| line.1 == 'c').map(|line| line.2).collect();
    let mut operations = Vec::with_capacity(lines.len());
    let mut live = HashMap::new();
    let mut releasing = HashSet::new();
    let (mut ids, mut requested, mut requested_bytes_peak) = (0, 0, 0);
    for &(_, op, id, bytes, stream) in &lines {
        match op {
            'a' => {
                if live.insert(id, bytes).is_some() {
                    return Err(format!("allocation {id} is live already").into());
                }
                requested += bytes;
                requested_bytes_peak = requested_bytes_peak.max(requested);
                ids = ids.max(id + 1);
                operations.push(Operation::Allocate { id, bytes, stream });
            }
            'f' => {
                requested -= live.remove(&id).ok_or_else(|| format!("allocation {id} is not live"))?;
                if completed.contains(&id) {
                    releasing.insert(id);
                } else {
                    operations.push(Operation::Free { id });
                }
            }
            'c' if releasing.remove(&id) => operations.push(Operation::Free { id }),
            'c' => return Err(format!("allocation {id} completes a free that was not requested").into()),
            _ => return Err(format!("unknown operation {op:?}").into()),
        }
    }
    Ok(Trace { name, events: lines.len(), operations, ids, requested_bytes_peak })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_counts_when_requested_and_takes_effect_when_completed() -> Result<(), Box<dyn Error>> {
        let text = "t_us,op,id,bytes,stream\n0,a,1,100,0\n1,f,1,100,0\n2,a,2,50,1\n3,c,1,100,0\n4,f,2,50,1\n";
        let trace = parse(text.as_bytes(), "t".to_owned())?;
        assert_eq!((trace.events, trace.ids, trace.requested_bytes_peak), (5, 3, 100));
        let order: Vec<_> = trace
            .operations
            .iter()
            .map(|operation| match *operation {
                Operation::Allocate { id, .. } => (true, id),
                Operation::Free { id } => (false, id),
            })
            .collect();
        assert_eq!(order, [(true, 1), (true, 2), (false, 1), (false, 2)]);
        Ok(())
    }
}
