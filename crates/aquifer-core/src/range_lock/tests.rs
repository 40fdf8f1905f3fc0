use super::*;
use crate::sync::{AtomicUsize, Ordering};
use proptest::prelude::*;
use std::task::Wake;
use std::thread;

#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Bell {
    fn rings(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn bell() -> (Arc<Bell>, Waker) {
    let bell = Arc::new(Bell::default());
    (Arc::clone(&bell), bell.into())
}

fn claim_count(lock: &RangeLock) -> usize {
    lock.0.lock().claims.len()
}

use Access::{Read, Write};

#[test]
fn readers_share_and_a_writer_is_alone() {
    let lock = RangeLock::new();
    let readers = [lock.claim(0..10, Read), lock.claim(5..15, Read)];
    assert!(readers.iter().all(|&id| lock.is_granted(id)));
    let writer = lock.claim(9..12, Write);
    let beside = lock.claim(15..20, Write);
    // It would get along with the readers, but came after the writer.
    let late = lock.claim(11..12, Read);
    assert_eq!([writer, beside, late].map(|id| lock.is_granted(id)), [false, true, false]);
    assert!(lock.try_claim(0..10, Read).is_none() && lock.try_claim(14..16, Read).is_none());
    lock.release(readers[0]);
    assert!(!lock.is_granted(writer));
    lock.release(readers[1]);
    assert_eq!([writer, late].map(|id| lock.is_granted(id)), [true, false]);
    lock.release(writer);
    assert!(lock.is_granted(late));
    [beside, late].into_iter().for_each(|id| lock.release(id));
    assert_eq!(claim_count(&lock), 0);
}

#[test]
fn no_bytes_conflict_with_nothing() {
    let lock = RangeLock::new();
    let all = lock.claim(0..10, Write);
    let nothing = [0..0, 5..5, 10..10].map(|range| lock.claim(range, Write));
    assert!(nothing.iter().all(|&id| lock.is_granted(id)));
    lock.release(all);
    assert!(lock.try_claim(0..10, Write).is_some(), "nobody is in the way");
}

#[test]
fn who_leaves_the_line_lets_those_behind_pass() {
    let lock = RangeLock::new();
    let reader = lock.claim(0..10, Read);
    let writer = lock.claim(0..10, Write);
    let late = lock.claim(0..10, Read);
    let (rings, waker) = bell();
    assert!(!lock.poll_granted(late, &waker));
    lock.release(writer);
    assert_eq!(rings.rings(), 1);
    assert!(lock.poll_granted(late, &waker) && lock.is_granted(reader));
}

#[test]
fn the_last_waker_is_woken_once_and_none_is_left_behind() {
    let lock = RangeLock::new();
    let (first, second) = (lock.claim(0..1, Write), lock.claim(0..1, Write));
    let ((old_bell, old), (new_bell, new)) = (bell(), bell());
    assert!(!lock.poll_granted(second, &old));
    drop(old);
    assert!(!lock.poll_granted(second, &new));
    assert_eq!(Arc::strong_count(&old_bell), 1, "the old waker is gone");
    lock.release(first);
    assert_eq!((old_bell.rings(), new_bell.rings()), (0, 1));
    drop(new);
    assert_eq!(Arc::strong_count(&new_bell), 1, "it was used up");
    let third = lock.claim(0..1, Read);
    let (rings, waker) = bell();
    assert!(!lock.poll_granted(third, &waker));
    drop(waker);
    lock.release(third);
    assert_eq!((rings.rings(), Arc::strong_count(&rings)), (0, 1), "it left before");
}

/// A waker is the user's code: it may claim and release by itself, and panic.
#[test]
fn wakers_run_outside_of_the_lock() {
    struct Nosy(Arc<RangeLock>);
    impl Wake for Nosy {
        fn wake(self: Arc<Self>) {
            let id = self.0.try_claim(50..60, Write).expect("nobody has these");
            self.0.release(id);
            panic!("this waker panics, as it should");
        }
    }
    let lock = Arc::new(RangeLock::new());
    let first = lock.claim(0..10, Write);
    let others = [0..5, 5..10].map(|range| lock.claim(range, Write));
    let (rings, waker) = bell();
    assert!(!lock.poll_granted(others[0], &Arc::new(Nosy(Arc::clone(&lock))).into()));
    assert!(!lock.poll_granted(others[1], &waker));
    lock.release(first);
    assert_eq!(rings.rings(), 1, "one that panics is not another's fault");
    assert!(others.iter().all(|&id| lock.is_granted(id)));
}

#[test]
fn a_pair_does_not_wait_for_itself_and_goes_before_what_comes_later() {
    let (one, other) = (RangeLock::new(), RangeLock::new());
    let pair = RangeLock::claim_pair((&one, 0..4, Write), (&one, 0..8, Read));
    assert!(one.is_granted(pair.0) && one.is_granted(pair.1));
    one.release(pair.0);
    let writer = one.claim(2..3, Write);
    assert!(!one.is_granted(writer), "the other half is in the way");
    one.release(pair.1);
    assert!(one.is_granted(writer));
    one.release(writer);

    // Crosswise: whoever is first is so in both.
    let first = RangeLock::claim_pair((&one, 0..4, Write), (&other, 0..4, Read));
    let second = RangeLock::claim_pair((&other, 0..4, Write), (&one, 0..4, Read));
    assert!(one.is_granted(first.0) && other.is_granted(first.1));
    assert!(!other.is_granted(second.0) && !one.is_granted(second.1));
    one.release(first.0);
    assert!(!other.is_granted(second.0) && one.is_granted(second.1));
    other.release(first.1);
    assert!(other.is_granted(second.0));
}

#[test]
fn the_list_keeps_its_room() {
    let lock = RangeLock::new();
    let crowd: Vec<_> = (0..10).map(|start| lock.claim(start..start + 2, Write)).collect();
    let room = lock.0.lock().claims.capacity();
    crowd.into_iter().for_each(|id| lock.release(id));
    for start in 0..10 {
        let id = lock.claim(start..20, Read);
        lock.release(id);
    }
    assert_eq!(lock.0.lock().claims.capacity(), room);
}

#[derive(Debug, Clone)]
enum Step {
    Claim(Wanted),
    TryClaim(Wanted),
    /// Of this lock twice, or of this one and the other.
    Pair([Wanted; 2], bool),
    /// The one at this place among those there are, of both locks.
    Release(prop::sample::Index),
    Poll(prop::sample::Index),
}

type Wanted = (usize, Range<u64>, Access);

fn wanted() -> impl Strategy<Value = Wanted> {
    (0..2_usize, 0..12_u64, 0..6_u64, any::<bool>()).prop_map(|(lock, start, bytes, writes)| {
        (lock, start..start + bytes, if writes { Write } else { Read })
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => wanted().prop_map(Step::Claim),
        1 => wanted().prop_map(Step::TryClaim),
        2 => ([wanted(), wanted()], any::<bool>()).prop_map(|(pair, is_within)| Step::Pair(pair, is_within)),
        5 => any::<prop::sample::Index>().prop_map(Step::Release),
        3 => any::<prop::sample::Index>().prop_map(Step::Poll),
    ];
    prop::collection::vec(step, 1..60)
}

/// What the naive list knows of a claim.
struct Listed {
    id: ClaimId,
    wanted: Wanted,
    /// Claims of one pair have the same.
    pair: usize,
    bell: Option<Arc<Bell>>,
}

/// The rule, byte by byte: granted unless an earlier one has a byte of it, and one of the two writes.
fn is_granted(line: &[Listed], place: usize) -> bool {
    let claim = &line[place];
    let (lock, range, access) = &claim.wanted;
    !line[..place].iter().any(|earlier| {
        let (other_lock, other_range, other_access) = &earlier.wanted;
        lock == other_lock
            && earlier.pair != claim.pair
            && range.clone().any(|byte| other_range.contains(&byte))
            && (*access == Write || *other_access == Write)
    })
}

proptest! {
    #[test]
    fn claims_are_granted_by_the_rule(steps in steps()) {
        let locks = [RangeLock::new(), RangeLock::new()];
        let mut line: Vec<Listed> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            let listed = |id, wanted| Listed { id, wanted, pair: number, bell: None };
            match step {
                Step::Claim(wanted) => {
                    let id = locks[wanted.0].claim(wanted.1.clone(), wanted.2);
                    line.push(listed(id, wanted));
                }
                Step::TryClaim(wanted) => {
                    let id = locks[wanted.0].try_claim(wanted.1.clone(), wanted.2);
                    // An id of no claim, to ask the rule.
                    line.push(listed(id.unwrap_or(ClaimId(u64::MAX)), wanted));
                    prop_assert_eq!(id.is_some(), is_granted(&line, line.len() - 1));
                    if id.is_none() {
                        line.pop();
                    }
                }
                Step::Pair([one, mut other], is_within) => {
                    other.0 = if is_within { one.0 } else { 1 - one.0 };
                    let ids = RangeLock::claim_pair(
                        (&locks[one.0], one.1.clone(), one.2),
                        (&locks[other.0], other.1.clone(), other.2),
                    );
                    line.push(listed(ids.0, one));
                    line.push(listed(ids.1, other));
                }
                Step::Release(_) | Step::Poll(_) if line.is_empty() => {}
                Step::Release(index) => {
                    let released = line.remove(index.index(line.len()));
                    locks[released.wanted.0].release(released.id);
                }
                Step::Poll(index) => {
                    let place = index.index(line.len());
                    let (bell, waker) = bell();
                    let answer = locks[line[place].wanted.0].poll_granted(line[place].id, &waker);
                    prop_assert_eq!(answer, is_granted(&line, place));
                    if !answer {
                        line[place].bell = Some(bell);
                    }
                }
            }
            for place in 0..line.len() {
                let is_granted = is_granted(&line, place);
                prop_assert_eq!(locks[line[place].wanted.0].is_granted(line[place].id), is_granted);
                if let Some(bell) = &line[place].bell {
                    prop_assert_eq!(bell.rings(), usize::from(is_granted));
                }
            }
        }
        for released in line {
            locks[released.wanted.0].release(released.id);
        }
        prop_assert_eq!(locks.map(|lock| claim_count(&lock)), [0, 0]);
    }
}

/// Threads claim parts of a line of cells, and say so in each; whoever finds a cell used in a way that does not go with its own
/// is where the lock did not keep it out.
#[test]
fn threads_do_not_meet() {
    const CELLS: usize = 8;
    const WRITTEN: usize = 1 << 32;
    struct Field {
        locks: [RangeLock; 2],
        cells: [[AtomicUsize; CELLS]; 2],
    }
    fn enter(field: &Field, (lock, range, access): &Wanted) {
        for cell in &field.cells[*lock][range.start as usize..range.end as usize] {
            let mark = if *access == Write { WRITTEN } else { 1 };
            let before = cell.fetch_add(mark, Ordering::AcqRel);
            assert!(before == 0 || *access == Read && before < WRITTEN, "{before:#x} in {range:?}");
        }
    }
    fn leave(field: &Field, (lock, range, access): &Wanted) {
        for cell in &field.cells[*lock][range.start as usize..range.end as usize] {
            cell.fetch_sub(if *access == Write { WRITTEN } else { 1 }, Ordering::AcqRel);
        }
    }
    let field = Arc::new(Field { locks: [RangeLock::new(), RangeLock::new()], cells: Default::default() });
    let threads: Vec<_> = (0..4_u64)
        .map(|seed| {
            let field = Arc::clone(&field);
            thread::spawn(move || {
                // A linear congruence, whose upper bits are good enough.
                let mut state = seed;
                let mut below = |bound: u64| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 33) % bound
                };
                for _ in 0..300 {
                    let mut wanted = |lock: u64| {
                        let start = below(CELLS as u64);
                        let end = start + below(CELLS as u64 - start + 1);
                        (lock as usize, start..end, if below(2) == 0 { Read } else { Write })
                    };
                    let (one, other) = (wanted(seed % 2), wanted(1 - seed % 2));
                    let ids = RangeLock::claim_pair(
                        (&field.locks[one.0], one.1.clone(), one.2),
                        (&field.locks[other.0], other.1.clone(), other.2),
                    );
                    for (id, wanted) in [(ids.0, &one), (ids.1, &other)] {
                        field.locks[wanted.0].wait(id);
                        enter(&field, wanted);
                    }
                    thread::yield_now();
                    for (id, wanted) in [(ids.0, &one), (ids.1, &other)] {
                        leave(&field, wanted);
                        field.locks[wanted.0].release(id);
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("nobody met another");
    }
    assert!(field.locks.iter().all(|lock| claim_count(lock) == 0));
}
