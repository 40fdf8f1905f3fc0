//! Holds, and waiting for a queue's end.

use crate::common::*;
use aquifer_backend::Backend as _;
use aquifer_testkit::Random;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const BYTES: u64 = 64 << 10;

#[test]
fn a_hold_holds_all_that_is_behind_it() {
    on_all_kinds(|kind, metal| {
        let block = OwnBlock::visible(metal, BYTES);
        block.fill(0);
        let (line, other) = (Line::new(metal), Line::new(metal));
        line.fill(&block, 0..16, 1);
        let before = line.mark();
        let hold = line.queue().hold().expect("the device is there");
        line.fill(&block, 16..32, 2);
        // Done at once on an idle queue.
        line.upload(vec![3; 16], &block, 32);
        let value = line.mark();
        other.wait_on(&line);
        other.fill(&block, 48..64, 4);
        line.reach(before);
        assert!(!metal.wait(line.queue(), value, Duration::from_millis(10)).expect("the device is there"));
        let mut expected = [0; 64];
        expected[..16].fill(1);
        assert_eq!(block.content(64), expected, "{kind}");
        drop(hold);
        line.reach(value);
        other.finish();
        assert_eq!([0, 16, 32, 48].map(|at| block.content(64)[at]), [1, 2, 3, 4], "{kind}");
        // It gives the device nothing, so a queue with holds only is as good as idle when they are gone.
        drop(line.queue().hold().expect("the device is there"));
        line.queue().wait_idle();
        let value = line.mark();
        assert_eq!(line.completed(), value, "{kind}");
    });
}

/// More holds than a queue has command buffers, dropped in any order by several threads, with commands between.
#[test]
fn thousands_of_holds_are_dropped_in_any_order() {
    const HOLDS: usize = 2500;
    on_all_kinds(|kind, metal| {
        let block = OwnBlock::visible(metal, BYTES);
        block.fill(0);
        let line = Line::new(metal);
        let (mut holds, mut values) = (Vec::new(), Vec::new());
        for nth in 0..HOLDS {
            holds.push((nth, line.queue().hold().expect("the device is there")));
            if nth % 5 == 0 {
                // Each over the one before.
                line.fill(&block, 0..BYTES / 8, (nth / 5) as u8);
                values.push((nth, line.mark()));
            }
            if nth % 100 == 0 {
                line.upload(vec![(nth / 100) as u8; 100], &block, BYTES / 2);
            }
        }
        let mut random = Random::new(12);
        for nth in (1..HOLDS).rev() {
            holds.swap(nth, random.below(nth as u64 + 1) as usize);
        }
        // The first goes last: until then nothing has run.
        let first = holds.iter().position(|(nth, _)| *nth == 0).expect("it is there");
        let (_, first) = holds.swap_remove(first);
        let mut shares: Vec<Vec<_>> = (0..4).map(|_| Vec::new()).collect();
        for (at, hold) in holds.into_iter().enumerate() {
            shares[at % 4].push(hold);
        }
        std::thread::scope(|scope| {
            for share in shares {
                scope.spawn(move || drop(share));
            }
        });
        assert_eq!((line.completed(), block.content(1)), (0, vec![0]), "{kind}");
        drop(first);
        values.iter().for_each(|(_, value)| line.reach(*value));
        line.finish();
        let content = block.content(BYTES as usize);
        assert_eq!(content[0], (HOLDS / 5 - 1) as u8, "{kind}");
        assert_eq!(content[BYTES as usize / 2], (HOLDS / 100 - 1) as u8, "{kind}");
    });
}

#[test]
fn dropping_holds_lets_the_queue_go_step_by_step() {
    on_all_kinds(|kind, metal| {
        let block = OwnBlock::visible(metal, BYTES);
        block.fill(0);
        let line = Line::new(metal);
        let mut steps = Vec::new();
        for nth in 1..=50_u8 {
            let hold = line.queue().hold().expect("the device is there");
            line.fill(&block, 0..BYTES, nth);
            steps.push((nth, hold, line.mark()));
        }
        // The later of each two first, on another thread.
        for pair in steps.chunks_exact_mut(2) {
            pair.swap(0, 1);
        }
        let mut last = 0;
        for (nth, hold, value) in steps {
            std::thread::scope(|scope| {
                scope.spawn(move || drop(hold));
            });
            if nth % 2 == 0 {
                assert!(line.completed() < value, "{kind}: its turn has not come");
                last = nth;
            } else {
                line.reach(value + 1);
                assert_eq!(block.content(1), [last], "{kind}");
            }
        }
    });
}

#[test]
fn waiting_for_the_end_waits_for_holds_and_work() {
    on_all_kinds(|kind, metal| {
        let block = OwnBlock::visible(metal, BYTES);
        let line = Line::new(metal);
        line.queue().wait_idle();
        let hold = line.queue().hold().expect("the device is there");
        let ticket = line.fill(&block, 0..BYTES, 1);
        let is_dropped = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let is_dropped = &is_dropped;
            scope.spawn(move || {
                is_dropped.store(true, Ordering::SeqCst);
                drop(hold);
            });
            line.queue().wait_idle();
            assert!(is_dropped.load(Ordering::SeqCst), "{kind}");
        });
        assert_eq!(ticket.done_bytes(), BYTES, "{kind}");
        assert_eq!(block.content(1), [1], "{kind}");
    });
}

#[cfg(not(target_vendor = "apple"))]
mod software {
    use super::*;
    use aquifer_backend::ErrorKind;
    use software_metal::{DeviceDesc, SoftwareDevice};
    use std::sync::atomic::AtomicUsize;

    /// What is forgotten stays: the device is no test's own, so that nobody counts what is left.
    #[test]
    fn a_forgotten_hold_and_a_lost_device_let_everybody_go() {
        let device = SoftwareDevice::new(DeviceDesc::default());
        let metal = metal_on(&device);
        let block = OwnBlock::visible(&metal, BYTES);
        let (line, other) = (Line::new(&metal), Line::new(&metal));
        std::mem::forget(line.queue().hold().expect("the device is there"));
        let fill = line.fill(&block, 0..BYTES, 1);
        let upload = line.upload(vec![2; BYTES as usize], &block, 0);
        other.wait_on(&line);
        let behind = other.upload(vec![3; BYTES as usize], &block, 0);
        let value = other.mark();
        device.faults().remove();
        assert_eq!(metal.wait(other.queue(), value, LONG).unwrap_err().kind(), ErrorKind::DeviceLost);
        line.queue().wait_idle();
        other.queue().wait_idle();
        for ticket in [&upload, &behind] {
            until("the copy is given up", || failure(ticket) == Some(ErrorKind::DeviceLost));
        }
        assert_eq!((fill.done_bytes(), upload.done_bytes(), behind.done_bytes()), (0, 0, 0));
    }

    /// A queue takes 1024 command buffers; one more is waited for, and nobody else is kept from the queue meanwhile.
    #[test]
    fn more_command_buffers_than_there_may_be_block_their_thread_only() {
        const COMMANDS: usize = 1500;
        let device = device(DeviceDesc::default());
        let metal = metal_on(&device);
        let block = OwnBlock::visible(&metal, BYTES);
        let line = Line::new(&metal);
        let hold = device.faults().hold_execution();
        let enqueued = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for nth in 0..COMMANDS {
                    line.fill(&block, 0..64, nth as u8);
                    enqueued.fetch_add(1, Ordering::SeqCst);
                }
            });
            until("the queue is full", || enqueued.load(Ordering::SeqCst) == 1024);
            // Markers, holds and looks are no command buffers.
            let others = scope.spawn(|| {
                let held = line.queue().hold().expect("the device is there");
                let value = line.mark();
                let is_reached =
                    metal.wait(line.queue(), value, Duration::ZERO).expect("the device is there");
                drop(held);
                (is_reached, line.completed())
            });
            until("others use the queue", || others.is_finished());
            assert_eq!(others.join().expect("no panic"), (false, 0));
            assert_eq!(enqueued.load(Ordering::SeqCst), 1024);
            drop(hold);
        });
        line.finish();
        assert_eq!((enqueued.into_inner(), block.content(1)), (COMMANDS, vec![(COMMANDS - 1) as u8]));
        drop((line, block, metal));
        assert_nothing_is_left();
    }
}
