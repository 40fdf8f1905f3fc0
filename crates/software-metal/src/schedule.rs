//! Which step of a queue's work comes next.

use crate::bell::Bell;
use crate::work::{Failure, Job, Step, Task};
use std::sync::Arc;

/// How many bytes are copied before other work gets its chance, where work overlaps.
const CHUNK: usize = 16 << 10;

/// Numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let a = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        b ^ (b >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// A job whose steps are being done; those that are done are `None`.
struct Running {
    steps: Vec<Option<Step>>,
    job: Job,
}

/// The jobs of one queue that have begun or may begin, in the order of their commits.
pub(crate) struct Schedule {
    jobs: Vec<Running>,
    random: Option<Random>,
}

impl Schedule {
    pub(crate) fn new(random: Option<Random>) -> Self {
        Self { jobs: Vec::new(), random }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Whether another job may be added. In order, one job runs at a time.
    pub(crate) fn has_room(&self) -> bool {
        self.random.is_some() || self.jobs.is_empty()
    }

    /// Begins a job; what is returned is for a handler thread.
    pub(crate) fn add(&mut self, mut job: Job) -> Option<Task> {
        let steps = std::mem::take(&mut job.steps).into_iter().map(Some).collect();
        let task = job.begin.take().and_then(|begin| begin());
        self.jobs.push(Running { steps, job });
        task
    }

    /// Ends all jobs with an error.
    pub(crate) fn fail_all(&mut self, failure: &Failure) -> Vec<Task> {
        self.jobs.drain(..).map(|running| (running.job.end)(Err(failure.clone()))).collect()
    }

    /// Ends the first job with an error.
    pub(crate) fn fail_first(&mut self, failure: Failure) -> Option<Task> {
        (!self.jobs.is_empty()).then(|| end(self.jobs.remove(0), Err(failure)))
    }

    /// Does a little. `None`: there is nothing to do before `bell` rings. Otherwise, what handler threads are to do.
    pub(crate) fn step(&mut self, bell: &Arc<Bell>) -> Option<Option<Task>> {
        let failing = |(at, running): (usize, &Running)| Some((at, running.job.fails?));
        if let Some((at, code)) = self.jobs.iter().enumerate().find_map(failing) {
            let text = "the command buffer failed because a test wanted it".into();
            return Some(Some(end(self.jobs.remove(at), Err(Failure { code, text }))));
        }
        if let Some(at) = self.jobs.iter().position(|running| running.steps.iter().all(Option::is_none)) {
            return Some(Some(end(self.jobs.remove(at), Ok(()))));
        }
        let (job, step) = self.choose(bell)?;
        let outcome = self.run(job, step);
        Some(outcome.err().map(|failure| end(self.jobs.remove(job), Err(failure))))
    }

    fn choose(&mut self, bell: &Arc<Bell>) -> Option<(usize, usize)> {
        if self.random.is_none() {
            let step = self.jobs.first()?.steps.iter().position(Option::is_some)?;
            return self.may_run(0, step, bell).then_some((0, step));
        }
        let all =
            (0..self.jobs.len()).flat_map(|job| (0..self.jobs[job].steps.len()).map(move |step| (job, step)));
        let ready: Vec<_> = all.filter(|(job, step)| self.may_run(*job, *step, bell)).collect();
        let random = self.random.as_mut()?;
        (!ready.is_empty()).then(|| ready[random.below(ready.len())])
    }

    /// Whether nothing that Metal promises stands against this step now.
    fn may_run(&self, job: usize, at: usize, bell: &Arc<Bell>) -> bool {
        let steps = &self.jobs[job].steps;
        let mut before = steps[..at].iter().flatten();
        match &steps[at] {
            None => false,
            Some(Step::Wait(event, value)) => event.watch(*value, bell),
            Some(Step::Signal(..) | Step::Remap(_)) => before.next().is_none(),
            Some(Step::Pass(pass)) => {
                !before.any(|step| matches!(step, Step::Wait(..)))
                    && pass.waits_for.iter().all(|other| other.watch(1, bell))
                    && !self.passes_before(job, at).any(|other| pass.conflicts_with(other))
            }
        }
    }

    fn passes_before(&self, job: usize, at: usize) -> impl Iterator<Item = &crate::work::Pass> {
        let earlier = self.jobs[..job].iter().flat_map(|running| &running.steps);
        earlier.chain(&self.jobs[job].steps[..at]).flatten().filter_map(|step| match step {
            Step::Pass(pass) => Some(pass),
            _ => None,
        })
    }

    fn run(&mut self, job: usize, at: usize) -> Result<(), Failure> {
        let bytes = if self.random.is_some() { CHUNK } else { usize::MAX };
        let step = &mut self.jobs[job].steps[at];
        let is_over = match step {
            None | Some(Step::Wait(..)) => true,
            Some(Step::Signal(event, value)) => {
                event.signal(*value);
                true
            }
            Some(Step::Remap(remap)) => {
                remap.run()?;
                true
            }
            Some(Step::Pass(pass)) => pass.run(bytes)?,
        };
        if is_over {
            *step = None;
        }
        Ok(())
    }
}

fn end(running: Running, outcome: Result<(), Failure>) -> Task {
    drop(running.steps);
    (running.job.end)(outcome)
}
