//! Devices with content: which bytes are where at which time, and who notices those that are out of date.

mod common;

use aquifer_backend::{Backend, Capabilities, CopyEnd, ErrorKind};
use aquifer_sim::{
    Access, Kernel, KernelMemory, Purging, Recurrence, Sim, SimBlock, SimDesc, SimQueue, ViolationKind,
};
use common::*;
use std::ptr::NonNull;

/// A device, a block of its own, a pinned one, and two queues.
fn scene(bytes: u64) -> (Sim, SimBlock, SimBlock, [SimQueue; 2]) {
    let sim = linked_sim();
    let (own, pinned) = (create(&sim, bytes), create_pinned(&sim, bytes));
    let queues = [(); 2].map(|()| sim.create_queue().unwrap());
    (sim, own, pinned, queues)
}

#[test]
fn bytes_go_wherever_commands_bring_them() {
    let (sim, own, pinned, [queue, _]) = scene(2 * MIB);
    let other = create(&sim, 2 * MIB);
    let mut sent: Vec<u8> = (0..1000).map(|index| index as u8).collect();
    let mut received = vec![0; 1000];
    copy_ends(&sim, &queue, host_end(&mut sent), block_end(&own, 5), 1000);
    copy(&sim, &queue, range(&own, 5, 1000), range(&other, 7, 1000));
    copy(&sim, &queue, range(&other, 7, 1000), range(&pinned, 100, 1000));
    copy_ends(&sim, &queue, block_end(&pinned, 100), host_end(&mut received), 1000);
    fill(&sim, &queue, range(&other, 8, 998));
    sim.run_all();
    assert_eq!(received, sent);
    assert_eq!(host_bytes(&sim, &pinned, 1100)[100..], sent);
    let mut expected = vec![0; 1008];
    (expected[7], expected[1006]) = (sent[0], sent[999]);
    assert_eq!(content(&sim, &other, 1008), expected, "a fill touches just its range");
    // SAFETY: the ranges lie in their blocks, and nobody else uses them.
    unsafe { sim.fill(range(&own, 3, 4), 9) }.unwrap();
    // SAFETY: as above.
    unsafe { sim.copy(range(&own, 0, 8), range(&pinned, 0, 8)) }.unwrap();
    assert_eq!(host_bytes(&sim, &pinned, 8), [0, 0, 0, 9, 9, 9, 9, sent[2]]);
    sim.assert_no_violations();
}

#[test]
fn who_reads_too_early_sees_what_was_there() {
    let (sim, own, pinned, [queue, other]) = scene(4 * MIB);
    host_fill(&sim, &pinned, 4 * MIB, 7);
    let _owner = sim.claim(address(&sim, &own), 4 * MIB);
    copy(&sim, &queue, range(&pinned, 0, 4 * MIB), range(&own, 0, 4 * MIB));
    sim.advance(slow_ns(4 * MIB) - 1);
    assert_eq!(content(&sim, &own, 4 * MIB), vec![0; 4 << 20], "nothing arrives before the end");
    expect(&sim, &other, &own, vec![7; 4096]);
    assert_eq!(kinds(&sim), [ViolationKind::StaleRead]);
    sim.advance(1);
    assert_eq!(content(&sim, &own, 4 * MIB), vec![7; 4 << 20]);
    expect(&sim, &other, &own, vec![7; 4096]);
    assert_eq!(sim.violations().len(), 1);
}

#[test]
fn a_source_that_is_used_again_too_early_sends_its_new_bytes() {
    let (sim, own, pinned, [queue, other]) = scene(2 * MIB);
    host_fill(&sim, &pinned, 10, 1);
    let mut plain = vec![1; 10];
    spin(&sim, &queue, 1000);
    copy(&sim, &queue, range(&pinned, 0, 10), range(&own, 0, 10));
    let start = NonNull::new(plain.as_mut_ptr()).unwrap();
    copy_ends(&sim, &queue, CopyEnd::Host(start), block_end(&own, 10), 10);
    // The host is too early; what was asked for is one.
    host_fill(&sim, &pinned, 10, 2);
    // SAFETY: the bytes are there, and the device works in its calls only.
    unsafe { start.write_bytes(3, 10) };
    sim.run_all();
    assert_eq!(content(&sim, &own, 20), [[2; 10], [3; 10]].concat());
    expect(&sim, &other, &own, vec![1; 10]);
    assert_eq!(kinds(&sim), [ViolationKind::StaleRead]);
    // So is another queue that fills what a copy still reads.
    copy(&sim, &queue, range(&own, 0, MIB), range(&pinned, 0, MIB));
    sim.advance(slow_ns(MIB) / 2);
    fill(&sim, &other, range(&own, 0, 20));
    sim.run_all();
    assert_eq!(host_bytes(&sim, &pinned, 20), [0; 20]);
}

#[test]
fn stale_bytes_are_reported_in_words_and_fresh_ones_not() {
    let (sim, own, pinned, [queue, _]) = scene(2 * MIB);
    expect(&sim, &queue, &own, vec![0; 100]);
    let start = sim.host_pointer(&pinned).unwrap();
    // SAFETY: the block is longer, it lives, and nothing in this test writes it.
    let seen = unsafe { std::slice::from_raw_parts(start.as_ptr(), 100) };
    assert!(sim.expect_host(seen, &[0; 100]));
    sim.assert_no_violations();
    let mut expected = vec![0; 100];
    (expected[17], expected[20]) = (0xab, 1);
    expect(&sim, &queue, &own, expected.clone());
    assert!(!sim.expect_host(&seen[10..], &expected[10..]));
    assert!(!sim.expect_host(&[1, 2], &[1, 2, 3]));
    assert_eq!(kinds(&sim), [ViolationKind::StaleRead; 3]);
    let places: Vec<_> =
        sim.violations().iter().map(|violation| (violation.address, violation.bytes)).collect();
    assert_eq!(places, [(address(&sim, &own), 100), (address(&sim, &pinned) + 10, 90), (0, 2)]);
    let words: Vec<_> = sim.violations().iter().map(ToString::to_string).collect();
    for part in ["kernel 2 on queue 1", "0x00 instead of 0xab at byte 17, the first of 2"] {
        assert!(words[0].contains(part), "{words:#?}");
    }
    for part in ["the host saw", "0x00 instead of 0xab at byte 7,"] {
        assert!(words[1].contains(part), "{words:#?}");
    }
    assert!(words[2].contains("2 bytes instead of 3"), "{words:#?}");
}

#[test]
fn a_cancelled_copy_moves_exactly_what_it_reports() {
    let (sim, own, pinned, [queue, _]) = scene(8 * MIB);
    host_fill(&sim, &pinned, 8 * MIB, 7);
    let tickets = [0, 1].map(|_| copy(&sim, &queue, range(&pinned, 0, 8 * MIB), range(&own, 0, 8 * MIB)));
    sim.advance(slow_ns(5 * MIB / 2));
    tickets.iter().for_each(|ticket| ticket.cancel());
    sim.run_all();
    assert_eq!(tickets.map(|ticket| ticket.done_bytes()), [3 * MIB, 0]);
    let arrived = content(&sim, &own, 8 * MIB);
    assert!(arrived[..3 << 20].iter().all(|&byte| byte == 7));
    assert!(arrived[3 << 20..].iter().all(|&byte| byte == 0));
    sim.assert_no_violations();
}

#[test]
fn a_failed_copy_moves_nothing_and_a_lost_device_what_it_has_reported() {
    let (sim, own, pinned, [queue, _]) = scene(8 * MIB);
    host_fill(&sim, &pinned, 8 * MIB, 7);
    sim.plan_command_fault(0, Recurrence::Once);
    let failed = copy(&sim, &queue, range(&pinned, 0, MIB), range(&own, 0, MIB));
    sim.run_all();
    assert_eq!((failed.done_bytes(), failed.take_error().unwrap().kind()), (0, ErrorKind::Driver));
    assert_eq!(content(&sim, &own, MIB), vec![0; 1 << 20]);
    let mut received = vec![0; 4 << 20];
    let lost = copy_ends(&sim, &queue, block_end(&pinned, 0), host_end(&mut received), 4 * MIB);
    let queued = copy_ends(&sim, &queue, block_end(&pinned, 0), host_end(&mut received), 4 * MIB);
    sim.advance(slow_ns(5 * MIB / 2));
    sim.lose_device();
    assert_eq!((lost.done_bytes(), queued.done_bytes()), (2 * MIB, 0));
    assert_eq!(received.iter().filter(|&&byte| byte == 7).count() as u64, 2 * MIB);
    assert!(received[..2 << 20].iter().all(|&byte| byte == 7));
    received.fill(1);
    sim.run_all();
    assert!(received.iter().all(|&byte| byte == 1), "a lost device touches nothing");
}

/// Runs a program on the first 100 bytes of a block, of which it may write the second half.
fn run(
    sim: &Sim,
    queue: &SimQueue,
    block: &SimBlock,
    program: impl FnOnce(&mut KernelMemory) + Send + 'static,
) {
    let start = address(sim, block);
    let kernel = Kernel::new([Access::read(start, 50), Access::write(start + 50, 50)]).lasting(10);
    // SAFETY: the tests' host does not touch the block while the kernel is queued.
    unsafe { sim.launch_program(queue, kernel, program) }.unwrap();
}

#[test]
fn programs_work_when_their_kernel_ends() {
    let (sim, own, _, [queue, other]) = scene(2 * MIB);
    let start = address(&sim, &own);
    let _owner = sim.claim(start, 100);
    run(&sim, &queue, &own, move |memory| {
        let mut byte = [1];
        memory.read(start + 49, &mut byte);
        memory.write(start + 99, &[byte[0] + 5]);
        assert!(memory.expect(start + 98, &[0, 5]), "what it writes it may read");
    });
    sim.advance(9);
    expect(&sim, &other, &own, vec![0; 100]);
    sim.advance(1);
    assert_eq!(content(&sim, &own, 100)[99], 5);
    sim.assert_no_violations();
}

#[test]
fn programs_stay_in_what_their_kernel_declares() {
    let (sim, own, _, [queue, _]) = scene(2 * MIB);
    let start = address(&sim, &own);
    let _owner = sim.claim(start, 100);
    run(&sim, &queue, &own, move |memory| {
        let mut bytes = [9; 2];
        memory.read(start + 49, &mut bytes);
        assert_eq!(bytes, [9; 2], "across two accesses");
        memory.write(start + 49, &[1]);
        memory.write(start + 99, &[1, 1]);
        memory.read(start - 1, &mut bytes);
        assert!(!memory.expect(u64::MAX, &[0]));
    });
    sim.run_all();
    assert_eq!(kinds(&sim), [ViolationKind::Contract; 5]);
    assert_eq!(content(&sim, &own, 200), [0; 200]);
    run(&sim, &queue, &own, |_| panic!("the program has had {}", "enough"));
    sim.run_all();
    let words = sim.violations()[5].to_string();
    assert!(words.contains("panicked: the program has had enough"), "{words}");
    signal(&sim, &queue, 1).unwrap();
    assert_eq!(sim.completed(&queue).unwrap(), 1, "and the queue goes on");
}

#[test]
fn without_content_there_are_no_programs() {
    let sim = free_sim();
    let queue = sim.create_queue().unwrap();
    // SAFETY: the kernel touches nothing.
    let error = unsafe { sim.launch_program(&queue, Kernel::new([]), |_| ()) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn work_on_a_destroyed_block_touches_nobody_elses_memory() {
    let (sim, own, pinned, [queue, _]) = scene(2 * MIB);
    host_fill(&sim, &pinned, MIB, 7);
    copy(&sim, &queue, range(&pinned, 0, MIB), range(&own, 0, MIB));
    let start = address(&sim, &own);
    destroy(&sim, own);
    assert_eq!(kinds(&sim), [ViolationKind::GivenBackWhileUsed]);
    let next = create(&sim, 2 * MIB);
    assert_eq!(address(&sim, &next), start, "the next block has its addresses");
    sim.run_all();
    assert_eq!(content(&sim, &next, MIB), vec![0; 1 << 20]);
}

#[test]
fn what_the_system_takes_is_spoilt() {
    let sim = Sim::new(SimDesc { purging: Purging::NONE, ..linked_desc() });
    let block = create(&sim, 2 * MIB);
    // SAFETY: nobody uses the block.
    unsafe { sim.make_purgeable(&block) }.unwrap();
    assert!(sim.make_nonpurgeable(&block).unwrap());
    assert_eq!(content(&sim, &block, 100), [0; 100], "nobody has taken it");
    // SAFETY: as above.
    unsafe { sim.make_purgeable(&block) }.unwrap();
    assert_eq!(sim.purge(), 2 * MIB);
    assert!(!sim.make_nonpurgeable(&block).unwrap());
    assert!(content(&sim, &block, 2 * MIB).iter().all(|&byte| byte != 0));
    sim.assert_no_violations();
}

#[test]
fn content_is_not_claimed_to_be_missing() {
    for desc in [SimDesc::discrete(), SimDesc { has_content: true, ..SimDesc::default() }] {
        let capabilities = Sim::new(desc).properties().capabilities;
        assert!(!capabilities.contains(Capabilities::SIMULATED));
        assert!(capabilities.contains(Capabilities::QUEUES | Capabilities::PURGEABLE));
    }
    assert!(free_sim().properties().capabilities.contains(Capabilities::SIMULATED));
}
