//! The queues of a manager: how far they are, and what follows from it.

use super::shared::Shared;
use super::typed_pool::TypedPool;
use crate::pool::{BatchId, LaneKey, Pool, Request, Return, Uses};
use crate::range::{NO_QUEUE, QueueIndex};
use crate::raw::allocation::signal;
use crate::sync::{AtomicBool, Mutex, Ordering, Rank};
use crate::timeline::Timeline;
use aquifer_backend::{Backend, Error, ErrorKind};
use parking_lot::RwLock;
use std::sync::Arc;
use std::time::Duration;

/// One queue, for as long as the manager's state lives. When its last handle goes it is kept for the next that is asked
/// for, so that buffers may name it as long as they like.
pub(crate) struct QueueState<Q> {
    pub(crate) raw: Q,
    pub(crate) index: QueueIndex,
    pub(crate) timeline: Arc<Timeline>,
    /// By memory type.
    pub(crate) lanes: Box<[LaneKey]>,
    /// Whether it was the program's before; then it is not given to anybody else.
    is_adopted: bool,
    /// Whether the driver refused the last marker, so that what waits for it needs another. Held while a marker is put in.
    is_refused: Mutex<bool>,
}

/// All queues of a manager.
pub(crate) struct Queues<Q> {
    /// Number 1 first. Only ever more.
    all: RwLock<Vec<Arc<QueueState<Q>>>>,
    unused: parking_lot::Mutex<Vec<QueueIndex>>,
    is_lost: AtomicBool,
    /// Whether the loss has yet to be logged: subscribers are the user's code, and locks may be held where it is met.
    is_loss_untold: AtomicBool,
}

impl<Q> Default for Queues<Q> {
    fn default() -> Self {
        Self {
            all: RwLock::new(Vec::new()),
            unused: parking_lot::Mutex::new(Vec::new()),
            is_lost: AtomicBool::new(false),
            is_loss_untold: AtomicBool::new(false),
        }
    }
}

impl<Q> Queues<Q> {
    pub(crate) fn get(&self, index: QueueIndex) -> Arc<QueueState<Q>> {
        Arc::clone(&self.all.read()[usize::from(index) - 1])
    }

    pub(crate) fn all(&self) -> Vec<Arc<QueueState<Q>>> {
        self.all.read().clone()
    }

    /// Keeps a queue whose last handle has gone.
    pub(crate) fn give_back(&self, queue: &QueueState<Q>) {
        if !queue.is_adopted {
            self.unused.lock().push(queue.index);
        }
    }
}

/// How long one call waits for a queue before it looks whether the device is lost, or another queue has moved.
const WAIT_STEP: Duration = Duration::from_millis(100);

pub(super) fn lost(operation: &'static str) -> Error {
    let message = "the device is lost; drop its buffers and managers, and make new ones once it is back";
    Error::new(ErrorKind::DeviceLost, operation, message)
}

impl<B: Backend> Shared<B> {
    /// A queue for a new handle: one that nobody has any more, or a new one.
    pub(crate) fn make_queue(&self) -> Result<Arc<QueueState<B::Queue>>, Error> {
        self.check_process("queue")?;
        if self.is_lost() {
            return Err(lost("queue"));
        }
        if let Some(index) = self.queues.unused.lock().pop() {
            return Ok(self.queues.get(index));
        }
        self.list_queue(self.backend.create_queue()?, false)
    }

    /// A queue of a driver's queue that the program brings, which nobody else will be given.
    pub(crate) fn adopt_queue(&self, raw: B::Queue) -> Result<Arc<QueueState<B::Queue>>, Error> {
        self.check_process("adopt_queue")?;
        if self.is_lost() {
            return Err(lost("adopt_queue"));
        }
        let value = self.note(self.backend.completed(&raw))?;
        if value != 0 {
            let message = format!("the queue has the value {value}, so it has been in use; give a new one");
            return Err(Error::new(ErrorKind::InvalidArgument, "adopt_queue", message));
        }
        self.list_queue(raw, true)
    }

    fn list_queue(&self, raw: B::Queue, is_adopted: bool) -> Result<Arc<QueueState<B::Queue>>, Error> {
        let mut all = self.queues.all.write();
        let Ok(index) = QueueIndex::try_from(all.len() + 1) else {
            let message = format!("there are {} queues; drop one before asking for another", all.len());
            return Err(Error::new(ErrorKind::Unsupported, "queue", message));
        };
        let timeline = Arc::new(Timeline::default());
        let lanes = self.pools.iter().enumerate().map(|(memory_type, typed)| {
            let lane = typed.pool.add_lane(index, Arc::clone(&timeline));
            LaneKey::new(lane.identity(), memory_type)
        });
        let lanes = lanes.collect();
        let is_refused = Mutex::new(Rank::Signal, false);
        let queue = Arc::new(QueueState { raw, index, timeline, lanes, is_adopted, is_refused });
        all.push(Arc::clone(&queue));
        if self.is_lost() {
            // Who noted that may have ended the others before this one was listed.
            queue.timeline.end();
        }
        Ok(queue)
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.queues.is_lost.load(Ordering::Acquire)
    }

    /// Notes an answer of the driver's: if the device is lost, all work is over.
    pub(crate) fn note<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &answer
            && error.kind() == ErrorKind::DeviceLost
            && !self.queues.is_lost.swap(true, Ordering::AcqRel)
        {
            self.queues.is_loss_untold.store(true, Ordering::Release);
            for queue in self.queues.all() {
                queue.timeline.end();
            }
        }
        answer
    }

    /// Logs what could not be logged under locks: that the device is lost, once, and what a budget group has to say. Under no lock.
    pub(crate) fn tell_loss(&self) {
        self.ledgers.iter().for_each(|ledger| ledger.tell());
        if self.is_lost() && self.queues.is_loss_untold.swap(false, Ordering::AcqRel) {
            tracing::error!(backend = self.backend.properties().backend, "the device is lost");
        }
    }

    /// Puts a marker into a queue. The value is claimed whatever the driver says; if it refused, the next marker covers it.
    pub(crate) fn signal(&self, queue: &QueueState<B::Queue>) -> Result<u64, Error> {
        self.check_process("signal")?;
        let mut is_refused = queue.is_refused.lock();
        let value = queue.timeline.claim();
        let answer = signal(&self.backend, &queue.raw, value);
        *is_refused = answer.is_err();
        self.calls.signal.fetch_add(1, Ordering::Relaxed);
        drop(is_refused);
        self.note(answer).map(|()| value)
    }

    /// Signals again where the driver refused the last marker.
    pub(crate) fn signal_refused(&self, queue: &QueueState<B::Queue>) {
        let is_refused = *queue.is_refused.lock();
        if is_refused {
            let _ = self.signal(queue);
        }
    }

    /// The queues that `uses` records, the home left out.
    fn recorded_queues(&self, uses: Uses) -> Vec<Arc<QueueState<B::Queue>>> {
        self.queues.all.read().iter().filter(|queue| uses.include(queue.index)).cloned().collect()
    }

    /// All queues that may use an allocation: its home, if it has one, and those that were recorded.
    pub(crate) fn queues_of(&self, uses: Uses) -> impl Iterator<Item = Arc<QueueState<B::Queue>>> {
        let home = (uses.home() != NO_QUEUE).then(|| self.queues.get(uses.home()));
        let recorded = if uses.are_recorded() { self.recorded_queues(uses) } else { Vec::new() };
        home.into_iter().chain(recorded)
    }

    /// Puts a marker into each queue that a batch waits for, whose sealing has begun.
    fn seal(&self, pool: &Pool, (id, uses): (BatchId, Uses)) {
        pool.finish_seal(id, self.mark_recorded(uses));
    }

    /// Puts a marker into each queue that `uses` records; answers by which values they have passed what they were given so far.
    pub(super) fn mark_recorded(&self, uses: Uses) -> Vec<(QueueIndex, u64)> {
        let mark = |queue: &Arc<QueueState<B::Queue>>| {
            let value = match self.signal(queue) {
                Ok(value) => value,
                // Nobody here can know when the queue has passed, so it never has.
                Err(error) if error.kind() == ErrorKind::Forked => u64::MAX,
                // A marker that was refused is waited for all the same: the next one covers it.
                Err(_) => queue.timeline.claimed(),
            };
            (queue.index, value)
        };
        self.recorded_queues(uses).iter().map(mark).collect()
    }

    /// Puts markers into queues for all that waits in a pool without one.
    pub(super) fn mark(&self, typed: &TypedPool<B::Block>) {
        if let Some(batch) = typed.pool.begin_seal_open() {
            self.seal(&typed.pool, batch);
        }
        for queue in self.queues.all() {
            if typed.pool.needs_marker(queue.index) {
                let _ = self.signal(&queue);
            } else {
                self.signal_refused(&queue);
            }
        }
    }

    /// Seals the batch that a free has found full, if one is.
    pub(crate) fn seal_full_quarantine(&self, home: QueueIndex, request: Request) {
        if self.is_forked() {
            return;
        }
        let pool = &self.pools[request.memory_type()].pool;
        if let Some(batch) = pool.begin_seal_full(home, request) {
            self.seal(pool, batch);
            self.look();
            pool.settle(Return::ToCaches);
            self.bell.tell_news();
        }
    }

    /// Asks every queue how far it is; true if any has moved. In a forked process none ever has.
    pub(crate) fn look(&self) -> bool {
        let mut has_moved = false;
        if self.is_forked() {
            return has_moved;
        }
        // Not under the lock: to note that the device is lost takes it too, and a thread that waits to write lets nobody in.
        for queue in self.queues.all() {
            if let Ok(value) = self.note(self.backend.completed(&queue.raw)) {
                has_moved |= queue.timeline.reach(value);
            }
        }
        has_moved
    }

    /// Puts markers where something waits without one, then frees what the queues have passed, and tells who waits.
    pub(crate) fn settle(&self) {
        self.pools.iter().for_each(|typed| self.mark(typed));
        self.look();
        self.settle_passed();
    }

    /// As [`Shared::settle`], but tells nobody unless a queue has moved: a waiter that tried in vain would otherwise keep
    /// itself from resting. True if one has.
    pub(super) fn settle_if_moved(&self) -> bool {
        self.pools.iter().for_each(|typed| self.mark(typed));
        let has_moved = self.look();
        if has_moved {
            self.settle_passed();
        }
        has_moved
    }

    fn settle_passed(&self) {
        for typed in &self.pools {
            typed.pool.settle(Return::ToCaches);
        }
        self.complete_operations();
        self.destroy_passed_imported();
        self.bell.tell_news();
        self.tell_loss();
    }

    /// Whether anything waits for a queue.
    pub(crate) fn has_in_flight(&self) -> bool {
        self.pools.iter().any(|typed| typed.pool.has_in_flight())
            || !self.operations.is_empty()
            || self.imported.has_in_flight()
    }

    /// A queue and a value whose passing will free something, or end an operation.
    pub(crate) fn next_in_flight(&self) -> Option<(QueueIndex, u64)> {
        let of_pool = || self.pools.iter().find_map(|typed| typed.pool.next_in_flight());
        self.operations.next().or_else(of_pool).or_else(|| self.imported.next_in_flight())
    }

    /// Blocks until a queue has reached a value.
    pub(crate) fn wait_for(&self, queue: &QueueState<B::Queue>, value: u64) -> Result<(), Error> {
        while !self.wait_a_while(queue, value, WAIT_STEP)? {}
        Ok(())
    }

    /// Blocks until a queue has reached a value or the time is over; true if it has.
    pub(crate) fn wait_a_while(
        &self,
        queue: &QueueState<B::Queue>,
        value: u64,
        timeout: Duration,
    ) -> Result<bool, Error> {
        self.check_process("wait")?;
        if self.is_lost() {
            return Err(lost("wait"));
        }
        self.signal_refused(queue);
        let is_reached = self.note(self.backend.wait(&queue.raw, value, timeout))?;
        if is_reached {
            queue.timeline.reach(value);
        }
        Ok(is_reached)
    }

    /// Blocks until every queue that may use an allocation has done all that it was given so far: then the host may touch
    /// the memory.
    pub(crate) fn wait_for_uses(&self, uses: Uses) -> Result<(), Error> {
        for queue in self.queues_of(uses) {
            let value = self.signal(&queue)?;
            self.wait_for(&queue, value)?;
        }
        Ok(())
    }

    /// Waits until no queue uses an allocation any more, each queue for as long as allocations wait; false if one still may, or if this
    /// process is a forked one.
    pub(crate) fn have_passed(&self, uses: Uses) -> bool {
        let has_passed = |queue: &QueueState<B::Queue>| {
            let value = self.signal(queue)?;
            self.wait_a_while(queue, value, self.config.in_flight_wait)
        };
        !self.is_forked() && self.queues_of(uses).all(|queue| matches!(has_passed(&queue), Ok(true)))
    }

    /// Keeps what is enqueued to `queue` from now on from running before all other queues that may use an allocation have
    /// done what they were given so far.
    pub(crate) fn order_after_uses(&self, queue: &QueueState<B::Queue>, uses: Uses) -> Result<(), Error> {
        for other in self.queues_of(uses).filter(|other| other.index != queue.index) {
            let value = self.signal(&other)?;
            self.note(self.backend.wait_on_queue(&queue.raw, &other.raw, value))?;
        }
        Ok(())
    }

    /// Waits until no queue can touch any memory of this manager any more; false if a queue has not come to its end after
    /// `timeout`.
    pub(crate) fn drain(&self, timeout: Duration) -> bool {
        for queue in self.queues.all() {
            // If it is refused, waiting asks again, and the marker that comes then has a higher value.
            let value = self.signal(&queue).unwrap_or_else(|_| queue.timeline.claimed());
            // In steps rather than by a clock, so that a simulated device's time is as good as real time.
            let mut left = timeout;
            loop {
                let step = left.min(WAIT_STEP);
                match self.wait_a_while(&queue, value, step) {
                    Ok(true) => break,
                    Err(_) if self.is_lost() => break,
                    _ if left.is_zero() => return false,
                    _ => left -= step,
                }
            }
        }
        self.look();
        true
    }
}
