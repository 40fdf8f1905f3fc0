use super::*;
use proptest::prelude::*;

impl Ranges {
    /// Checks every promise of the module's text.
    pub(crate) fn validate(&self) {
        let (mut reserved, mut used, mut hole_count, mut idle, mut bound_count, mut bound) =
            (0, 0, 0, 0, 0, 0);
        for (place, block) in self.blocks.iter().enumerate() {
            let Some(block) = block else { continue };
            let (mut index, mut previous, mut offset) = (block.first, NONE, 0);
            let (mut block_used, mut released, mut bound_bytes) = (0, 0, 0);
            while index != NONE {
                let node = self.nodes[index as usize];
                assert_eq!((node.offset, node.block as usize, node.previous), (offset, place, previous));
                assert!(node.bytes > 0);
                let is_free = node.state == RangeState::Free;
                let are_alike = || self.nodes[previous as usize].bound.queue == node.bound.queue;
                assert!(!(is_free && self.is_free(previous) && are_alike()), "free neighbours");
                let is_hole = is_free && block.idle_for.is_none();
                let is_bound = !node.bound.is_none();
                assert!(is_free || !is_bound);
                assert_eq!(is_bound, self.bound.contains(&(node.bound.queue, node.bound.value, index)));
                bound_bytes += if is_bound { node.bytes } else { 0 };
                bound_count += usize::from(is_bound);
                assert_eq!(is_hole, self.holes.contains(&self.key(index)));
                hole_count += usize::from(is_hole);
                block_used += if node.state == RangeState::Used { node.bytes } else { 0 };
                let is_released = node.state == RangeState::Released && !block.is_sparse;
                released += if is_released { node.bytes } else { 0 };
                offset += node.bytes;
                (previous, index) = (index, node.next);
            }
            assert_eq!((offset, block_used, released), (block.bytes, block.used_bytes, block.released_bytes));
            assert_eq!(bound_bytes, block.bound_bytes);
            bound += bound_bytes;
            let first = self.nodes[block.first as usize];
            let idle_for = match block_used {
                _ if block.is_sparse => None,
                0 if bound_bytes == 0 => Some(NO_QUEUE),
                0 if first.bytes == block.bytes => Some(first.bound.queue),
                _ => None,
            };
            assert_eq!(idle_for, block.idle_for);
            let is_idle = idle_for == Some(NO_QUEUE);
            let serves = |queue| idle_for == Some(queue) && released == 0;
            for queue in 0..4 {
                let key = (queue, block.bytes, place as BlockIndex);
                assert_eq!(serves(queue), self.idle_by_size.contains(&key));
            }
            assert_eq!(is_idle, self.idle_by_age.contains(&(block.idle_since, place as BlockIndex)));
            reserved += if block.is_sparse { 0 } else { block.reserved_bytes() };
            used += block_used;
            idle += if is_idle { block.reserved_bytes() } else { 0 };
        }
        reserved += self.aside_bytes + self.validate_remap();
        assert_eq!((reserved, used, hole_count), (self.reserved_bytes, self.used_bytes, self.holes.len()));
        assert_eq!((idle, bound), (self.idle_bytes, self.bound_bytes));
        assert_eq!(bound_count, self.bound.len());
    }
}

/// As the pool asks: a hole first, then an idle block, then what lies side by side.
fn allocate_for(ranges: &mut Ranges, queue: QueueIndex, bytes: u64, alignment: u64) -> Option<Range> {
    ranges
        .allocate_in_hole(Area::General, queue, bytes, alignment)
        .or_else(|| ranges.allocate_in_idle(queue, bytes))
        .or_else(|| ranges.allocate_across(queue, bytes, alignment))
}

fn allocate(ranges: &mut Ranges, bytes: u64, alignment: u64) -> Option<Range> {
    allocate_for(ranges, NO_QUEUE, bytes, alignment)
}

fn free(ranges: &mut Ranges, range: Range) {
    ranges.free(range.index, Bound::NONE, 0);
}

#[test]
fn freeing_merges_on_both_sides() {
    let mut ranges = Ranges::default();
    ranges.add_block(0, 4096, 0);
    let parts: Vec<Range> = (0..4).map(|_| allocate(&mut ranges, 1024, 256).unwrap()).collect();
    assert!(allocate(&mut ranges, 256, 256).is_none());
    for place in [0, 2, 1, 3] {
        ranges.free(parts[place].index, Bound::NONE, 7);
        ranges.validate();
    }
    assert_eq!(ranges.largest_free_bytes(), 4096);
    let idle = ranges.longest_idle().unwrap();
    assert_eq!((idle.bytes, idle.since.time_ms), (4096, 7));
    assert_eq!(ranges.remove_block(0), Some(4096));
    assert_eq!(ranges.reserved_bytes(), 0);
}

#[test]
fn the_smallest_hole_wins_and_idle_blocks_stay_whole() {
    let mut ranges = Ranges::default();
    for (block, bytes) in [(0, 8192), (1, 2048), (2, 4096)] {
        ranges.add_block(block, bytes, 0);
    }
    assert_eq!(ranges.smallest_idle_fit(NO_QUEUE, 1), Some(2048));
    assert_eq!(ranges.allocate_in_idle(NO_QUEUE, 1024).unwrap().block, 1);
    assert_eq!(ranges.allocate_in_idle(NO_QUEUE, 3072).unwrap().block, 2);
    assert_eq!(
        ranges.allocate_in_hole(Area::General, NO_QUEUE, 256, 256).unwrap().block,
        1,
        "the oldest of two alike"
    );
    assert_eq!(ranges.allocate_in_hole(Area::General, NO_QUEUE, 1024, 256).unwrap().block, 2);
    assert_eq!(ranges.allocate_in_hole(Area::General, NO_QUEUE, 1024, 256), None);
    assert_eq!((ranges.idle_bytes(), ranges.remove_block(1)), (8192, None));
    ranges.validate();
}

#[test]
fn a_range_that_only_fits_because_it_is_aligned_is_found() {
    let mut ranges = Ranges::default();
    ranges.add_block(0, 8192, 0);
    let low = allocate(&mut ranges, 4096, 256).unwrap();
    let high = allocate(&mut ranges, 4096, 4096).unwrap();
    assert_eq!((low.offset, high.offset), (0, 4096));
    free(&mut ranges, low);
    let odd = allocate(&mut ranges, 256, 256).unwrap();
    assert!(allocate(&mut ranges, 3840, 1024).is_none());
    assert_eq!(allocate(&mut ranges, 2048, 2048).unwrap().offset, 2048);
    assert_eq!(odd.offset, 0);
    ranges.validate();
}

#[test]
fn what_is_bound_serves_its_queue_only_until_the_queue_has_passed() {
    let mut ranges = Ranges::default();
    ranges.add_block(0, 8192, 0);
    let parts: Vec<Range> = (0..4).map(|_| allocate(&mut ranges, 2048, 256).unwrap()).collect();
    ranges.free(parts[0].index, Bound { queue: 1, value: 5 }, 0);
    ranges.free(parts[1].index, Bound { queue: 1, value: 4 }, 0);
    ranges.free(parts[2].index, Bound { queue: 2, value: 9 }, 0);
    ranges.validate();
    assert_eq!((ranges.bound_bytes(), ranges.bound_value_max(1)), (6144, Some(5)));
    assert!(allocate(&mut ranges, 256, 256).is_none(), "the host must wait");
    let own = allocate_for(&mut ranges, 1, 4096, 256).expect("bound to one queue, so merged");
    ranges.free(own.index, Bound { queue: 1, value: 6 }, 0);
    ranges.settle(1, 5, 0);
    assert_eq!(ranges.bound_bytes(), 6144, "the queue has not passed 6");
    ranges.settle(1, 6, 0);
    ranges.validate();
    assert_eq!((ranges.bound_bytes(), ranges.largest_free_bytes()), (2048, 4096));
    ranges.free(parts[3].index, Bound { queue: 1, value: 7 }, 3);
    assert!(ranges.longest_idle().is_none(), "work may still use the block");
    ranges.settle(2, 9, 4);
    let across = allocate_for(&mut ranges, 1, 8192, 256).expect("all of it is unbound or the queue's own");
    ranges.free(across.index, Bound { queue: 1, value: 8 }, 5);
    ranges.validate();
    assert_eq!((ranges.smallest_idle_fit(1, 1), ranges.smallest_idle_fit(2, 1)), (Some(8192), None));
    assert_eq!(ranges.remove_block(0), None);
    ranges.settle(1, u64::MAX, 6);
    ranges.validate();
    assert_eq!(ranges.remove_block(0), Some(8192));
}

#[derive(Debug, Clone)]
enum Step {
    Allocate {
        queue: QueueIndex,
        granules: u64,
        alignment_log2: u32,
    },
    Free {
        which: usize,
        queue: QueueIndex,
    },
    /// A queue has passed all its values but the last so many.
    Settle {
        queue: QueueIndex,
        but: u64,
    },
    RemoveIdle,
    /// Idle blocks are set aside, and then go or come back.
    SetAside {
        forget: bool,
    },
    /// What is released, and how many used ranges are freed before some of it is undone.
    Release {
        undo: bool,
        freed: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3_u16, 1_u64..40, 8_u32..13)
            .prop_map(|(queue, granules, alignment_log2)| Step::Allocate { queue, granules, alignment_log2 }),
        3 => (any::<usize>(), 0..3_u16).prop_map(|(which, queue)| Step::Free { which, queue }),
        1 => (1..3_u16, 0..4_u64).prop_map(|(queue, but)| Step::Settle { queue, but }),
        1 => Just(Step::RemoveIdle),
        1 => any::<bool>().prop_map(|forget| Step::SetAside { forget }),
        1 => (any::<bool>(), 0..4_usize).prop_map(|(undo, freed)| Step::Release { undo, freed }),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    /// The oracle is a plain list of used ranges: none overlap, all are aligned, and a request fails only if a look at
    /// every hole finds no room.
    #[test]
    fn agrees_with_a_list_of_ranges(steps in steps()) {
        let block_bytes = [16_384_u64, 4096, 32_768];
        let mut ranges = Ranges::default();
        let mut present = [true; 3];
        for (block, &bytes) in block_bytes.iter().enumerate() {
            ranges.add_block(block as BlockIndex, bytes, 0);
        }
        let mut used: Vec<Range> = Vec::new();
        // What each range was bound to when it was freed; taken out when it is used again or the queue has passed.
        let mut bound: Vec<(Range, Bound)> = Vec::new();
        let mut value = 0;
        let mut released: Vec<Range> = Vec::new();
        for step in steps {
            match step {
                Step::Allocate { queue, granules, alignment_log2 } => {
                    // Side by side is looked for without regard to where it happens to be aligned.
                    let alignment_log2 = if queue == NO_QUEUE { alignment_log2 } else { 8 };
                    let (bytes, alignment) = (granules * 256, 1 << alignment_log2);
                    match allocate_for(&mut ranges, queue, bytes, alignment) {
                        Some(range) => {
                            prop_assert_eq!((range.bytes, range.offset % alignment), (bytes, 0));
                            prop_assert!(range.offset + bytes <= block_bytes[range.block as usize]);
                            prop_assert!(present[range.block as usize]);
                            prop_assert!(!used.iter().chain(&released).any(|other| overlap(other, &range)));
                            let others = |(_, bound): &&(Range, Bound)| bound.queue != queue;
                            prop_assert!(!bound.iter().filter(others).any(|(other, _)| overlap(other, &range)));
                            bound = bound.into_iter().flat_map(|(other, bound)| {
                                without(other, range).into_iter().map(move |part| (part, bound))
                            }).collect();
                            used.push(range);
                        }
                        None => {
                            let others = bound.iter().filter(|(_, bound)| bound.queue != queue).map(|(range, _)| range);
                            let taken: Vec<Range> = used.iter().chain(&released).chain(others).copied().collect();
                            let serves: Vec<bool> = (0..3).map(|block| {
                                let of_block = |range: &&Range| range.block == block;
                                present[block as usize]
                                    && (used.iter().chain(bound.iter().map(|(range, _)| range)).any(|range| of_block(&range))
                                        || !released.iter().any(|range| of_block(&range)))
                            }).collect();
                            prop_assert!(!has_room(&block_bytes, &serves, &taken, bytes, alignment));
                        }
                    }
                }
                Step::Free { which, queue } if !used.is_empty() => {
                    let range = used.swap_remove(which % used.len());
                    value += 1;
                    let to = if queue == NO_QUEUE { Bound::NONE } else { Bound { queue, value } };
                    ranges.free(range.index, to, 0);
                    if queue != NO_QUEUE {
                        bound.push((range, to));
                    }
                }
                Step::Free { .. } => {}
                Step::Settle { queue, but } => {
                    let reached = value.saturating_sub(but);
                    ranges.settle(queue, reached, 0);
                    // Merged ranges wait for the highest of their values; so the list is asked what is left.
                    let left = ranges.bound_bytes();
                    let passed = |bound: &Bound| bound.queue == queue && bound.value <= reached;
                    let least: u64 = bound.iter().filter(|(_, bound)| !passed(bound)).map(|(range, _)| range.bytes).sum();
                    prop_assert!(left >= least);
                    ranges.settle(queue, value, 0);
                    bound.retain(|(_, bound)| bound.queue != queue);
                    prop_assert_eq!(ranges.bound_bytes(), bound.iter().map(|(range, _)| range.bytes).sum::<u64>());
                }
                Step::RemoveIdle => {
                    while let Some(idle) = ranges.longest_idle() {
                        let mut kept = used.iter().chain(bound.iter().map(|(range, _)| range));
                        prop_assert!(kept.all(|range| range.block != idle.block));
                        let gone: u64 = released.iter().filter(|range| range.block == idle.block).map(|range| range.bytes).sum();
                        prop_assert_eq!(idle.reserved_bytes, idle.bytes - gone);
                        prop_assert_eq!(ranges.remove_block(idle.block), Some(idle.reserved_bytes));
                        released.retain(|range| range.block != idle.block);
                        present[idle.block as usize] = false;
                    }
                }
                Step::SetAside { forget } => {
                    let before = (ranges.reserved_bytes(), ranges.block_count());
                    let mut aside = Vec::new();
                    while let Some(idle) = ranges.longest_idle() {
                        let mut kept = used.iter().chain(bound.iter().map(|(range, _)| range));
                        prop_assert!(kept.all(|range| range.block != idle.block));
                        ranges.set_aside(idle.block);
                        aside.push(idle);
                    }
                    ranges.validate();
                    prop_assert_eq!((ranges.reserved_bytes(), ranges.block_count()), before);
                    prop_assert_eq!(ranges.idle_bytes(), 0);
                    for idle in aside {
                        if forget {
                            ranges.forget_aside(&idle);
                            released.retain(|range| range.block != idle.block);
                            present[idle.block as usize] = false;
                        } else {
                            ranges.restore_aside(idle);
                        }
                    }
                    prop_assert_eq!(ranges.aside_bytes(), 0);
                }
                Step::Release { undo, freed } => {
                    let fresh = ranges.release_holes(1024);
                    for range in &fresh {
                        prop_assert_eq!((range.offset % 1024, range.bytes % 1024), (0, 0));
                    }
                    // As another thread may while the driver is being asked.
                    for range in used.drain(..freed.min(used.len())) {
                        free(&mut ranges, range);
                    }
                    for range in fresh {
                        if undo { ranges.unrelease(range) } else { released.push(range) }
                    }
                }
            }
            ranges.validate();
            prop_assert_eq!(ranges.used_bytes(), used.iter().map(|range| range.bytes).sum::<u64>());
        }
    }
}

fn overlap(one: &Range, other: &Range) -> bool {
    one.block == other.block
        && one.offset < other.offset + other.bytes
        && other.offset < one.offset + one.bytes
}

/// What is left of a range outside another.
fn without(range: Range, taken: Range) -> Vec<Range> {
    if !overlap(&range, &taken) {
        return vec![range];
    }
    let part = |offset: u64, end: u64| Range { offset, bytes: end - offset, ..range };
    let mut parts = Vec::new();
    if range.offset < taken.offset {
        parts.push(part(range.offset, taken.offset));
    }
    let (end, taken_end) = (range.offset + range.bytes, taken.offset + taken.bytes);
    if taken_end < end {
        parts.push(part(taken_end, end));
    }
    parts
}

fn has_room(block_bytes: &[u64], present: &[bool], used: &[Range], bytes: u64, alignment: u64) -> bool {
    block_bytes.iter().enumerate().filter(|&(block, _)| present[block]).any(|(block, &size)| {
        (0..size).step_by(alignment as usize).any(|offset| {
            offset + bytes <= size
                && used
                    .iter()
                    .filter(|range| range.block as usize == block)
                    .all(|range| range.offset + range.bytes <= offset || offset + bytes <= range.offset)
        })
    })
}
