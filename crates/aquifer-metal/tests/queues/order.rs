//! Work that depends on other work runs after it, in one queue and across queues.

use crate::common::*;
use aquifer_backend::Backend as _;
use aquifer_metal::Metal;
use aquifer_testkit::{Pattern, Random};
use std::time::Duration;

/// A block's size in the programs below: a few of the parts in which overlapping work is done, so that it does overlap.
const BYTES: u64 = 48 << 10;
const BLOCKS: usize = 4;
const COMMANDS: u64 = 24;

/// A block, what it must hold at the end, and the queues that have used it since all of them were waited for.
struct Place {
    block: OwnBlock,
    expected: Vec<u8>,
    users: Vec<bool>,
}

fn part(random: &mut Random) -> std::ops::Range<u64> {
    let bytes = if random.below(2) == 0 { BYTES } else { random.size(BYTES) };
    let start = random.below(BYTES - bytes + 1);
    start..start + bytes
}

fn bounds(part: &std::ops::Range<u64>) -> std::ops::Range<usize> {
    part.start as usize..part.end as usize
}

/// A random program on `queue_count` queues. A command waits for the queues that have used its blocks, and for no others.
fn random_program(metal: &Metal, seed: u64, queue_count: usize) {
    let mut random = Random::new(seed);
    let mut places: Vec<Place> = (0..BLOCKS)
        .map(|index| {
            let block = OwnBlock::new(metal, BYTES, index % 2);
            block.fill(index as u8);
            Place { block, expected: vec![index as u8; BYTES as usize], users: vec![false; queue_count] }
        })
        .collect();
    let lines: Vec<Line> = (0..queue_count).map(|_| Line::new(metal)).collect();
    let mut downloads = Vec::new();
    for command in 0..COMMANDS {
        let on = random.below(queue_count as u64) as usize;
        let (from, to) = (random.below(BLOCKS as u64) as usize, random.below(BLOCKS as u64) as usize);
        for other in (0..queue_count).filter(|&other| other != on) {
            if places[from].users[other] || places[to].users[other] {
                lines[on].wait_on(&lines[other]);
            }
        }
        places[to].users.fill(false);
        places[to].users[on] = true;
        places[from].users[on] = true;
        let part = part(&mut random);
        match random.below(5) {
            0 => {
                lines[on].fill(&places[to].block, part.clone(), command as u8);
                places[to].expected[bounds(&part)].fill(command as u8);
            }
            1 => {
                let mut bytes = vec![0; (part.end - part.start) as usize];
                Pattern::new(seed ^ command << 32).bytes(0, &mut bytes);
                places[to].expected[bounds(&part)].copy_from_slice(&bytes);
                lines[on].upload(bytes, &places[to].block, part.start);
            }
            2 => {
                let expected = places[to].expected[bounds(&part)].to_vec();
                downloads.push((command, on, lines[on].download(&places[to].block, part).0, expected));
            }
            _ if from != to => {
                let offset = random.below(BYTES - (part.end - part.start) + 1);
                lines[on].copy(&places[from].block, part.clone(), &places[to].block, offset);
                let copied = places[from].expected[bounds(&part)].to_vec();
                places[to].expected[offset as usize..offset as usize + copied.len()].copy_from_slice(&copied);
            }
            _ => {}
        }
    }
    lines.iter().for_each(Line::finish);
    for (command, on, place, expected) in downloads {
        assert!(
            lines[on].take(place) == expected,
            "seed {seed:#x}: download {command} came at the wrong time"
        );
    }
    for (index, place) in places.iter().enumerate() {
        let content = place.block.content(BYTES as usize);
        let wrong = content.iter().zip(&place.expected).position(|(found, expected)| found != expected);
        assert_eq!(wrong, None, "seed {seed:#x}: block {index} is wrong from there on");
    }
}

/// Runs random programs with so many queues, on devices that overlap what they may, where there are such.
fn random_programs(seeds: std::ops::Range<u64>, queue_count: usize) {
    println!("seeds {seeds:?}, {queue_count} queues");
    for seed in seeds {
        #[cfg(not(target_vendor = "apple"))]
        {
            let desc = if seed % 4 == 3 { discrete() } else { software_metal::DeviceDesc::default() };
            let desc = software_metal::DeviceDesc { overlap_seed: Some(seed), ..desc };
            random_program(&metal_on(&device(desc)), seed, queue_count);
        }
        #[cfg(target_vendor = "apple")]
        random_program(&metal(), seed, queue_count);
        assert_nothing_is_left();
    }
}

#[test]
fn commands_of_one_queue_run_in_order() {
    random_programs(0..100, 1);
}

#[test]
fn two_queues_wait_for_each_other() {
    random_programs(1000..1100, 2);
}

#[test]
fn three_queues_wait_for_each_other() {
    random_programs(2000..2100, 3);
}

#[test]
fn two_queues_take_turns_with_one_block() {
    on_all_kinds(|kind, metal| {
        let block = OwnBlock::private(metal, BYTES);
        let lines = [Line::new(metal), Line::new(metal)];
        let mut seen = Vec::new();
        for turn in 0..60 {
            let (line, other) = (&lines[turn % 2], &lines[(turn + 1) % 2]);
            line.wait_on(other);
            // What the other has filled, and then something new.
            seen.push((turn, line.download(&block, 0..BYTES).0));
            line.fill(&block, 0..BYTES, turn as u8);
        }
        lines.iter().for_each(Line::finish);
        for (turn, place) in seen.into_iter().skip(1) {
            let bytes = lines[turn % 2].take(place);
            assert!(bytes.iter().all(|&byte| byte == turn as u8 - 1), "{kind}: turn {turn} saw {}", bytes[0]);
        }
    });
}

#[test]
fn waits_that_are_over_hold_nothing_up() {
    on_all_kinds(|kind, metal| {
        let block = OwnBlock::visible(metal, BYTES);
        let (line, other) = (Line::new(metal), Line::new(metal));
        let wait_on = |line: &Line, other: &Line, value| {
            metal.wait_on_queue(line.queue(), other.queue(), value).expect("the queue takes a wait");
        };
        // For itself, behind work and in front of it.
        line.fill(&block, 0..BYTES, 1);
        let value = line.mark();
        wait_on(&line, &line, value);
        line.wait_on(&line);
        line.fill(&block, 0..BYTES / 2, 2);
        line.finish();
        // For values long reached, of an idle queue and of one that works.
        let early = other.mark();
        other.reach(early);
        wait_on(&line, &other, early);
        other.fill(&block, 0..4, 3);
        wait_on(&line, &other, early);
        wait_on(&line, &other, 0);
        line.finish();
        other.finish();
        let content = block.content(BYTES as usize);
        assert_eq!((content[0], content[5], content[BYTES as usize - 1]), (3, 2, 1), "{kind}");
        // A queue of which others wait may go before they have.
        let gone = Line::new(metal);
        gone.fill(&block, 0..BYTES, 4);
        line.wait_on(&gone);
        drop(gone);
        line.fill(&block, 0..4, 5);
        line.finish();
        let content = block.content(BYTES as usize);
        assert_eq!((content[0], content[5]), (5, 4), "{kind}");
        assert!(!metal.wait(line.queue(), 1000, Duration::ZERO).expect("the device is there"));
    });
}

/// Two queues that wait for each other so often that a recursion through them would run out of stack.
#[test]
fn long_chains_of_waits_end() {
    on_all_kinds(|_, metal| {
        let block = OwnBlock::visible(metal, BYTES);
        let lines = [Line::new(metal), Line::new(metal)];
        let hold = lines[0].queue().hold().expect("the device is there");
        for turn in 0..900 {
            lines[(turn + 1) % 2].wait_on(&lines[turn % 2]);
        }
        lines[0].fill(&block, 0..4, 7);
        drop(hold);
        lines.iter().for_each(Line::finish);
        assert_eq!(block.content(1), [7]);
    });
}
