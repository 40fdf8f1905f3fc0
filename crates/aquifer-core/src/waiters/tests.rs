//! Each rule of the line, and random lives of many waiters.

use super::*;
use crate::sync::AtomicU64;
use proptest::prelude::*;
use std::sync::Arc;
use std::task::Wake;

const ASIDE_MS: u64 = 10;

/// Counts how often it is rung.
#[derive(Debug, Default)]
struct Bell(AtomicU64);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// One waiter, with a bell of its own.
struct Guest {
    id: WaiterId,
    bell: Arc<Bell>,
}

impl Guest {
    fn join(waiters: &Waiters) -> Self {
        Self::join_until(waiters, None)
    }

    fn join_until(waiters: &Waiters, deadline_ms: Option<u64>) -> Self {
        Self { id: waiters.join(deadline_ms), bell: Arc::default() }
    }

    fn poll(&self, waiters: &Waiters, now_ms: u64) -> bool {
        waiters.poll_turn(self.id, now_ms, &Arc::clone(&self.bell).into())
    }

    /// Polls, and rests if it is its turn.
    fn sleep(&self, waiters: &Waiters, now_ms: u64) {
        if self.poll(waiters, now_ms) {
            assert!(waiters.rest(self.id));
        }
    }

    fn rings(&self) -> u64 {
        self.bell.0.swap(0, Ordering::Relaxed)
    }
}

fn line<const COUNT: usize>() -> (Waiters, [Guest; COUNT]) {
    let waiters = Waiters::new(ASIDE_MS);
    let guests = std::array::from_fn(|_| Guest::join(&waiters));
    (waiters, guests)
}

#[test]
fn the_first_is_served_first() {
    let (waiters, [first, second, third]) = line();
    assert!(first.id < second.id && second.id < third.id);
    assert!(!third.poll(&waiters, 0) && !second.poll(&waiters, 0));
    assert!(first.poll(&waiters, 0));
    waiters.leave(first.id);
    assert_eq!((second.rings(), third.rings()), (1, 0));
    assert!(!third.poll(&waiters, 0));
    assert!(second.poll(&waiters, 0));
    waiters.leave(second.id);
    assert_eq!(third.rings(), 1);
    assert!(!waiters.is_empty());
    waiters.leave(third.id);
    assert!(waiters.is_empty());
}

#[test]
fn who_never_answers_needs_no_ticks_for_ever() {
    let waiters = Waiters::new(ASIDE_MS);
    assert!(!waiters.need_ticks());
    let (_forgotten, timed) = (Guest::join(&waiters), Guest::join_until(&waiters, Some(100)));
    timed.sleep(&waiters, 0);
    waiters.tick(0);
    waiters.tick(ASIDE_MS);
    waiters.tick(2 * ASIDE_MS);
    assert!(waiters.is_empty() && waiters.need_ticks(), "both are aside, and one has a deadline");
    waiters.tick(100);
    assert!(!waiters.need_ticks());
    assert!(timed.poll(&waiters, 100) && waiters.need_ticks(), "who answers is back in line");
}

#[test]
fn who_leaves_from_the_middle_or_twice_wakes_nobody() {
    let (waiters, [first, second, third]) = line();
    [&first, &second, &third].iter().for_each(|guest| guest.sleep(&waiters, 0));
    waiters.leave(second.id);
    waiters.leave(second.id);
    assert_eq!((first.rings(), second.rings(), third.rings()), (0, 0, 0));
    waiters.leave(first.id);
    waiters.leave(first.id);
    assert_eq!(third.rings(), 1);
}

#[test]
fn notices_wake_the_head_once_until_it_answers() {
    let (waiters, [first, second]) = line();
    first.sleep(&waiters, 0);
    second.sleep(&waiters, 0);
    for _ in 0..2 {
        waiters.notify();
        waiters.notify();
        assert_eq!((first.rings(), second.rings()), (1, 0));
        first.sleep(&waiters, 0);
    }
}

#[test]
fn a_notice_during_a_try_keeps_it_from_resting() {
    let (waiters, [guest]) = line();
    assert!(guest.poll(&waiters, 0));
    waiters.notify();
    assert!(!waiters.rest(guest.id));
    assert_eq!(guest.rings(), 0);
    guest.sleep(&waiters, 0);
}

#[test]
fn who_was_called_and_leaves_passes_the_call_on() {
    let (waiters, [first, second]) = line();
    first.sleep(&waiters, 0);
    second.sleep(&waiters, 0);
    waiters.notify();
    waiters.leave(first.id);
    assert_eq!(second.rings(), 1);
}

#[test]
fn a_silent_head_steps_aside_and_comes_back_to_its_place() {
    let (waiters, [first, second, third]) = line();
    [&first, &second, &third].iter().for_each(|guest| guest.sleep(&waiters, 0));
    waiters.notify();
    // Silence counts from the first look.
    for now_ms in [100, 100 + ASIDE_MS - 1] {
        waiters.tick(now_ms);
        assert_eq!((first.rings() > 0, second.rings()), (now_ms == 100, 0));
    }
    waiters.tick(100 + ASIDE_MS);
    assert_eq!((first.rings(), second.rings(), third.rings()), (0, 1, 0));
    assert!(second.poll(&waiters, 200));
    assert!(first.poll(&waiters, 200));
    assert!(!second.poll(&waiters, 200));
    waiters.leave(first.id);
    assert_eq!((second.rings(), third.rings()), (1, 0));
}

#[test]
fn a_try_that_began_aside_of_another_misses_nothing() {
    let (waiters, [first, second]) = line();
    second.sleep(&waiters, 0);
    waiters.tick(0);
    waiters.tick(ASIDE_MS);
    assert!(second.poll(&waiters, 20));
    assert!(first.poll(&waiters, 20));
    waiters.notify();
    waiters.leave(first.id);
    assert!(!waiters.rest(second.id), "what was told to the first was passed on");
}

#[test]
fn another_waiters_poll_passes_a_silent_head_too() {
    let (waiters, [_silent, second]) = line();
    assert!(!second.poll(&waiters, 5));
    assert!(!second.poll(&waiters, 5 + ASIDE_MS - 1));
    assert!(second.poll(&waiters, 5 + ASIDE_MS));
    assert_eq!(second.rings(), 0);
}

#[test]
fn who_is_asleep_or_awake_does_not_step_aside() {
    let (waiters, [first, second]) = line();
    second.sleep(&waiters, 0);
    assert!(first.poll(&waiters, 0));
    waiters.tick(0);
    waiters.tick(1000);
    assert!(waiters.rest(first.id));
    waiters.tick(2000);
    waiters.tick(3000);
    assert_eq!((first.rings(), second.rings()), (0, 0));
}

#[test]
fn with_all_aside_the_line_is_empty_and_the_next_to_come_has_its_turn() {
    let (waiters, [first, second]) = line();
    first.sleep(&waiters, 0);
    waiters.notify();
    for now_ms in [0, 100, 200] {
        waiters.tick(now_ms);
    }
    assert!(waiters.is_empty());
    waiters.notify();
    assert_eq!((first.rings(), second.rings()), (1, 0), "they have a wake-up to answer");
    let third = Guest::join(&waiters);
    assert!(third.poll(&waiters, 200));
    assert!(first.poll(&waiters, 200));
    assert!(!third.poll(&waiters, 200));
}

#[test]
fn a_deadline_wakes_once_for_each_poll() {
    let waiters = Waiters::new(ASIDE_MS);
    let (head, late) = (Guest::join(&waiters), Guest::join_until(&waiters, Some(50)));
    head.sleep(&waiters, 0);
    late.sleep(&waiters, 0);
    waiters.tick(49);
    assert_eq!(late.rings(), 0);
    for _ in 0..2 {
        waiters.tick(50);
        waiters.tick(51);
        assert_eq!((head.rings(), late.rings()), (0, 1));
        late.sleep(&waiters, 52);
    }
    waiters.leave(late.id);
    waiters.tick(60);
    assert_eq!(late.rings(), 0);
}

#[test]
fn a_deadline_during_a_try_is_a_wake_up_to_answer() {
    let waiters = Waiters::new(ASIDE_MS);
    let guest = Guest::join_until(&waiters, Some(50));
    assert!(guest.poll(&waiters, 49));
    waiters.tick(50);
    assert_eq!(guest.rings(), 1);
    assert!(waiters.rest(guest.id));
    waiters.notify();
    assert_eq!(guest.rings(), 0);
}

#[test]
fn without_fences_ticks_stand_in_for_notices() {
    let (waiters, [guest]) = line();
    guest.sleep(&waiters, 0);
    waiters.is_unfenced.store(true, Ordering::Relaxed);
    waiters.tick(0);
    assert_eq!(guest.rings(), 1);
}

/// A waker that asks the line itself, when it is woken and when it goes.
struct Curious(Arc<Waiters>);

impl Wake for Curious {
    fn wake(self: Arc<Self>) {
        drop(self);
    }
}

impl Drop for Curious {
    fn drop(&mut self) {
        self.0.leave(self.0.join(None));
    }
}

#[test]
fn wakers_are_called_and_dropped_without_the_lock() {
    let waiters = Arc::new(Waiters::new(0));
    let poll = |id| waiters.poll_turn(id, 0, &Arc::new(Curious(Arc::clone(&waiters))).into());
    let ids = [(); 4].map(|()| waiters.join(Some(5)));
    assert!(poll(ids[0]) && poll(ids[0]));
    assert!(waiters.rest(ids[0]));
    waiters.notify();
    assert!(!poll(ids[2]) || !poll(ids[3]));
    waiters.tick(5);
    ids.iter().for_each(|&id| waiters.leave(id));
    assert!(waiters.is_empty());
}

#[derive(Debug, Clone)]
enum Op {
    Join,
    /// The executor polls the waiter at this place, if it has a wake-up to answer.
    Poll(usize),
    /// The executor never polls it again.
    Forget(usize),
    Drop(usize),
    Free,
    Tick,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        2 => Just(Op::Join),
        4 => (0..8_usize).prop_map(Op::Poll),
        1 => (0..8_usize).prop_map(Op::Forget),
        1 => (0..8_usize).prop_map(Op::Drop),
        2 => Just(Op::Free),
        2 => Just(Op::Tick),
    ];
    prop::collection::vec(op, 0..80)
}

/// An executor of waiters that each want one unit of memory.
struct Life {
    waiters: Waiters,
    guests: Vec<Guest>,
    free_units: u64,
    now_ms: u64,
}

impl Life {
    /// Polls the guest at a place until it is served or rests; true if it was served.
    fn poll(&mut self, place: usize) -> bool {
        let guest = &self.guests[place];
        while guest.poll(&self.waiters, self.now_ms) {
            if self.free_units > 0 {
                self.free_units -= 1;
                self.waiters.leave(guest.id);
                return true;
            }
            if self.waiters.rest(guest.id) {
                break;
            }
        }
        false
    }

    fn run(&mut self, op: &Op) {
        let place = |place: usize| place % self.guests.len().max(1);
        match *op {
            Op::Join => {
                let guest = Guest::join(&self.waiters);
                // A new future is polled as if woken.
                guest.bell.0.store(1, Ordering::Relaxed);
                self.guests.push(guest);
            }
            Op::Free => {
                self.free_units += 1;
                self.waiters.notify();
            }
            Op::Tick => {
                self.now_ms += ASIDE_MS / 2;
                self.waiters.tick(self.now_ms);
            }
            _ if self.guests.is_empty() => {}
            Op::Poll(index) => {
                let place = place(index);
                if self.guests[place].rings() > 0 && self.poll(place) {
                    self.guests.remove(place);
                }
            }
            Op::Forget(index) => {
                let place = place(index);
                self.guests.remove(place);
            }
            Op::Drop(index) => {
                let place = place(index);
                self.waiters.leave(self.guests.remove(place).id);
            }
        }
    }

    /// Runs whoever has a wake-up to answer until nobody has, ticking until the silent have stepped aside.
    fn settle(&mut self) {
        let mut idle_rounds = 0;
        while idle_rounds < 1000 {
            let is_called = |guest: &Guest| guest.rings() > 0;
            match self.guests.iter().position(is_called) {
                Some(place) => {
                    if self.poll(place) {
                        self.guests.remove(place);
                    }
                    idle_rounds = 0;
                }
                None => {
                    self.run(&Op::Tick);
                    idle_rounds += 1;
                }
            }
        }
    }
}

proptest! {
    /// Whoever is polled when woken is served in the end if there is memory, whatever the others do.
    #[test]
    fn nobody_waits_while_there_is_memory(ops in ops()) {
        let mut life = Life { waiters: Waiters::new(ASIDE_MS), guests: Vec::new(), free_units: 0, now_ms: 0 };
        ops.iter().for_each(|op| life.run(op));
        life.settle();
        prop_assert!(life.guests.is_empty() || life.free_units == 0);
        for _ in 0..life.guests.len() {
            let first = life.guests.iter().map(|guest| guest.id).min();
            life.run(&Op::Free);
            life.settle();
            prop_assert!(life.guests.iter().all(|guest| Some(guest.id) != first), "the first is served first");
        }
        prop_assert!(life.guests.is_empty());
        // Of those who were forgotten in their sleep nobody knows before they are woken.
        life.run(&Op::Free);
        life.settle();
        prop_assert!(life.waiters.is_empty());
    }
}
