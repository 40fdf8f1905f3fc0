//! What a command buffer holds once it is encoded.

use crate::event::Event;
use crate::memory::{self, Memory, Place};
use crate::sparse::Change;
use objc2_metal::MTLCommandBufferError;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

/// Something that a handler thread is to do.
pub(crate) type Task = Box<dyn FnOnce() + Send>;

/// Why a command buffer ended with an error.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) code: MTLCommandBufferError,
    pub(crate) text: String,
}

impl Failure {
    fn resource(text: String) -> Self {
        Self { code: MTLCommandBufferError::InvalidResource, text }
    }
}

/// A buffer as a command knows it. The command does not keep it: that is up to the command buffer's references.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    memory: Weak<Memory>,
    len: usize,
    pub(crate) offset: usize,
}

impl Target {
    pub(crate) fn new(memory: &Arc<Memory>, offset: usize) -> Self {
        Self { memory: Arc::downgrade(memory), len: memory.len, offset }
    }

    pub(crate) fn memory(&self) -> Result<Arc<Memory>, Failure> {
        let memory = self.memory.upgrade().filter(|memory| !memory.is_freed());
        memory.ok_or_else(|| {
            Failure::resource(format!(
                "a buffer of {} bytes was freed before work that uses it had ended",
                self.len
            ))
        })
    }
}

/// A blit.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Copy { from: Target, to: Target, len: usize },
    Fill { to: Target, len: usize, value: u8 },
}

impl Command {
    /// The buffers that it uses, and whether it writes them.
    pub(crate) fn targets(&self) -> impl Iterator<Item = (&Target, bool)> {
        let (read, written) = match self {
            Command::Copy { from, to, .. } => (Some(from), to),
            Command::Fill { to, .. } => (None, to),
        };
        read.map(|target| (target, false)).into_iter().chain([(written, true)])
    }

    fn len(&self) -> usize {
        match self {
            Command::Copy { len, .. } | Command::Fill { len, .. } => *len,
        }
    }

    /// Does `len` bytes of it, from `done` on.
    fn run(&self, done: usize, len: usize) -> Result<(), Failure> {
        match self {
            Command::Copy { from, to, .. } => {
                let (source, target) = (from.memory()?, to.memory()?);
                memory::copy((&source, from.offset + done), (&target, to.offset + done), len)
                    .map_err(Failure::resource)?;
            }
            Command::Fill { to, value, .. } => {
                memory::fill(&*to.memory()?, to.offset + done, len, *value).map_err(Failure::resource)?;
            }
        }
        // Freed meanwhile?
        self.targets().try_for_each(|(target, _)| target.memory().map(drop))
    }
}

/// What one encoder encoded.
pub(crate) struct Pass {
    pub(crate) commands: VecDeque<Command>,
    /// How many bytes of the first command are done.
    progress: usize,
    /// Ends of passes that updated fences for which this one waits.
    pub(crate) waits_for: Vec<Arc<Event>>,
    /// Reaches 1 when the pass is over, well or not.
    pub(crate) over: Arc<Event>,
    /// Tracked allocations that it uses, and whether it writes them.
    pub(crate) hazards: Vec<(u64, bool)>,
}

impl Pass {
    pub(crate) fn new(commands: Vec<Command>, waits_for: Vec<Arc<Event>>, over: Arc<Event>) -> Self {
        let tracked = |(target, writes): (&Target, bool)| {
            let memory = target.memory().ok()?;
            memory.is_tracked.then(|| (memory.allocation_id(), writes))
        };
        let hazards = commands.iter().flat_map(|command| command.targets().filter_map(tracked)).collect();
        Self { commands: commands.into(), progress: 0, waits_for, over, hazards }
    }

    pub(crate) fn conflicts_with(&self, other: &Pass) -> bool {
        self.hazards.iter().any(|(id, writes)| {
            other.hazards.iter().any(|(other, written)| id == other && (*writes || *written))
        })
    }

    /// Does at most `bytes` bytes of the next command. Whether the pass is over.
    pub(crate) fn run(&mut self, bytes: usize) -> Result<bool, Failure> {
        let Some(command) = self.commands.front() else { return Ok(true) };
        let n = bytes.min(command.len() - self.progress);
        command.run(self.progress, n)?;
        self.progress += n;
        if self.progress == command.len() {
            self.progress = 0;
            self.commands.pop_front();
        }
        Ok(self.commands.is_empty())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.over.signal(1);
    }
}

/// A change of a sparse buffer's mappings.
pub(crate) enum Remap {
    Changes { buffer: Target, changes: Vec<Change> },
    Copy { from: Target, to: Target, ranges: Vec<[usize; 3]> },
}

impl Remap {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        match self {
            Remap::Changes { buffer, changes } => {
                let buffer = buffer.memory()?;
                if let Place::Sparse(mappings) = &buffer.place {
                    changes.iter().for_each(|change| mappings.change(change));
                }
            }
            Remap::Copy { from, to, ranges } => {
                let (from, to) = (from.memory()?, to.memory()?);
                if let (Place::Sparse(source), Place::Sparse(target)) = (&from.place, &to.place) {
                    ranges
                        .iter()
                        .for_each(|[first, count, at]| target.copy_from(source, *first, *count, *at));
                }
            }
        }
        Ok(())
    }
}

/// A step of a command buffer.
pub(crate) enum Step {
    Pass(Pass),
    Signal(Arc<Event>, u64),
    Wait(Arc<Event>, u64),
    Remap(Remap),
}

/// A committed command buffer, or a call of a Metal 4 queue.
pub(crate) struct Job {
    pub(crate) steps: Vec<Step>,
    /// Ends with this error instead of doing anything.
    pub(crate) fails: Option<MTLCommandBufferError>,
    /// Called once before anything is done; what it returns is for a handler thread.
    pub(crate) begin: Option<Box<dyn FnOnce() -> Option<Task> + Send>>,
    /// Called once at the end; what it returns is for a handler thread.
    pub(crate) end: Box<dyn FnOnce(Result<(), Failure>) -> Task + Send>,
}
