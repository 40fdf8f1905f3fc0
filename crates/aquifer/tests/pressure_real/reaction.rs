//! How long it takes from the kernel's event until idle memory is back with the kernel.

use crate::child::{Child, await_line, do_part, say};
use crate::common::skipped;
use crate::groups::{Group, Hog, LONG, run_if_child};
use crate::kernel::Listener;
use crate::{MIB, from_environment, one_at_a_time, spread};
use aquifer::pressure::{
    CgroupV1NoticeSource, PressureOptions, PsiOptions, PsiRule, PsiSource, PsiStall, system_sources,
};
use aquifer::{HostMemoryManager, PressureDetail, PressureLevel, PressureMonitor, PressureSource};
use std::time::{Duration, Instant};

const LIMIT_BYTES: u64 = 128 * MIB;
/// What the manager keeps and nobody uses, when memory becomes short: with the other process less than any threshold.
const IDLE_BYTES: u64 = 64 * MIB;
/// From the event on.
const REACTION_MAX: Duration = Duration::from_secs(1);
/// How often a run is begun anew because memory went before it was short here: stalls elsewhere are the machine's too.
const TRIES: u32 = 20;
/// The share of 2 s for which tasks must wait for memory, in percent.
const STALL_PERCENT: u32 = 1;
/// How long is waited for the kernel to tell of pressure that there is.
const EVENT_MAX: Duration = Duration::from_secs(15);

fn stalls() -> PsiOptions {
    let rule = PsiRule { stall: PsiStall::Some, percent: STALL_PERCENT, level: PressureLevel::Moderate };
    PsiOptions { rules: vec![rule], ..PsiOptions::default() }
}

/// What the child watches.
fn sources(part: &str) -> Vec<Box<dyn PressureSource>> {
    let options = PressureOptions::default();
    match part {
        "all" => system_sources(&options).into_all(),
        "notices" => vec![Box::new(CgroupV1NoticeSource::new(&options).unwrap())],
        file => vec![Box::new(PsiSource::new(file, stalls()).unwrap())],
    }
}

/// What the child does: it keeps idle memory, and watches. Then it says who told it first that memory is short.
fn keep_idle_memory(part: &str) {
    let manager = HostMemoryManager::builder().build().unwrap();
    let monitor = PressureMonitor::new(&manager, sources(part)).unwrap();
    let buffers: Vec<_> = (0..IDLE_BYTES / MIB)
        .map(|_| {
            let mut buffer = manager.allocate(MIB).unwrap();
            buffer.fill(1).unwrap();
            buffer
        })
        .collect();
    drop(buffers);
    say("idle");
    await_line();
    let history = manager.statistics().pressure.history;
    let rose = history.iter().find(|event| matches!(event.detail, PressureDetail::Rose { .. }));
    say(rose.map_or("nobody".into(), |event| event.source.to_string()));
    drop(monitor);
}

/// One run.
struct Reaction {
    /// From the kernel's event,
    after_event: Duration,
    /// and from when the other process began, which is before the event: no less than any reaction can be.
    after_start: Duration,
    source: String,
}

/// `None` if memory went before it was short.
fn react(test: &str, part: &str) -> Result<Option<Reaction>, String> {
    let group = Group::version_1()?;
    std::fs::write(group.file("memory.limit_in_bytes"), LIMIT_BYTES.to_string()).unwrap();
    let stalled = (part == "stalls").then(Group::version_2).transpose()?;
    let groups: Vec<_> = [&group].into_iter().chain(&stalled).collect();
    let (part, listener) = match &stalled {
        Some(stalled) => {
            let file = stalled.file("memory.pressure");
            (file.to_str().unwrap().to_owned(), Listener::to_stalls(&file, STALL_PERCENT)?)
        }
        None => (part.to_owned(), Listener::to_notices(&group)?),
    };
    let mut child = Child::start(test, &part, &groups)?;
    assert_eq!(child.hear(), "idle");
    let idle_resident_bytes = child.resident_bytes();
    if idle_resident_bytes < IDLE_BYTES {
        return Ok(None);
    }
    let start = Instant::now();
    let _hog = Hog::start(test, &groups)?;
    let (mut event_at, mut returned_at) = (None, None);
    while event_at.is_none() || returned_at.is_none() {
        assert!(start.elapsed() < LONG, "event after {event_at:?}, memory back after {returned_at:?}");
        if event_at.is_none() && start.elapsed() > EVENT_MAX {
            // The listener is the test's own: this is the machine's doing.
            return Err("the kernel tells of no pressure here, though it takes memory back".into());
        }
        let patience = Duration::from_millis(2);
        if event_at.is_some() {
            std::thread::sleep(patience);
        } else if listener.has_news(patience) {
            event_at = Some(start.elapsed());
        }
        // A tenth for what is not idle: lists, other threads' stacks.
        if returned_at.is_none() && child.resident_bytes() < idle_resident_bytes - IDLE_BYTES / 10 * 9 {
            returned_at = Some(start.elapsed());
        }
    }
    let (event_at, after_start) = (event_at.unwrap(), returned_at.unwrap());
    child.tell("who?");
    let source = child.hear();
    assert!(child.wait().success());
    Ok(Some(Reaction { after_event: after_start.saturating_sub(event_at), after_start, source }))
}

/// Runs, says what was measured, and checks who told.
fn measure(test: &str, part: &str, runs_by_default: u64, is_expected: impl Fn(&str) -> bool) {
    let _turn = one_at_a_time();
    let runs = from_environment("AQUIFER_TEST_RUNS", runs_by_default);
    let (mut after_event, mut after_start, mut tries) = (Vec::new(), Vec::new(), 0);
    while (after_event.len() as u64) < runs {
        match react(test, part) {
            Ok(Some(reaction)) => {
                assert!(is_expected(&reaction.source), "told by {}", reaction.source);
                assert!(reaction.after_event < REACTION_MAX, "{:?}", reaction.after_event);
                after_event.push(reaction.after_event);
                after_start.push(reaction.after_start);
                tries = 0;
            }
            Ok(None) if tries == TRIES => return skipped("memory is short elsewhere on this machine"),
            Ok(None) => tries += 1,
            Err(why) => return skipped(why),
        }
    }
    println!("{part}, from the event: {}", spread(after_event));
    println!("{part}, from the start of the other process: {}", spread(after_start));
}

#[test]
fn to_notices_of_its_group() {
    run_if_child();
    do_part(keep_idle_memory);
    let is_notice = |source: &str| source.starts_with("cgroup v1 notices ");
    measure("reaction::to_notices_of_its_group", "notices", 3, is_notice);
}

#[test]
fn to_stalls_of_its_group() {
    run_if_child();
    do_part(keep_idle_memory);
    measure("reaction::to_stalls_of_its_group", "stalls", 1, |source| source.starts_with("psi some "));
}

#[test]
fn to_whatever_is_first_of_all() {
    run_if_child();
    do_part(keep_idle_memory);
    measure("reaction::to_whatever_is_first_of_all", "all", 3, |source| source != "nobody");
}
