//! Many threads, on one queue and on many, on devices that overlap what they may.

use crate::common::*;
use aquifer_core::{CopyDesc, MemoryManager, Queue};
use aquifer_metal::Metal;
use aquifer_testkit::{Pattern, Random, config_with_budget};
use software_metal::DeviceDesc;

const THREADS: u64 = 4;

fn kinds(seed: u64) -> [DeviceDesc; 2] {
    let overlapping = |desc| DeviceDesc { overlap_seed: Some(seed), ..desc };
    [overlapping(DeviceDesc::default()), overlapping(discrete())]
}

#[test]
fn many_threads_use_one_queue() {
    const BYTES: u64 = 40_000;
    println!("seeds 0..10");
    for desc in (0..10).flat_map(kinds) {
        let seed = desc.overlap_seed;
        let metal = metal_on(&device(desc));
        // Each thread has a block by itself, and all have a line together.
        let pairs: Vec<_> = (0..THREADS)
            .map(|_| [OwnBlock::private(&metal, BYTES), OwnBlock::visible(&metal, BYTES)])
            .collect();
        let line = Line::new(&metal);
        std::thread::scope(|scope| {
            for (nth, [near, far]) in pairs.iter().enumerate() {
                let line = &line;
                scope.spawn(move || {
                    let mut random = Random::new(nth as u64);
                    for round in 0..15_u8 {
                        let start = random.below(100);
                        let mut bytes = vec![0; (BYTES - start) as usize];
                        Pattern::new(u64::from(round)).bytes(0, &mut bytes);
                        line.fill(near, 0..BYTES, round);
                        line.upload(bytes.clone(), near, start);
                        line.copy(near, 0..BYTES, far, 0);
                        let (place, _) = line.download(far, 0..BYTES);
                        // Only now and then, so that the others' commands come between.
                        if round % 4 == 3 {
                            line.finish();
                            let found = line.take(place);
                            assert!(found[..start as usize].iter().all(|&byte| byte == round), "{seed:?}");
                            assert!(
                                found[start as usize..] == bytes,
                                "{seed:?}, thread {nth}, round {round}"
                            );
                        }
                    }
                });
            }
        });
        line.finish();
        drop((line, pairs, metal));
        assert_nothing_is_left();
    }
}

#[test]
fn many_threads_use_many_queues_that_wait_for_each_other() {
    const BYTES: u64 = 30_000;
    println!("seeds 10..20");
    for desc in (10..20).flat_map(kinds) {
        let seed = desc.overlap_seed;
        let metal = metal_on(&device(desc));
        let pairs: Vec<_> = (0..THREADS)
            .map(|_| [OwnBlock::private(&metal, BYTES), OwnBlock::visible(&metal, BYTES)])
            .collect();
        let lines: Vec<_> = (0..3).map(|_| Line::new(&metal)).collect();
        std::thread::scope(|scope| {
            for (nth, [near, far]) in pairs.iter().enumerate() {
                let lines = &lines;
                scope.spawn(move || {
                    let mut random = Random::new(nth as u64 + 100);
                    for round in 0..20_u8 {
                        // Each queue waits for the one before, in an order of the thread's own.
                        let first = random.below(3) as usize;
                        let [a, b, c] = [0, 1, 2].map(|at| &lines[(first + at) % 3]);
                        a.fill(near, 0..BYTES, round);
                        b.wait_on(a);
                        b.copy(near, 0..BYTES, far, 0);
                        c.wait_on(b);
                        let (place, _) = c.download(far, 0..BYTES);
                        // The next round begins anywhere, so all must be through.
                        lines.iter().for_each(|line| line.wait_on(c));
                        if round % 5 == 4 {
                            c.finish();
                            let found = c.take(place);
                            let wrong = found.iter().position(|&byte| byte != round);
                            assert_eq!(wrong, None, "{seed:?}, thread {nth}, round {round}: {}", found[0]);
                        }
                    }
                });
            }
        });
        lines.iter().for_each(Line::finish);
        drop((lines, pairs, metal));
        assert_nothing_is_left();
    }
}

/// One thread's way through a manager: what it puts into a buffer must come out of it after copies on other queues, whatever others
/// free and reuse meanwhile.
fn work(manager: &MemoryManager<Metal>, queues: &[Queue<Metal>], seed: u64) {
    let mut random = Random::new(seed);
    for round in 0..12 {
        let mut queue = || &queues[random.below(queues.len() as u64) as usize];
        let (up, across, down) = (queue(), queue(), queue());
        let bytes = random.size(200_000);
        let mut expected = vec![0; bytes as usize];
        Pattern::new(seed << 8 | round).bytes(0, &mut expected);
        let source = up.allocate(bytes).unwrap();
        let (source, expected) = up.upload(expected, source, 0).unwrap().wait().unwrap();
        let target = if round % 2 == 0 { across.allocate(bytes) } else { manager.allocate(bytes) };
        let desc = CopyDesc { source_offset: 0, destination_offset: 0, bytes };
        let (source, target) = across.copy(source, target.unwrap(), desc).unwrap().wait().unwrap();
        // Detached: its memory is freed when it is over.
        drop(up.fill(source, 0xee).unwrap());
        let (target, found) = down.download::<u8>(target, 0, bytes as usize).unwrap().wait().unwrap();
        assert!(found == expected, "thread {seed}, round {round}: {bytes} bytes");
        drop(across.fill(target, 0xdd).unwrap());
    }
}

#[test]
fn many_threads_use_one_manager_with_many_queues() {
    println!("seeds 20..30");
    for desc in (20..30).flat_map(kinds) {
        let manager =
            MemoryManager::with_config(metal_on(&device(desc)), config_with_budget(8 << 20)).unwrap();
        let queues: Vec<_> = (0..3).map(|_| manager.queue().unwrap()).collect();
        std::thread::scope(|scope| {
            for nth in 0..THREADS {
                let (manager, queues) = (&manager, &queues);
                scope.spawn(move || work(manager, queues, nth));
            }
        });
        queues.iter().for_each(|queue| queue.synchronize(LONG).unwrap());
        until_all_is_free(&manager);
        drop((queues, manager));
        assert_nothing_is_left();
    }
}
