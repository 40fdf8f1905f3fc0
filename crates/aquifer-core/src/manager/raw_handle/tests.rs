use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

type Table = RawTable<u32>;

#[test]
fn a_handle_is_its_three_parts_and_never_0() {
    let handle = RawBuffer::new(0xabcd, GENERATION_MAX, SLOT_COUNT_MAX - 1);
    assert_eq!(
        (handle.nonce(), handle.generation(), handle.slot()),
        (0xabcd, GENERATION_MAX, SLOT_COUNT_MAX - 1)
    );
    assert_eq!(RawBuffer::from_bits(handle.to_bits()), handle);
    assert_ne!(RawTable::new().insert(1).to_bits(), 0);
}

#[test]
fn each_wrong_handle_is_told_by_name() {
    let (table, other) = (Table::with_limits(1, 100), Table::with_limits(2, 100));
    let (one, two) = (table.insert(1), table.insert(2));
    assert_eq!(other.remove(one), Err(Wrong::Manager));
    assert_eq!(*table.remove(one).unwrap(), 1);
    assert_eq!(table.remove(one), Err(Wrong::Gone));
    assert_eq!(table.share(one), Err(Wrong::Gone));
    assert_eq!(table.remove_unshared(one), Err(Wrong::Gone));
    // The slot is used again, and the old handle is still found out.
    let again = table.insert(3);
    assert_eq!((again.slot(), table.remove(one)), (one.slot(), Err(Wrong::Gone)));
    for forged in [RawBuffer::new(1, 7, two.slot()), RawBuffer::new(1, 0, 99)] {
        assert_eq!(table.remove(forged), Err(Wrong::Never), "{forged:?}");
    }
    assert_eq!(table.remove_unshared(two), Ok(2));
    assert_eq!(table.remove(RawBuffer::from_bits(0)), Err(Wrong::Manager));
}

#[test]
fn what_is_in_use_is_not_taken() {
    let table = Table::with_limits(1, 100);
    let handle = table.insert(5);
    let shared = table.share(handle).unwrap();
    assert_eq!(table.remove_unshared(handle), Err(Wrong::InUse));
    assert!(matches!(table.lend(handle), Err(Wrong::InUse)));
    drop(shared);
    let mut lent = table.lend(handle).ok().unwrap();
    *lent.value().unwrap() += 1;
    assert_eq!((table.share(handle), table.remove(handle)), (Err(Wrong::InUse), Err(Wrong::InUse)));
    drop(lent);
    assert_eq!(table.remove_unshared(handle), Ok(6));
}

#[test]
fn a_slot_whose_generations_are_used_up_retires() {
    let table = Table::with_limits(1, 3);
    let handles: Vec<RawBuffer> = (0..7)
        .map(|value| {
            let handle = table.insert(value);
            table.remove(handle).unwrap();
            handle
        })
        .collect();
    let slots: Vec<usize> = handles.iter().map(|handle| handle.slot()).collect();
    assert_eq!(slots, [0, 0, 0, 1, 1, 1, 2]);
    for handle in handles {
        assert_eq!(table.remove(handle), Err(Wrong::Gone));
    }
}

#[test]
fn a_closed_table_keeps_nothing() {
    let table = Table::with_limits(1, 3);
    let handle = table.insert(1);
    assert_eq!(table.close(), [Arc::new(1)]);
    assert_eq!(table.remove(handle), Err(Wrong::Never));
    let late = table.insert(2);
    assert_eq!(table.remove(late), Err(Wrong::Never));
    assert!(table.close().is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u32),
    Remove(usize),
    Take(usize),
    Share(usize),
    Write(usize),
    Forge(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<u32>().prop_map(Step::Insert),
        1 => (0..64_usize).prop_map(Step::Remove),
        1 => (0..64_usize).prop_map(Step::Take),
        1 => (0..64_usize).prop_map(Step::Share),
        1 => (0..64_usize).prop_map(Step::Write),
        1 => (0..4_u64, 0..6_u64, 0..9_u64)
            .prop_map(|(nonce, generation, slot)| Step::Forge(nonce << 48 | generation << SLOT_BITS | slot)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The table does what a map from handle to value would, whose keys never come again.
    #[test]
    fn the_table_is_a_map(steps in proptest::collection::vec(step(), 0..200)) {
        let table = Table::with_limits(1, 4);
        let mut map = HashMap::new();
        let mut given = Vec::new();
        for step in steps {
            match step {
                Step::Insert(value) => {
                    let handle = table.insert(value);
                    prop_assert!(!given.contains(&handle), "{handle:?} comes again");
                    given.push(handle);
                    map.insert(handle, value);
                }
                Step::Forge(bits) => {
                    let handle = RawBuffer::from_bits(bits);
                    prop_assert_eq!(table.share(handle).ok().map(|value| *value), map.get(&handle).copied());
                }
                _ if given.is_empty() => {}
                Step::Remove(place) => {
                    let handle = given[place % given.len()];
                    prop_assert_eq!(table.remove(handle).ok().map(|value| *value), map.remove(&handle));
                }
                Step::Take(place) => {
                    let handle = given[place % given.len()];
                    prop_assert_eq!(table.remove_unshared(handle).ok(), map.remove(&handle));
                }
                Step::Share(place) => {
                    let handle = given[place % given.len()];
                    prop_assert_eq!(table.share(handle).ok().map(|value| *value), map.get(&handle).copied());
                }
                Step::Write(place) => {
                    let handle = given[place % given.len()];
                    if let Ok(mut lent) = table.lend(handle) {
                        *lent.value().unwrap() ^= 1;
                        *map.get_mut(&handle).unwrap() ^= 1;
                    } else {
                        prop_assert!(!map.contains_key(&handle));
                    }
                }
            }
        }
        let mut left: Vec<u32> = table.close().iter().map(|value| **value).collect();
        let mut expected: Vec<u32> = map.into_values().collect();
        left.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(left, expected);
    }
}
