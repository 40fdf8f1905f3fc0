use super::*;
use proptest::prelude::*;

/// As the pool asks: a hole first, then an idle block.
fn allocate(ranges: &mut Ranges, bytes: u64, alignment: u64) -> Option<Range> {
    ranges.allocate_in_hole(bytes, alignment).or_else(|| ranges.allocate_in_idle(bytes))
}

#[test]
fn freeing_merges_on_both_sides() {
    let mut ranges = Ranges::default();
    ranges.add_block(0, 4096, 0);
    let parts: Vec<Range> = (0..4).map(|_| allocate(&mut ranges, 1024, 256).unwrap()).collect();
    assert!(allocate(&mut ranges, 256, 256).is_none());
    for place in [0, 2, 1, 3] {
        ranges.free(parts[place].index, 7);
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
    assert_eq!(ranges.smallest_idle_fit(1), Some(2048));
    assert_eq!(ranges.allocate_in_idle(1024).unwrap().block, 1);
    assert_eq!(ranges.allocate_in_idle(3072).unwrap().block, 2);
    assert_eq!(ranges.allocate_in_hole(256, 256).unwrap().block, 1, "the oldest of two alike");
    assert_eq!(ranges.allocate_in_hole(1024, 256).unwrap().block, 2);
    assert_eq!(ranges.allocate_in_hole(1024, 256), None);
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
    ranges.free(low.index, 0);
    let odd = allocate(&mut ranges, 256, 256).unwrap();
    assert!(allocate(&mut ranges, 3840, 1024).is_none());
    assert_eq!(allocate(&mut ranges, 2048, 2048).unwrap().offset, 2048);
    assert_eq!(odd.offset, 0);
    ranges.validate();
}

#[derive(Debug, Clone)]
enum Step {
    Allocate {
        granules: u64,
        alignment_log2: u32,
    },
    Free {
        which: usize,
    },
    RemoveIdle,
    /// What is released, and how many used ranges are freed before some of it is undone.
    Release {
        undo: bool,
        freed: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_u64..40, 8_u32..13).prop_map(|(granules, alignment_log2)| Step::Allocate { granules, alignment_log2 }),
        3 => any::<usize>().prop_map(|which| Step::Free { which }),
        1 => Just(Step::RemoveIdle),
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
        let mut released: Vec<Range> = Vec::new();
        for step in steps {
            match step {
                Step::Allocate { granules, alignment_log2 } => {
                    let (bytes, alignment) = (granules * 256, 1 << alignment_log2);
                    match allocate(&mut ranges, bytes, alignment) {
                        Some(range) => {
                            prop_assert_eq!((range.bytes, range.offset % alignment), (bytes, 0));
                            prop_assert!(range.offset + bytes <= block_bytes[range.block as usize]);
                            prop_assert!(present[range.block as usize]);
                            for other in used.iter().chain(&released).filter(|other| other.block == range.block) {
                                prop_assert!(other.offset + other.bytes <= range.offset
                                    || range.offset + range.bytes <= other.offset);
                            }
                            used.push(range);
                        }
                        None => {
                            let taken: Vec<Range> = used.iter().chain(&released).copied().collect();
                            let serves: Vec<bool> = (0..3).map(|block| {
                                let of_block = |range: &&Range| range.block == block;
                                present[block as usize]
                                    && (used.iter().any(|range| of_block(&range)) || !released.iter().any(|range| of_block(&range)))
                            }).collect();
                            prop_assert!(!has_room(&block_bytes, &serves, &taken, bytes, alignment));
                        }
                    }
                }
                Step::Free { which } if !used.is_empty() => {
                    let range = used.swap_remove(which % used.len());
                    ranges.free(range.index, 0);
                }
                Step::Free { .. } => {}
                Step::RemoveIdle => {
                    while let Some(idle) = ranges.longest_idle() {
                        prop_assert!(used.iter().all(|range| range.block != idle.block));
                        let gone: u64 = released.iter().filter(|range| range.block == idle.block).map(|range| range.bytes).sum();
                        prop_assert_eq!(idle.reserved_bytes, idle.bytes - gone);
                        prop_assert_eq!(ranges.remove_block(idle.block), Some(idle.reserved_bytes));
                        released.retain(|range| range.block != idle.block);
                        present[idle.block as usize] = false;
                    }
                }
                Step::Release { undo, freed } => {
                    let fresh = ranges.release_holes(1024);
                    for range in &fresh {
                        prop_assert_eq!((range.offset % 1024, range.bytes % 1024), (0, 0));
                    }
                    // As another thread may while the driver is being asked.
                    for range in used.drain(..freed.min(used.len())) {
                        ranges.free(range.index, 0);
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
