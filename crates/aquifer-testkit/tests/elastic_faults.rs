//! Memory that is mapped behind addresses, on drivers that fail: each call in turn, once and from then on, of any kind and of each;
//! and when the device is lost.

mod common;
mod elastic;

use aquifer_core::{Backend, Capabilities, ErrorKind, MemoryManager};
use aquifer_sim::{Call, Fault, FaultPlan, Recurrence, Sim};
use aquifer_testkit::{FaultMode, Faulty};
use common::sim;
use elastic::{BUDGET_BYTES, Program, elastic_config};

fn program(sim: &Sim) -> Program<Sim> {
    let manager =
        MemoryManager::with_config(sim.clone(), elastic_config(BUDGET_BYTES)).expect("it can be sparse");
    let books = sim.clone();
    Program::new(manager, false, move || books.books().live_bytes)
}

/// Nothing of the driver's is left.
#[track_caller]
fn assert_all_back(sim: &Sim) {
    let books = sim.books();
    assert_eq!((books.live_blocks, books.live_bytes, books.live_mappings), (0, 0, 0));
    assert_eq!((books.sparse_bytes, books.mapped_bytes), (0, 0));
    sim.assert_no_violations();
}

/// Runs the script with one fault, which is mended before the end; whether it has struck.
fn run(plan: FaultPlan) -> bool {
    let sim = sim();
    let mut program = program(&sim);
    let failed_before = sim.books().failed_calls;
    sim.plan_fault(plan);
    program.run();
    let has_struck = sim.books().failed_calls > failed_before || sim.is_lost();
    assert!(has_struck || program.errors.is_empty(), "{plan:?}: nothing has failed: {:?}", program.errors);
    if plan.recurrence == Recurrence::Once && plan.fault != Fault::LoseDevice {
        assert!(program.errors.len() <= 1, "{plan:?}: one failure became {:?}", program.errors);
    }
    sim.assert_no_violations();
    sim.clear_faults();
    if sim.is_lost() {
        drop(program);
    } else {
        program.end();
    }
    assert_all_back(&sim);
    has_struck
}

/// Each call of some kind in turn.
fn sweep(call: Option<Call>, recurrence: Recurrence, fault: Fault, least: u64) {
    let mut number = 0;
    while run(FaultPlan { call, number, recurrence, fault }) {
        number += 1;
    }
    assert!(number >= least, "the script makes only {number} of {call:?}");
}

#[test]
fn any_call_fails_once() {
    sweep(None, Recurrence::Once, Fault::NoMemory, 60);
    sweep(None, Recurrence::Once, Fault::Refuse, 60);
}

#[test]
fn all_calls_fail_from_one_on() {
    sweep(None, Recurrence::FromThenOn, Fault::NoMemory, 20);
    sweep(None, Recurrence::FromThenOn, Fault::Refuse, 20);
}

const KINDS: [Call; 5] = [Call::CreatePhysical, Call::CreateSparse, Call::Map, Call::Unmap, Call::Destroy];

/// Those of one kind alone: the others go on.
#[test]
fn all_calls_of_a_kind_fail_from_one_on() {
    for call in KINDS {
        sweep(Some(call), Recurrence::FromThenOn, Fault::NoMemory, 1);
    }
    for call in [Call::CreatePhysical, Call::Map] {
        sweep(Some(call), Recurrence::FromThenOn, Fault::Refuse, 1);
    }
}

#[test]
fn the_device_is_lost_at_each_call() {
    sweep(None, Recurrence::Once, Fault::LoseDevice, 60);
}

/// What is refused then stays in the books, and goes in the end.
#[test]
fn the_device_is_lost_while_it_gives_back() {
    for call in [Call::Unmap, Call::Destroy] {
        for number in 0..12 {
            let sim = sim();
            let mut program = program(&sim);
            sim.plan_fault(FaultPlan {
                call: Some(call),
                number,
                recurrence: Recurrence::Once,
                fault: Fault::LoseDevice,
            });
            sim.plan_fault(FaultPlan {
                call: Some(Call::Destroy),
                number: 0,
                recurrence: Recurrence::FromThenOn,
                fault: Fault::Refuse,
            });
            program.run();
            program.free(usize::MAX);
            program.manager.trim();
            program.check();
            sim.clear_faults();
            drop(program);
            sim.assert_no_violations();
            assert_eq!(sim.books().live_blocks, 0, "{call:?} {number}");
        }
    }
}

/// The same on the host, where what buffers hold is seen.
fn run_on_host(call_number: u64, mode: FaultMode, kind: ErrorKind) -> bool {
    let device = Faulty::new(common::host());
    let faults = device.faults();
    let manager = MemoryManager::with_config(device, elastic_config(BUDGET_BYTES)).expect("it can be sparse");
    let books = faults.clone();
    let mut program = Program::new(manager, true, move || books.live_bytes());
    faults.fail(call_number, mode, kind);
    program.run();
    let has_struck = faults.failed_count() > 0;
    faults.stop();
    program.end();
    assert_eq!((faults.live_blocks(), faults.live_bytes()), (0, 0), "call {call_number}");
    has_struck
}

#[test]
fn content_outlives_failures() {
    if !common::host().properties().capabilities.contains(Capabilities::SPARSE_BLOCKS) {
        return;
    }
    for (mode, kind) in
        [(FaultMode::Once, ErrorKind::Driver), (FaultMode::FromThenOn, ErrorKind::OutOfMemory)]
    {
        let mut number = 0;
        // Not each: what is behind the pages is written and read again.
        while run_on_host(number, mode, kind) {
            number += 13;
        }
        assert!(number > 20, "the script makes only {number} calls");
    }
}
