//! Every call that may answer nil, at each of its places.

use crate::common::*;
use crate::everything::{NOT_CLEARED, everything};
use aquifer_backend::{Command, Error, ErrorKind};
use aquifer_core::MemoryManager;
use aquifer_metal::{Metal, MetalOptions};
use aquifer_testkit::config_with_budget;
use objc2_metal::MTLCommandBufferError;
use software_metal::{Call, DeviceDesc, SoftwareDevice};

const BUDGET: u64 = 128 << 20;
/// More rounds than calls fail.
const ROUNDS_MAX: usize = 100;

/// A call, how its objects are counted, and what an error must name; nothing where the backend does without.
const CALLS: [(Call, &str, &[&str]); 11] = [
    (Call::NewHeap, "MTLHeap", &["Metal gave no"]),
    (Call::NewBuffer, "MTLBuffer", &["Metal gave no", "staging buffer"]),
    (Call::NewBufferOnHeap, "MTLHeap", &["Metal gave no"]),
    (Call::NewBufferNoCopy, "MTLBuffer", &["buffer of", "whole OS pages"]),
    (Call::NewSparseBuffer, "MTLBuffer", &["placement sparse buffer"]),
    (Call::NewCommandQueue, "MTLCommandQueue", &["command queue"]),
    (Call::NewCommandBuffer, "MTLCommandBuffer", &["command buffer"]),
    (Call::NewBlitEncoder, "MTLBlitCommandEncoder", &["blit encoder"]),
    (Call::NewSharedEvent, "MTLSharedEvent", &["shared event"]),
    (Call::NewResidencySet, "MTLResidencySet", &[]),
    (Call::NewMtl4Queue, "MTL4CommandQueue", &[]),
];

/// What a message says is to be tried.
const ADVICE: [&str; 3] = ["free some", "try again", "it must be"];

fn kinds() -> [DeviceDesc; 2] {
    [DeviceDesc { has_metal4: true, ..DeviceDesc::default() }, discrete()]
}

/// Whether an error, or what it was made of, has one of the words.
fn names(error: &Error, words: &[&str]) -> bool {
    let mut texts = vec![error.to_string()];
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        texts.push(error.to_string());
        source = error.source();
    }
    words.iter().any(|word| texts.iter().any(|text| text.contains(word)))
}

/// Makes a manager and uses everything, again and again until nothing fails, with the same manager once there is one. What failed.
fn run(device: &SoftwareDevice) -> Vec<(&'static str, Error)> {
    let mut all = Vec::new();
    let metal = loop {
        match Metal::with_options(device.metal_device(), MetalOptions::default()) {
            Ok(metal) => break metal,
            Err(error) => all.push(("Metal::with_options", error)),
        }
        assert!(all.len() < ROUNDS_MAX, "{all:?}");
    };
    let manager = MemoryManager::with_config(metal.clone(), config_with_budget(BUDGET)).unwrap();
    for _ in 0..ROUNDS_MAX {
        let failed = everything(&metal, &manager);
        if failed.is_empty() {
            until_all_is_free(&manager);
            return all;
        }
        all.extend(failed);
    }
    panic!("it does not come back to work: {all:?}");
}

/// How many objects are made when nothing fails.
fn made(desc: &DeviceDesc, object: &str) -> u64 {
    let device = device(desc.clone());
    let failed = run(&device);
    assert!(failed.is_empty(), "{failed:?}");
    let made = device.made_objects().get(object).copied().unwrap_or(0);
    assert_nothing_is_left();
    made
}

/// At each place, `length` calls in a row fail. Answers which calls were told of.
fn fail_each(desc: &DeviceDesc, length: u64) -> Vec<Call> {
    let mut told_calls = Vec::new();
    for (call, object, words) in CALLS {
        let count = made(desc, object);
        let mut told = 0;
        // Each call is among those of some run, whatever was before it.
        for nth in (0..=count).step_by(length.div_ceil(2) as usize) {
            let device = device(desc.clone());
            (nth..nth + length).for_each(|nth| device.faults().fail(call, nth));
            let failed = run(&device);
            told += u64::from(!failed.is_empty());
            for (step, error) in &failed {
                let text = format!("{call:?} {nth}, {step}: {:?}", error);
                assert!(matches!(error.kind(), ErrorKind::Driver | ErrorKind::OutOfMemory), "{text}");
                assert!(names(error, words) && names(error, &ADVICE), "{text}");
            }
            assert_nothing_is_left();
        }
        println!("{call:?}: {told} of {count} places are told");
        if told > 0 {
            told_calls.push(call);
        }
    }
    told_calls
}

/// The calls without which the backend cannot do on a device.
fn needed(desc: &DeviceDesc) -> Vec<Call> {
    let is_there = |call: &Call| match call {
        Call::NewSparseBuffer => desc.has_metal4,
        Call::NewBufferNoCopy => desc.is_unified,
        _ => true,
    };
    CALLS.iter().filter(|(.., words)| !words.is_empty()).map(|(call, ..)| *call).filter(is_there).collect()
}

#[test]
fn each_call_may_fail_once_on_a_unified_device() {
    let [desc, _] = kinds();
    let told = fail_each(&desc, 1);
    assert!(told.iter().all(|call| needed(&desc).contains(call)), "{told:?}");
}

#[test]
fn each_call_may_fail_once_on_a_discrete_device() {
    let [_, desc] = kinds();
    let told = fail_each(&desc, 1);
    assert!(told.iter().all(|call| needed(&desc).contains(call)), "{told:?}");
}

#[test]
fn each_call_may_fail_for_a_while_on_a_unified_device() {
    let [desc, _] = kinds();
    assert_eq!(fail_each(&desc, 8), needed(&desc));
}

#[test]
fn each_call_may_fail_for_a_while_on_a_discrete_device() {
    let [_, desc] = kinds();
    assert_eq!(fail_each(&desc, 8), needed(&desc));
}

#[test]
fn each_command_buffer_may_fail() {
    for desc in kinds() {
        let count = made(&desc, "MTLCommandBuffer");
        let codes = [
            (MTLCommandBufferError::OutOfMemory, ErrorKind::OutOfMemory),
            (MTLCommandBufferError::PageFault, ErrorKind::Driver),
        ];
        let mut told = 0;
        for (nth, (code, kind)) in (0..count).zip(codes.into_iter().cycle()) {
            let device = device(desc.clone());
            device.faults().fail_command_buffer(nth, code);
            let failed = run(&device);
            told += u64::from(!failed.is_empty());
            for (step, error) in &failed {
                let text = format!("{nth}, {step}: {error:?}");
                let is_told = error.kind() == kind && names(error, &["Metal: "]);
                assert!(is_told || error.message() == NOT_CLEARED, "{text}");
            }
            assert_nothing_is_left();
        }
        println!("{told} of {count} command buffers are told");
        assert!(told * 2 > count, "{told} of {count}");
    }
}

/// What a copy from a peer needs of Metal: at once for the queue, or in its turn for the ticket.
#[test]
fn what_a_copy_from_a_peer_lacks_is_told() {
    let peer = |peer_index: u32| DeviceDesc {
        registry_id: u64::from(peer_index),
        peer_group_id: 1,
        peer_index,
        peer_count: 2,
        ..discrete()
    };
    let devices = [0, 1].map(|index| device(peer(index)));
    let metals = devices.each_ref().map(metal_on);
    let blocks = metals.each_ref().map(|metal| OwnBlock::private(metal, 3 << 20));
    blocks[0].fill(7);
    blocks[1].fill(0);
    let line = Line::new(&metals[1]);
    let copy = |bytes: u64| {
        let told = ticket();
        let (source, destination) = (end(blocks[0].range(0..bytes)), end(blocks[1].range(0..bytes)));
        line.try_enqueue(Command::Copy { source, destination, bytes }, &told)?;
        line.finish();
        told.take_error().map_or(Ok(()), Err)
    };
    for (call, bytes, words) in [
        (Call::NewRemoteView, 100, "view of a peer's buffer"),
        (Call::NewCommandBuffer, 100, "command buffer"),
        (Call::NewBlitEncoder, 100, "blit encoder"),
        // No multiple of 4: by way of the host.
        (Call::NewRemoteView, 101, "view of a peer's buffer"),
        (Call::NewBuffer, 101, "staging buffer"),
        (Call::NewCommandBuffer, 101, "command buffer"),
    ] {
        devices[1].faults().fail_all(call, true);
        let error = copy(bytes).expect_err("Metal makes none");
        assert!(error.kind() == ErrorKind::Driver && names(&error, &[words]), "{call:?}: {error}");
        assert!(names(&error, &ADVICE), "{error}");
        devices[1].faults().fail_all(call, false);
    }
    copy(3 << 20).expect("nothing fails any more");
    assert!(blocks[1].content(3 << 20) == vec![7; 3 << 20]);
    drop((line, blocks, metals));
    assert_nothing_is_left();
}
