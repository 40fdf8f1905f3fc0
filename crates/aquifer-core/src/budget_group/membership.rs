//! This process's membership of a group: its own record, and how its lease grows and shrinks. What threads of the process do at
//! the same time is put in order by a mutex of the process's own; what processes do, by the order of announcing and looking.

use super::directory::{self, Directory, FileId, broken};
use super::peers::{OwnFile, Seen, tie_breaker};
use super::record::{GroupRecord, MemberRecord};
use super::rules::{self, LinePlace, Standing, Verdict};
use super::state::{Demand, OwnWant, State};
use crate::raw::fork::Process;
use crate::sync::StaticMutex;
use aquifer_backend::{Error, ErrorKind};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::{Duration, Instant};
use tracing::warn;

/// How often who waits wakes those who may have something to give back.
const RING_AGAIN: Duration = Duration::from_millis(100);
/// How many lines for the log are kept until somebody may write them.
const NOTICES_MAX: usize = 8;
/// How often a claim is made again that met another.
const CLAIM_ATTEMPTS: u32 = 8;
/// How long the first break between two such is at most; each further one may be twice as long.
const CLAIM_BREAK: Duration = Duration::from_micros(50);

/// Why a lease did not grow.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The others have too much of the budget, or it is kept for one of them, or the quota is spent.
    Short,
    /// The group is broken, or this process may not use it.
    Failed(Error),
}

#[derive(Debug)]
pub(super) struct Membership {
    pub(super) directory: Directory,
    group_file: File,
    pub(super) group: GroupRecord,
    own: OwnFile,
    /// Locked for as long as it is open, and never opened a second time: to close any of two would end the lock.
    file: File,
    process: Process,
    state: StaticMutex<State>,
    /// Whether the state has something for the log.
    has_notices: AtomicBool,
}

impl Membership {
    pub(super) fn new(directory: Directory, group_file: File, group: GroupRecord) -> Result<Self, Error> {
        let process = Process::current();
        let record = MemberRecord { sequence: 1, ..MemberRecord::default() };
        let (name, file) = directory.create_member(&record.encode())?;
        let id = FileId::of(&file).map_err(|errno| broken("BudgetGroup::join", errno.to_string()))?;
        let state = StaticMutex::new(State { record, ..State::default() });
        Ok(Self {
            directory,
            group_file,
            group,
            own: OwnFile { name, id },
            file,
            process,
            state,
            has_notices: AtomicBool::new(false),
        })
    }

    /// Keeps something for the log. Subscribers are the user's code, and this may be under the growth lock of a pool.
    fn note(&self, state: &mut State, notice: String) {
        if state.notices.len() < NOTICES_MAX {
            state.notices.push(notice);
        }
        self.has_notices.store(true, Ordering::Release);
    }

    /// Writes to the log what there is for it. To be called under no lock.
    pub(super) fn tell(&self) {
        if self.process.is_current() && self.has_notices.swap(false, Ordering::AcqRel) {
            let notices = std::mem::take(&mut self.state.lock().notices);
            notices.iter().for_each(|notice| warn!("{notice}"));
        }
    }

    pub(super) fn check_process(&self, operation: &'static str) -> Result<(), Error> {
        if self.process.is_current() {
            return Ok(());
        }
        let message =
            "this process was forked from the one that joined the budget group; join it anew in this one";
        Err(Error::new(ErrorKind::Forked, operation, message))
    }

    /// Grows the lease by what `demand` takes beyond it, or leaves all as it is.
    pub(super) fn take(&self, operation: &'static str, demand: Demand) -> Result<(), Refusal> {
        self.check_process(operation).map_err(Refusal::Failed)?;
        let mut state = self.state.lock();
        let place = self.place(state.wants.first());
        self.claim(operation, &mut state, demand, place)
    }

    /// As [`Membership::take`], but refuses if others of this process wait.
    pub(super) fn take_at_once(&self, operation: &'static str, demand: Demand) -> Result<(), Refusal> {
        self.check_process(operation).map_err(Refusal::Failed)?;
        let mut state = self.state.lock();
        if state.wants.is_empty() {
            self.claim(operation, &mut state, demand, None)
        } else {
            Err(Refusal::Short)
        }
    }

    /// As [`Membership::take`], for one that waits in line. In this process too it is not granted before those that came earlier.
    pub(super) fn take_in_turn(&self, operation: &'static str, id: u64) -> Result<(), Refusal> {
        self.check_process(operation).map_err(Refusal::Failed)?;
        let mut state = self.state.lock();
        match state.wants.first() {
            Some(want) if want.id == id => {
                let (demand, place) = (want.demand, self.place(Some(want)));
                self.claim(operation, &mut state, demand, place)
            }
            _ => Err(Refusal::Short),
        }
    }

    fn place(&self, want: Option<&OwnWant>) -> Option<LinePlace> {
        want.map(|&OwnWant { since_ns, .. }| LinePlace {
            believed_since_ns: since_ns,
            since_ns,
            tie_breaker: tie_breaker(&self.own.name),
        })
    }

    fn claim(
        &self,
        operation: &'static str,
        state: &mut State,
        demand: Demand,
        place: Option<LinePlace>,
    ) -> Result<(), Refusal> {
        let (need, leased) = (state.need_with(demand), state.record.leased_bytes);
        if need <= leased {
            state.take(demand);
            return Ok(());
        }
        if need > self.group.quota_bytes {
            return Err(Refusal::Short);
        }
        self.verify(operation, state).map_err(Refusal::Failed)?;
        let mut may_be_dead = true;
        for attempt in 0..CLAIM_ATTEMPTS {
            let mut verdict = self.judge(operation, state, need, place)?;
            if verdict == Verdict::Granted {
                self.publish(operation, state, need, leased).map_err(Refusal::Failed)?;
                // Of two that announce at the same time, the later one sees the other's announcement.
                fence(Ordering::SeqCst);
                let looked = self.judge(operation, state, need, place);
                if let Ok(Verdict::Granted) = looked {
                    state.take(demand);
                    state.end_turn(need - leased);
                    // It is granted, whether or not others read that; they count what is announced.
                    let _ = self.publish(operation, state, need, need);
                    return Ok(());
                }
                self.publish(operation, state, leased, leased).map_err(Refusal::Failed)?;
                verdict = looked?;
            }
            if std::mem::take(&mut may_be_dead) && state.peers.remove_dead(&self.directory) {
                continue;
            }
            if verdict != Verdict::Contended {
                return Err(Refusal::Short);
            }
            let most_ns = CLAIM_BREAK.as_nanos() as u64 * (1 << attempt);
            std::thread::sleep(Duration::from_nanos(directory::random() % most_ns));
        }
        Err(Refusal::Short)
    }

    /// Looks at all others, and whether a lease of `need` bytes would be right now.
    fn judge(
        &self,
        operation: &'static str,
        state: &mut State,
        need: u64,
        place: Option<LinePlace>,
    ) -> Result<Verdict, Refusal> {
        let others = self.look(operation, state).map_err(Refusal::Failed)?;
        let others: Vec<Standing> = others.into_iter().map(|seen| seen.standing).collect();
        let leased = state.record.leased_bytes;
        Ok(rules::judge(self.group.budget_bytes, leased, need - leased, place, &others))
    }

    fn look(&self, operation: &'static str, state: &mut State) -> Result<Vec<Seen>, Error> {
        let own_bytes = state.record.leased_bytes;
        state.peers.look(operation, &self.directory, &self.own, own_bytes, &self.group)
    }

    /// Writes this process's record.
    fn publish(
        &self,
        operation: &'static str,
        state: &mut State,
        announced_bytes: u64,
        leased_bytes: u64,
    ) -> Result<(), Error> {
        let (wanted_bytes, wanted_since_ns) = state.wants.first().map_or((0, 0), |want| {
            let need = state.need_with(want.demand).min(self.group.quota_bytes);
            (need.saturating_sub(leased_bytes), want.since_ns)
        });
        let sequence = state.record.sequence.saturating_add(1);
        state.record =
            MemberRecord { sequence, announced_bytes, leased_bytes, wanted_bytes, wanted_since_ns };
        self.file.write_all_at(&state.record.encode(), 0).map_err(|error| {
            let path = self.directory.path().display();
            let message =
                format!("this process's record in the budget group {path} cannot be written: {error}");
            broken(operation, message).with_source(error)
        })
    }

    /// Finds out whether somebody has done something to the group's file or to this process's own. What was done to the content of
    /// its own is put right.
    fn verify(&self, operation: &'static str, state: &mut State) -> Result<(), Error> {
        let refuse = |what: &str| {
            let message = format!(
                "{what} of the budget group {}: nothing more is leased; drop all managers and leases of the group and join anew",
                self.directory.path().display()
            );
            Err(broken(operation, message))
        };
        if directory::is_removed(&self.file) {
            return refuse("somebody has removed this process's file");
        }
        if directory::is_removed(&self.group_file) {
            return refuse("somebody has removed the file");
        }
        let group = directory::read_record(&self.group_file).and_then(|bytes| GroupRecord::decode(&bytes));
        if group != Some(self.group) {
            return refuse("somebody has changed the file");
        }
        let found = directory::read_record(&self.file);
        if found != Some(state.record.encode()) {
            let path = self.directory.path().display();
            let notice = format!(
                "somebody has written into this process's record in the budget group {path}; it is written anew"
            );
            self.note(state, notice);
            // Whoever has read what stood there takes no older one for true.
            let forged =
                found.and_then(|bytes| MemberRecord::decode(&bytes)).map_or(0, |record| record.sequence);
            state.record.sequence = state.record.sequence.max(forged);
            let longer = self.file.set_len(super::record::RECORD_BYTES as u64);
            longer.map_err(|error| broken(operation, error.to_string()).with_source(error))?;
            let leased = state.record.leased_bytes;
            self.publish(operation, state, leased, leased)?;
        }
        Ok(())
    }

    /// Whether the group is as it was when this process joined it.
    pub(super) fn check(&self, operation: &'static str) -> Result<(), Error> {
        self.check_process(operation)?;
        self.verify(operation, &mut self.state.lock())
    }

    pub(super) fn leased_bytes(&self) -> u64 {
        self.state.lock().record.leased_bytes
    }

    /// Whether the group's file or this process's has been removed, so that nothing more can be leased.
    pub(super) fn is_abandoned(&self) -> bool {
        directory::is_removed(&self.file) || directory::is_removed(&self.group_file)
    }

    /// Gives back what has been taken. To be called when the memory has really gone.
    pub(super) fn give_back(&self, demand: Demand) {
        if !self.process.is_current() {
            return;
        }
        let state = &mut *self.state.lock();
        let taken = match demand {
            Demand::Blocks(bytes) => (&mut state.block_bytes, bytes),
            Demand::Lease(bytes) => (&mut state.explicit_bytes, bytes),
        };
        *taken.0 = taken.0.saturating_sub(taken.1);
        let need = state.need();
        if need < state.record.leased_bytes {
            self.publish_or_warn(state, need);
        }
    }

    /// What cannot be written now is written with the next claim or shrinking; until then others count too much.
    fn publish_or_warn(&self, state: &mut State, leased_bytes: u64) {
        if let Err(error) = self.publish("BudgetGroup", state, leased_bytes, leased_bytes) {
            self.note(state, format!("a budget group counts more than this process has: {error}"));
        }
    }

    /// Gets in line. Wakes those who may have something to give back.
    pub(super) fn wait(self: &Arc<Self>, demand: Demand) -> Waiting {
        let id = if self.process.is_current() {
            let state = &mut *self.state.lock();
            state.want_count += 1;
            let id = state.want_count;
            state.wants.push(OwnWant { id, demand, since_ns: directory::monotonic_ns() });
            let leased = state.record.leased_bytes;
            self.publish_or_warn(state, leased);
            id
        } else {
            0
        };
        self.directory.ring();
        Waiting { membership: Arc::clone(self), rung: Instant::now(), id }
    }

    /// Whether a demand would be granted now, as far as can be told without claiming it. Removes those who have died.
    pub(super) fn would_grant(&self, operation: &'static str, demand: Demand) -> bool {
        if !self.process.is_current() {
            return false;
        }
        let state = &mut *self.state.lock();
        let (need, place) = (state.need_with(demand), self.place(state.wants.first()));
        let is_granted = |state: &mut State| {
            need <= state.record.leased_bytes
                || matches!(
                    self.judge(operation, state, need, place),
                    Ok(Verdict::Granted | Verdict::Contended)
                )
        };
        need <= self.group.quota_bytes
            && (is_granted(state) || state.peers.remove_dead(&self.directory) && is_granted(state))
    }

    /// Whether a demand is within the quota, so that others may make room for it.
    pub(super) fn could_have(&self, demand: Demand) -> bool {
        self.process.is_current() && self.state.lock().need_with(demand) <= self.group.quota_bytes
    }

    /// What all others say, and this process: its bytes leased, and wanted.
    pub(super) fn seen(&self, operation: &'static str) -> Result<(Vec<Seen>, MemberRecord), Error> {
        self.check_process(operation)?;
        let state = &mut *self.state.lock();
        self.verify(operation, state)?;
        let mut others = self.look(operation, state)?;
        if state.peers.remove_dead(&self.directory) {
            others = self.look(operation, state)?;
        }
        Ok((others, state.record))
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        // In a forked process the file is the parent's.
        if self.process.is_current() {
            self.directory.remove(&self.own.name);
        }
    }
}

/// A place in the line, until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    membership: Arc<Membership>,
    rung: Instant,
    pub(super) id: u64,
}

impl Waiting {
    /// Wakes the others again, now and then: who had nothing to give back when this began to wait may have by now.
    pub(super) fn remind(&mut self) {
        if self.rung.elapsed() >= RING_AGAIN {
            self.rung = Instant::now();
            self.membership.directory.ring();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let membership = &self.membership;
        if !membership.process.is_current() {
            return;
        }
        let state = &mut *membership.state.lock();
        state.wants.retain(|want| want.id != self.id);
        let leased = state.record.leased_bytes;
        membership.publish_or_warn(state, leased);
    }
}
