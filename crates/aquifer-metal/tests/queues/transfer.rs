//! Copies between the host and memory that it sees, or does not, and copies and fills at any offset.

use crate::common::*;
use aquifer_backend::Backend as _;
use aquifer_testkit::{Pattern, Random};

const MIB: u64 = 1 << 20;
const SPACE: u64 = 6 * MIB;

fn pattern(bytes: u64) -> Vec<u8> {
    let mut pattern = vec![0; bytes as usize];
    Pattern::new(13).bytes(0, &mut pattern);
    pattern
}

#[test]
fn every_size_goes_both_ways_at_any_offset() {
    // What is copied at once, by the queue's thread, in one part of a staging buffer, and in several.
    let sizes = [0, 1, 3, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, MIB + 1, 3 * MIB - 2, 5 * MIB];
    let offsets = [0, 1, 2, 3, 4095, 70_001];
    let host = pattern(SPACE);
    on_all_kinds(|kind, metal| {
        let blocks = [OwnBlock::visible(metal, SPACE), OwnBlock::private(metal, SPACE)];
        for (memory, block) in ["visible", "private"].iter().zip(&blocks) {
            let line = Line::new(metal);
            let mut expected = vec![0x11; SPACE as usize];
            block.fill(0x11);
            let mut copies = Vec::new();
            for (nth, bytes) in sizes.into_iter().enumerate() {
                let (offset, from) = (offsets[nth % offsets.len()], nth * 1000);
                let content = &host[from..from + bytes as usize];
                expected[offset as usize..][..content.len()].copy_from_slice(content);
                let upload = line.upload(content.to_vec(), block, offset);
                // And a byte more at each end, where there is one.
                let part = offset.saturating_sub(1)..offset + bytes + 1;
                let now = expected[part.start as usize..part.end as usize].to_vec();
                let (place, download) = line.download(block, part);
                copies.push((bytes, upload, place, download, now));
                // With others in the queue, and alone.
                if nth % 2 == 1 {
                    line.finish();
                }
            }
            line.finish();
            for (bytes, upload, place, download, now) in copies {
                assert!(line.take(place) == now, "{kind}, {memory}: {bytes} bytes");
                assert_eq!((upload.done_bytes(), download.done_bytes()), (bytes, now.len() as u64));
            }
            assert!(block.content(SPACE as usize) == expected, "{kind}, {memory}");
        }
    });
}

/// Copies and fills of odd lengths at odd places, by a queue and by calls that wait, between memory that the host sees and memory
/// that it does not.
#[test]
fn copies_and_fills_touch_their_range_and_nothing_else() {
    on_all_kinds(|kind, metal| {
        let mut random = Random::new(14);
        let blocks: Vec<_> = (0..4).map(|nth| OwnBlock::new(metal, SPACE, nth % 2)).collect();
        let mut expected: Vec<_> = (0..4).map(|nth| vec![nth as u8; SPACE as usize]).collect();
        blocks.iter().zip(&expected).for_each(|(block, expected)| block.fill(expected[0]));
        let line = Line::new(metal);
        for round in 0..40 {
            let bytes = if round % 8 == 7 { 4 * MIB + random.below(9) } else { random.size(MIB) };
            let [from, to] = [(); 2].map(|()| random.below(SPACE - bytes + 1));
            let (source, target) = (random.below(4) as usize, random.below(4) as usize);
            let [from_part, to_part] = [from, to].map(|start| start as usize..(start + bytes) as usize);
            let is_queued = random.below(2) == 0;
            if !is_queued {
                line.finish();
            }
            if source == target {
                let value = 100 + round as u8;
                if is_queued {
                    line.fill(&blocks[target], to..to + bytes, value);
                } else {
                    // SAFETY: the range is in its block, which no queue uses now.
                    unsafe { metal.fill(blocks[target].range(to..to + bytes), value) }.expect("a fill");
                }
                expected[target][to_part].fill(value);
                continue;
            }
            if is_queued {
                line.copy(&blocks[source], from..from + bytes, &blocks[target], to);
            } else {
                let ranges = (blocks[source].range(from..from + bytes), blocks[target].range(to..to + bytes));
                // SAFETY: the ranges are in two blocks, which no queue uses now.
                unsafe { metal.copy(ranges.0, ranges.1) }.expect("a copy");
            }
            let copied = expected[source][from_part].to_vec();
            expected[target][to_part].copy_from_slice(&copied);
        }
        line.finish();
        for (nth, (block, expected)) in blocks.iter().zip(&expected).enumerate() {
            let content = block.content(SPACE as usize);
            let wrong = content.iter().zip(expected).position(|(found, expected)| found != expected);
            assert_eq!(wrong, None, "{kind}: block {nth} is wrong from there on");
        }
    });
}

#[test]
fn what_is_cancelled_before_its_turn_moves_nothing() {
    on_all_kinds(|kind, metal| {
        let blocks = [OwnBlock::visible(metal, SPACE), OwnBlock::private(metal, SPACE)];
        let line = Line::new(metal);
        for block in &blocks {
            block.fill(1);
            let hold = line.queue().hold().expect("the device is there");
            let tickets = [
                line.upload(vec![2; 5 * MIB as usize], block, 1),
                line.download(block, 0..5 * MIB).1,
                line.upload(vec![3; 100], block, 0),
            ];
            tickets.iter().for_each(|ticket| ticket.cancel());
            let kept = line.upload(vec![4; 100], block, 100);
            let value = line.mark();
            assert!(line.completed() < value);
            drop(hold);
            line.reach(value);
            for ticket in &tickets {
                assert!(ticket.done_bytes() == 0 && ticket.take_error().is_none(), "{kind}");
            }
            assert_eq!(
                (kept.done_bytes(), block.content(201)[99..].to_vec()),
                (100, {
                    let mut expected = vec![4; 102];
                    (expected[0], expected[101]) = (1, 1);
                    expected
                })
            );
        }
    });
}

#[test]
fn what_is_cancelled_in_the_middle_says_how_far_it_came() {
    on_all_kinds(|kind, metal| {
        let block = OwnBlock::private(metal, 40 * MIB);
        let line = Line::new(metal);
        block.fill(1);
        let upload = line.upload(vec![2; 40 * MIB as usize], &block, 0);
        until("it has begun", || upload.done_bytes() > 0);
        upload.cancel();
        line.finish();
        let done = upload.done_bytes();
        assert!(done.is_multiple_of(MIB) && done <= 40 * MIB, "{kind}: {done}");
        let content = block.content(40 * MIB as usize);
        let (arrived, rest) = content.split_at(done as usize);
        assert!(arrived == vec![2; arrived.len()], "{kind}: what it counts has arrived");
        assert!(rest == vec![1; rest.len()], "{kind}: and nothing else");
    });
}

#[cfg(not(target_vendor = "apple"))]
mod faults {
    use super::*;
    use aquifer_backend::ErrorKind;
    use software_metal::{Call, DeviceDesc};

    #[test]
    fn without_a_staging_buffer_the_ticket_tells() {
        for desc in [DeviceDesc::default(), discrete()] {
            let device = device(desc);
            let metal = metal_on(&device);
            let block = OwnBlock::private(&metal, SPACE);
            block.fill(1);
            for bytes in [100, 5 * MIB] {
                // Each queue makes one, when it needs it.
                let line = Line::new(&metal);
                device.faults().fail(Call::NewBuffer, 0);
                let failed = line.upload(vec![2; bytes as usize], &block, 3);
                let value = line.mark();
                line.reach(value);
                let error = failed.take_error().expect("the ticket tells");
                assert_eq!((error.kind(), failed.done_bytes()), (ErrorKind::Driver, 0));
                assert!(error.message().contains("staging buffer"), "{error}");
                let (_, well) = line.download(&block, 0..bytes);
                line.finish();
                assert_eq!(well.done_bytes(), bytes);
            }
            assert_eq!(block.content(10), [1; 10]);
            drop((block, metal));
            assert_nothing_is_left();
        }
    }

    #[test]
    fn a_chunk_that_fails_ends_the_copy() {
        for (code, kind) in crate::failure::CODES {
            let device = device(DeviceDesc::default());
            let metal = metal_on(&device);
            let block = OwnBlock::private(&metal, SPACE);
            block.fill(1);
            let line = Line::new(&metal);
            device.faults().fail_command_buffer(2, code);
            let failed = line.upload(vec![2; 5 * MIB as usize], &block, 0);
            line.finish();
            assert_eq!((failure(&failed), failed.done_bytes()), (Some(kind), 2 * MIB), "{code:?}");
            device.faults().fail_command_buffer(1, code);
            let (place, failed) = line.download(&block, 0..3 * MIB);
            line.finish();
            assert_eq!((failure(&failed), failed.done_bytes()), (Some(kind), MIB), "{code:?}");
            let well = line.fill(&block, 0..MIB, 3);
            line.finish();
            let bytes = line.take(place);
            assert_eq!([0, MIB, 2 * MIB].map(|at| bytes[at as usize]), [2, 0xc3, 0xc3]);
            assert_eq!(well.done_bytes(), MIB);
            let content = block.content(SPACE as usize);
            assert_eq!([0, MIB, 2 * MIB].map(|at| content[at as usize]), [3, 2, 1]);
            drop((line, block, metal));
            assert_nothing_is_left();
        }
    }
}
