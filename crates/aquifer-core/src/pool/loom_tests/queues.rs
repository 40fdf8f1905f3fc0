//! Models of lanes and quarantine: what queues may still use reaches others only after they have passed.
//!
//! Markers, and when they are put in, are the manager's; the models do as it does (`manager/queues.rs`).

use super::*;
use crate::timeline::Timeline;

/// A queue, its lane, and how far it is.
pub(super) struct Queue {
    pub(super) home: Home,
    pub(super) device: DeviceQueue,
    timeline: Arc<Timeline>,
    /// Held to put a marker in.
    signal: Mutex<()>,
}

impl Queue {
    pub(super) fn new(pool: &Pool, index: QueueIndex) -> Self {
        let timeline = Arc::new(Timeline::default());
        let lane = pool.add_lane(index, Arc::clone(&timeline));
        let signal = Mutex::new(Rank::Signal, ());
        Self { home: Home::new(pool.layout(), lane), device: DeviceQueue::new(), timeline, signal }
    }

    fn signal(&self) -> u64 {
        let _one_at_a_time = self.signal.lock();
        let value = self.timeline.claim();
        self.device.signal(value);
        value
    }
}

impl Model {
    /// Work on a queue uses a place that the caller holds.
    fn use_on(&self, queue: &Queue, place: Place) {
        self.slot(place).memory.use_on(&queue.device);
    }

    /// Frees a place that was made on no queue, and that the first queue may still use.
    fn free_used(&self, place: Place) -> Closing {
        self.gives(place);
        let uses = Uses::at_home(NO_QUEUE).with(self.queues[0].home.lane.queue);
        let request = self.home.request;
        if request.quarantine_cached(place, uses).is_some() {
            return Closing::Orphans;
        }
        if let Some(batch) = self.pool.begin_seal_full(uses.home(), request) {
            self.seal(batch);
            self.look();
            self.pool.settle(Return::ToCaches);
        }
        Arc::clone(&self.pool).quarantine(Entry { place, request, uses })
    }

    fn seal(&self, (id, uses): (BatchId, Uses)) {
        let used = self.queues.iter().filter(|queue| uses.include(queue.home.lane.queue));
        let values = used.map(|queue| (queue.home.lane.queue, queue.signal())).collect();
        self.pool.finish_seal(id, values);
    }

    /// Puts a marker in for all that waits without one.
    fn mark(&self) {
        if let Some(batch) = self.pool.begin_seal_open() {
            self.seal(batch);
        }
        for queue in &self.queues {
            if self.pool.needs_marker(queue.home.lane.queue) {
                queue.signal();
            }
        }
    }

    fn look(&self) {
        for queue in &self.queues {
            queue.timeline.reach(queue.device.completed());
        }
    }

    /// As a manager does now and then.
    fn settle(&self) {
        self.mark();
        self.look();
        self.pool.settle(Return::ToCaches);
    }

    /// All queues pass all that they were given.
    pub(super) fn pass(&self) {
        self.mark();
        self.queues.iter().for_each(|queue| queue.device.run());
        self.look();
        self.pool.settle(Return::ToCaches);
    }
}

/// A thread gives work to its queue that uses two places, and frees them: one goes to its own cache, and the other to its
/// lane's depot. It takes one again at once, for more work. Another thread puts a marker in, empties caches and depots, puts
/// another marker in, and asks for memory on no queue: the first place is the first that it could get, and it gets it only
/// after the queue has run the work.
///
/// 3,700 runs, 0.5 s.
#[test]
fn a_lanes_place_reaches_others_after_its_work() {
    explore(2, || {
        let model = Model::with_queues(1);
        let queue = &model.queues[0];
        let first = model.pool.grow(&queue.home.lane, 0, BLOCK_BYTES, queue.home.request);
        // Past the caches, so that the user's begins with room for one.
        let second = model.pool.allocate_anywhere(&queue.home.lane, queue.home.request);
        let second = second.expect("the slab has free slots");
        [first, second].into_iter().for_each(|place| model.took(place));
        let user = model.spawn(move |model| {
            let queue = &model.queues[0];
            for place in [first, second] {
                model.use_on(queue, place);
                model.free_at(&queue.home, place);
            }
            let again = model.allocate_at(&queue.home);
            model.use_on(queue, again);
            model.free_at(&queue.home, again);
        });
        let device = model.spawn(|model| model.queues[0].device.run());
        queue.signal();
        model.pool.flush();
        model.settle();
        let other = model.allocate();
        user.join().expect("the user ends");
        device.join().expect("the device ends");
        model.free(other);
        model.check_empty();
    });
}

/// A thread frees three places that a queue may still use: two fill the batch of its cache, and the third finds it full and
/// hands it over. Another takes what has gathered so far, seals it, lets go of what the queue has passed, and allocates: no
/// place is lost or handed out twice, and none before the queue has run its work.
///
/// 77,000 runs, 10 s.
#[test]
fn a_quarantined_place_comes_back_once_and_after_its_work() {
    explore(3, || {
        let model = Model::with_queues(1);
        let first = model.pool.grow(&model.home.lane, 0, BLOCK_BYTES, model.home.request);
        model.took(first);
        let places = [first, model.allocate(), model.allocate()];
        places.iter().for_each(|&place| model.use_on(&model.queues[0], place));
        let user = model.spawn(move |model| {
            places.into_iter().for_each(|place| _ = model.free_used(place));
        });
        let device = model.spawn(|model| model.queues[0].device.run());
        model.pool.flush_quarantine();
        model.settle();
        let other = model.allocate();
        user.join().expect("the user ends");
        device.join().expect("the device ends");
        model.free(other);
        model.check_empty();
    });
}

/// A queue comes, and a thread gets a cache of its lane, while another thread empties all caches.
///
/// 270 runs, under 0.1 s.
#[test]
fn a_lane_may_come_while_caches_are_emptied() {
    explore(2, || {
        let (model, first) = Model::new();
        let user = model.spawn(|model| {
            let queue = Queue::new(&model.pool, 1);
            let place = model.allocate_at(&queue.home);
            model.free_at(&queue.home, place);
        });
        model.pool.flush();
        user.join().expect("the user ends");
        model.free(first);
        model.pool.flush();
        model.pool.snapshot();
    });
}

/// A queue comes, and a place in the quarantine waits for it, while another thread lets go of what queues have passed. (The
/// timeline is older, since loom does not know the lock round the list of lanes, through which others see it.)
///
/// 22 runs.
#[test]
fn a_lane_may_come_while_others_settle() {
    explore(2, || {
        let (model, first) = Model::new();
        let timeline = Arc::new(Timeline::default());
        let user = model.spawn({
            let timeline = Arc::clone(&timeline);
            move |model| {
                model.pool.add_lane(1, Arc::clone(&timeline));
                model.gives(first);
                let uses = Uses::at_home(NO_QUEUE).with(1);
                let entry = Entry { place: first, request: model.home.request, uses };
                Arc::clone(&model.pool).quarantine(entry);
                model.pool.flush_quarantine();
                let (id, _) = model.pool.begin_seal_open().expect("the entry is there");
                model.pool.finish_seal(id, vec![(1, timeline.claim())]);
            }
        });
        model.pool.settle(Return::ToCaches);
        user.join().expect("the user ends");
        timeline.end();
        model.pool.settle(Return::ToCaches);
        model.check_empty();
    });
}
