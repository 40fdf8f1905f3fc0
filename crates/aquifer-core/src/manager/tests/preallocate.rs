//! Preallocating where blocks are purgeable, where there may be few blocks, and where there are other memory types.

use super::purgeable::{assert_sums, leave_idle, purgeable_manager};
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// Leaves idle blocks of so many MiB, and makes them purgeable.
fn leave_purgeable(manager: &MemoryManager<Device>, mib: &[u64]) {
    leave_idle(manager, mib);
    assert_eq!(manager.mark_idle_purgeable(), mib.iter().sum::<u64>() * MIB);
}

/// Allocates so many buffers of so many MiB, and fails the test if the driver is called for them.
#[track_caller]
fn assert_ready(manager: &MemoryManager<Device>, books: &Hand, mib: u64, count: u64) {
    let calls = books.calls();
    let ready: Vec<_> = (0..count).map(|_| manager.allocate(mib * MIB).expect("it is ready")).collect();
    assert_eq!(books.calls(), calls, "the driver was called");
    assert_sums(manager, books);
    drop(ready);
}

#[test]
fn purgeable_blocks_are_recovered_before_new_ones_are_made() {
    let (manager, books) = purgeable_manager(1 << 40);
    leave_purgeable(&manager, &[10, 12, 14, 500]);
    let creates = books.creates();
    assert_eq!(manager.pool().preallocate(2 * MIB, 12).expect("there is room"), 0);
    let statistics = manager.statistics();
    // None that is not too large holds them all: the largest of the others, and the smallest for what is still missing.
    assert_eq!((books.creates(), statistics.recovered_block_count), (creates, 2));
    assert_eq!((statistics.recovered_bytes, statistics.purgeable_bytes), (24 * MIB, 512 * MIB));
    assert_eq!((statistics.cached_bytes, statistics.free_bytes), (24 * MIB, 512 * MIB));
    assert_eq!(statistics.miss_count, 4, "those of the four blocks");
    assert_sums(&manager, &books);
    assert_ready(&manager, &books, 2, 12);
    assert_eq!(manager.trim(), 536 * MIB);
    assert_eq!((books.live(), manager.statistics().reserved.current), (0, 0));
}

#[test]
fn only_what_purgeable_blocks_do_not_hold_is_made() {
    let (manager, books) = purgeable_manager(1 << 40);
    leave_purgeable(&manager, &[10]);
    let create = Call::Create { bytes: 12 * MIB, memory_type: 0, dedicated_to: None };
    books.fail(create.clone(), ErrorKind::Driver);
    let error = manager.pool().preallocate(4 * MIB, 5).expect_err("the driver fails");
    assert_eq!(error.kind(), ErrorKind::Driver);
    let statistics = manager.statistics();
    assert_eq!((statistics.cached_bytes, statistics.purgeable_bytes), (0, 0));
    assert_eq!((statistics.free_bytes, books.live()), (10 * MIB, 1), "the block is idle now");
    assert_sums(&manager, &books);
    books.heal();
    assert_eq!(manager.pool().preallocate(4 * MIB, 5).expect("there is room"), 12 * MIB);
    assert_eq!(books.count(&create), 1);
    assert_ready(&manager, &books, 4, 5);
}

#[test]
fn a_purgeable_block_that_does_not_come_back_is_replaced() {
    let (manager, books) = purgeable_manager(1 << 40);
    leave_purgeable(&manager, &[10, 12]);
    books.fail(Call::MakeNonpurgeable, ErrorKind::OutOfMemory);
    assert_eq!(manager.pool().preallocate(10 * MIB, 2).expect("two new blocks"), 20 * MIB);
    assert_eq!((books.live(), books.count(&Call::Flush)), (2, 1));
    assert_ready(&manager, &books, 10, 2);
    manager.trim();
    // A lost device changes nothing.
    books.heal();
    leave_purgeable(&manager, &[10, 12]);
    books.fail(Call::MakeNonpurgeable, ErrorKind::DeviceLost);
    let error = manager.pool().preallocate(10 * MIB, 2).expect_err("the device is lost");
    assert_eq!(error.kind(), ErrorKind::DeviceLost);
    assert_eq!((books.purgeable(), manager.statistics().cached_bytes), (2, 0));
    assert_sums(&manager, &books);
}

#[test]
fn any_purgeable_block_is_used_or_goes_before_preallocating_fails() {
    // The budget holds no new block beside it.
    let (manager, books) = purgeable_manager(500 * MIB);
    leave_purgeable(&manager, &[500]);
    assert_eq!(manager.pool().preallocate(3 * MIB, 2).expect("there is room"), 0);
    assert_eq!((books.creates(), books.purgeable(), manager.statistics().cached_bytes), (1, 0, 6 * MIB));
    assert_ready(&manager, &books, 3, 2);

    // None holds what is asked for.
    let (manager, books) = purgeable_manager(32 * MIB);
    leave_purgeable(&manager, &[10, 12]);
    let calls = books.calls().len();
    assert_eq!(manager.pool().preallocate(15 * MIB, 2).expect("they go"), 30 * MIB);
    assert_eq!(books.calls()[calls..][..3], [Call::Destroy, Call::Destroy, Call::Flush]);
    assert_ready(&manager, &books, 15, 2);

    // The driver has less than the budget says.
    let (manager, books) = purgeable_manager(1 << 40);
    leave_purgeable(&manager, &[10, 12]);
    books.fail(Call::Create { bytes: 30 * MIB, memory_type: 0, dedicated_to: None }, ErrorKind::OutOfMemory);
    let error = manager.pool().preallocate(30 * MIB, 1).expect_err("no memory");
    assert_eq!((error.kind(), books.live(), books.count(&Call::Flush)), (ErrorKind::OutOfMemory, 0, 1));
    assert_sums(&manager, &books);
}

#[test]
fn what_is_ready_does_not_become_purgeable_and_trimming_gives_both_back() {
    let (manager, books) = purgeable_manager(1 << 40);
    manager.pool().preallocate(9 * MIB, 2).expect("there is room");
    leave_purgeable(&manager, &[30]);
    let statistics = manager.statistics();
    assert_eq!((statistics.cached_bytes, statistics.purgeable_bytes), (18 * MIB, 30 * MIB));
    assert_sums(&manager, &books);
    // The blocks of what was ready are idle for less long.
    assert_eq!(manager.trim_to(20 * MIB), 30 * MIB);
    assert_eq!((books.live(), manager.statistics().cached_bytes), (2, 0));
    manager.mark_idle_purgeable();
    manager.pool().preallocate(9 * MIB, 1).expect("there is room");
    assert_eq!((books.creates(), books.purgeable()), (3, 1));
    assert_eq!(manager.trim(), 20 * MIB);
    assert_eq!((books.live(), manager.statistics().reserved.current), (0, 0));
}

#[test]
fn only_a_block_for_one_place_is_dedicated() {
    let (manager, books) = plain_manager(100);
    manager.pool().preallocate(300 * MIB, 2).expect("there is room");
    manager.pool().preallocate(256 * MIB, 1).expect("there is room");
    let dedicated = Some(String::new());
    assert_eq!(created(&books), [(300 * MIB, dedicated.clone()), (300 * MIB, dedicated), (256 * MIB, None)]);

    let (manager, books) = plain_manager(1);
    manager.pool().preallocate(300 * MIB, 2).expect("one block holds both");
    assert_eq!(created(&books), [(600 * MIB, None)]);
    assert_ready(&manager, &books, 300, 2);
}

#[test]
fn blocks_of_all_memory_types_are_counted() {
    let (manager, books) = plain_manager(3);
    let other = allocate_in(&manager, 1, 9 * MIB).expect("there is room");
    manager.pool().preallocate(MIB, 500).expect("two blocks can hold them");
    assert_eq!(created(&books)[1..], [(250 * MIB, None), (250 * MIB, None)]);
    assert_ready(&manager, &books, 1, 500);
    drop(other);
}

#[test]
fn memory_types_of_one_heap_make_room_for_each_other() {
    let (manager, books) = manager(Device::new(Capabilities::NONE, 100), 32 * MIB);
    drop(allocate_in(&manager, 1, 20 * MIB).expect("there is room"));
    assert_eq!(manager.pool().preallocate(20 * MIB, 1).expect("the idle block goes"), 20 * MIB);
    assert_eq!((books.live(), manager.statistics().cached_bytes), (1, 20 * MIB));
    let other = allocate_in(&manager, 1, 20 * MIB).expect("what was ready is given up");
    assert_eq!((books.live(), manager.statistics().cached_bytes), (1, 0));
    assert_eq!(
        manager.pool().preallocate(20 * MIB, 1).expect_err("it is in use").kind(),
        ErrorKind::OutOfMemory
    );
    assert_sums(&manager, &books);
    drop(other);
}

/// To give up much takes a while. Meanwhile each place is ready or free, so that others who are short find either.
#[test]
fn what_is_given_up_is_always_somewhere() {
    let (manager, books) = plain_manager(100);
    manager.pool().preallocate(40 << 10, 200_000).expect("there is room");
    let reserved_bytes = manager.statistics().reserved.current;
    let pool = &manager.owner.pools[0].pool;
    std::thread::scope(|scope| {
        let giving_up = scope.spawn(|| pool.free_preallocated());
        while !giving_up.is_finished() {
            let snapshot = pool.snapshot();
            assert_eq!(snapshot.cached_bytes + snapshot.free_bytes, reserved_bytes);
        }
        assert!(giving_up.join().expect("it does not panic"));
    });
    assert_eq!(manager.statistics().free_bytes, reserved_bytes);
    assert_sums(&manager, &books);
}

/// Each time that one thread finds nothing, another one has made memory ready again.
#[test]
fn what_others_make_ready_again_and_again_is_given_up_a_few_times() {
    let (manager, books) = plain_manager(100);
    books.fail(Call::Create { bytes: 10 * MIB, memory_type: 1, dedicated_to: None }, ErrorKind::OutOfMemory);
    let (told, go) = books.meet_at_failures();
    let pool = manager.pool();
    let failures = std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            let mut failures = 0;
            while told.recv().is_ok() {
                failures += 1;
                assert!(failures < 1000, "it is tried for ever");
                pool.preallocate(MIB, 1).expect("there is room in the other memory type");
                if go.send(()).is_err() {
                    break;
                }
            }
            failures
        });
        let answer = allocate_in(&manager, 1, 10 * MIB);
        assert_eq!(answer.err().expect("the driver has no more").kind(), ErrorKind::OutOfMemory);
        books.part();
        other.join().expect("it ends")
    });
    assert!(failures > 2, "what was ready is given up at least once");
    assert_sums(&manager, &books);
}

#[derive(Debug, Clone)]
enum Step {
    Allocate(u64),
    Free(usize),
    /// Size in MiB, count, and whether what is ready is used at once.
    Preallocate(u64, u64, bool),
    MarkPurgeable,
    TrimTo(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..40).prop_map(Step::Allocate),
        4 => any::<usize>().prop_map(Step::Free),
        2 => (1_u64..20, 1_u64..6, any::<bool>())
            .prop_map(|(mib, count, is_used)| Step::Preallocate(mib, count, is_used)),
        2 => Just(Step::MarkPurgeable),
        1 => (0_u64..100).prop_map(Step::TrimTo),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing is lost, and what was promised is there.
    #[test]
    fn ready_and_purgeable_memory_together_fill_the_budget(steps in vec(step(), 0..80)) {
        let (manager, books) = purgeable_manager(128 * MIB);
        let mut buffers = Vec::new();
        for step in steps {
            match step {
                Step::Allocate(mib) => buffers.extend(manager.allocate(mib * MIB)),
                Step::Free(index) if !buffers.is_empty() => drop(buffers.swap_remove(index % buffers.len())),
                Step::Free(_) => {}
                Step::Preallocate(mib, count, is_used) => {
                    if manager.pool().preallocate(mib * MIB, count).is_ok() {
                        prop_assert!(manager.statistics().cached_bytes >= mib * count * MIB);
                        if is_used {
                            assert_ready(&manager, &books, mib, count);
                        }
                    }
                }
                Step::MarkPurgeable => {
                    manager.mark_idle_purgeable();
                }
                Step::TrimTo(mib) => {
                    manager.trim_to(mib * MIB);
                }
            }
            assert_sums(&manager, &books);
            prop_assert!(manager.statistics().reserved.current <= 128 * MIB);
        }
        buffers.clear();
        drop(manager.allocate(128 * MIB).expect("nothing else is in use"));
        manager.trim();
        prop_assert_eq!((books.live(), manager.statistics().reserved.current), (0, 0));
    }
}
