//! Random programs with a tree of sub-budgets and a driver that fails, against a naive oracle; and many threads against limits.
//!
//! The programs come from a fixed seed, so that a run is the same each time. `AQUIFER_PROPERTY_SEED` sets another; a failure prints the
//! seed and the shortest program.

#![cfg(any(target_os = "linux", target_os = "macos"))]

mod common;

use aquifer_core::{Buffer, Error, ErrorKind, Limits, MemoryManager, MemoryOptions, SubBudget};
use aquifer_host::Host;
use aquifer_testkit::{FaultMode, Faults, Faulty, assert_balanced};
use common::{MIB, counted_manager, host_manager};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use std::sync::atomic::{AtomicU64, Ordering};

const BUDGET: u64 = 48 * MIB;

#[derive(Debug, Clone)]
enum Op {
    /// Below the one of that number, modulo how many there are; or below none.
    Make(Option<usize>, Limits),
    SetLimits(usize, Limits),
    Allocate(usize, u64, How),
    Free(usize),
    /// Fails a driver's call, so many from now, once or for ever.
    Fail(u64, bool),
    Heal,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Plain,
    Zeroed,
    Aligned,
    Pinned,
    /// Not in a sub-budget.
    Outside,
}

fn limits() -> impl Strategy<Value = Limits> {
    let hard_and_soft = |most: u64| (option::of(0..most), option::of(0..100_u64));
    (hard_and_soft(24 * MIB), hard_and_soft(12)).prop_map(
        |((hard_bytes, soft_share), (hard_count, share))| {
            let mut limits = Limits::NONE;
            limits.hard_bytes = hard_bytes;
            limits.soft_bytes = soft_share.map(|share| hard_bytes.unwrap_or(16 * MIB) * share / 100);
            limits.hard_count = hard_count;
            limits.soft_count = share.map(|share| hard_count.unwrap_or(9) * share / 100);
            limits
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let how = prop_oneof![
        6 => Just(How::Plain),
        1 => Just(How::Zeroed),
        1 => Just(How::Aligned),
        1 => Just(How::Pinned),
        1 => Just(How::Outside),
    ];
    let bytes = prop_oneof![1..2000_u64, 1..3 * MIB, 1..26 * MIB];
    prop_oneof![
        2 => (option::of(any::<usize>()), limits()).prop_map(|(parent, limits)| Op::Make(parent, limits)),
        1 => (any::<usize>(), limits()).prop_map(|(which, limits)| Op::SetLimits(which, limits)),
        12 => (any::<usize>(), bytes, how).prop_map(|(which, bytes, how)| Op::Allocate(which, bytes, how)),
        8 => any::<usize>().prop_map(Op::Free),
        1 => (0..4_u64, any::<bool>()).prop_map(|(call, for_ever)| Op::Fail(call, for_ever)),
        1 => Just(Op::Heal),
    ]
}

/// What the oracle knows of one sub-budget.
#[derive(Debug, Default)]
struct Scope {
    parent: Option<usize>,
    limits: Limits,
    live_bytes: u64,
    live_count: u64,
    peak: (u64, u64),
    soft_exceeded: u64,
    refused: u64,
}

impl Scope {
    fn has_room(&self, live: (u64, u64), bytes: u64) -> bool {
        self.limits.hard_bytes.is_none_or(|hard| live.0 + bytes <= hard)
            && self.limits.hard_count.is_none_or(|hard| live.1 < hard)
    }

    fn is_above_soft(&self) -> bool {
        self.limits.soft_bytes.is_some_and(|soft| self.live_bytes > soft)
            || self.limits.soft_count.is_some_and(|soft| self.live_count > soft)
    }

    /// Does something, and notes if that brings it above a soft limit.
    fn change(&mut self, change: impl FnOnce(&mut Self)) {
        let was_above = self.is_above_soft();
        change(self);
        self.soft_exceeded += u64::from(!was_above && self.is_above_soft());
    }
}

struct Program {
    manager: MemoryManager<Faulty<Host>>,
    faults: Faults,
    handles: Vec<SubBudget>,
    scopes: Vec<Scope>,
    buffers: Vec<(Option<usize>, Buffer<Faulty<Host>>)>,
}

impl Program {
    fn new() -> Self {
        let (manager, faults) = counted_manager(BUDGET);
        Self { manager, faults, handles: Vec::new(), scopes: Vec::new(), buffers: Vec::new() }
    }

    /// A sub-budget and those above it.
    fn levels(&self, innermost: usize) -> Vec<usize> {
        std::iter::successors(Some(innermost), |&level| self.scopes[level].parent).collect()
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Make(parent, limits) => self.make(parent, limits),
            Op::SetLimits(which, limits) if !self.scopes.is_empty() => {
                let which = which % self.scopes.len();
                self.handles[which].set_limits(limits).expect("sound limits");
                self.scopes[which].change(|scope| scope.limits = limits);
            }
            Op::Allocate(which, bytes, how) if !self.scopes.is_empty() => {
                self.allocate(which % self.scopes.len(), bytes, how);
            }
            Op::Free(which) if !self.buffers.is_empty() => {
                let (scope, buffer) = self.buffers.swap_remove(which % self.buffers.len());
                for level in scope.map_or(Vec::new(), |scope| self.levels(scope)) {
                    self.scopes[level].live_bytes -= buffer.size_bytes();
                    self.scopes[level].live_count -= 1;
                }
            }
            Op::Fail(call, for_ever) => {
                let mode = if for_ever { FaultMode::FromThenOn } else { FaultMode::Once };
                self.faults.fail(call, mode, ErrorKind::OutOfMemory);
            }
            Op::Heal => self.faults.stop(),
            Op::SetLimits(..) | Op::Allocate(..) | Op::Free(_) => {}
        }
        self.check();
    }

    fn make(&mut self, parent: Option<usize>, limits: Limits) {
        let parent = parent.and_then(|parent| parent.checked_rem(self.scopes.len()));
        let name = self.scopes.len().to_string();
        let made = match parent {
            Some(parent) => self.handles[parent].sub_budget(&name, limits),
            None => self.manager.sub_budget(&name, limits),
        };
        let depth = parent.map_or(0, |parent| self.levels(parent).len());
        assert_eq!(made.is_ok(), depth < 8, "{made:?}");
        if let Ok(handle) = made {
            self.handles.push(handle);
            self.scopes.push(Scope { parent, limits, ..Scope::default() });
        }
    }

    fn allocate(&mut self, which: usize, bytes: u64, how: How) {
        let tag = self.handles[which].own_tag();
        let options = match how {
            How::Plain => MemoryOptions::DEFAULT.tag(tag),
            How::Zeroed => MemoryOptions::ZEROED.tag(tag),
            How::Aligned => MemoryOptions::DEFAULT.alignment(4096).tag(tag),
            How::Pinned => MemoryOptions::PINNED.tag(tag),
            How::Outside => MemoryOptions::DEFAULT,
        };
        let is_charged = !matches!(how, How::Outside);
        let expected = if is_charged { self.expected_refusal(which, bytes) } else { None };
        match (self.manager.allocate_with(bytes, options), expected) {
            (Ok(buffer), None) => {
                self.buffers.push((is_charged.then_some(which), buffer));
                for level in if is_charged { self.levels(which) } else { Vec::new() } {
                    self.scopes[level].change(|scope| {
                        scope.live_bytes += bytes;
                        scope.live_count += 1;
                        scope.peak = (scope.peak.0.max(scope.live_bytes), scope.peak.1.max(scope.live_count));
                    });
                }
            }
            (Err(error), Some((refuser, kind))) => {
                assert_eq!(error.kind(), kind, "{error}");
                assert!(error.message().contains(&format!("{:?}", self.handles[refuser].path())), "{error}");
                self.scopes[refuser].refused += 1;
            }
            (Err(error), None) => self.explain(&error),
            (Ok(_), Some(refusal)) => panic!("{refusal:?} expected"),
        }
    }

    fn expected_refusal(&self, which: usize, bytes: u64) -> Option<(usize, ErrorKind)> {
        let levels = self.levels(which);
        let refuser = |live: fn(&Scope) -> (u64, u64)| {
            levels.iter().copied().find(|&level| {
                let scope = &self.scopes[level];
                !scope.has_room(live(scope), bytes)
            })
        };
        let never = refuser(|_| (0, 0)).map(|level| (level, ErrorKind::CanNeverFit));
        let now = || refuser(|scope| (scope.live_bytes, scope.live_count));
        never.or_else(|| now().map(|level| (level, ErrorKind::LimitReached)))
    }

    /// An allocation that its sub-budgets have room for fails only if the manager or the driver has none.
    fn explain(&self, error: &Error) {
        let is_short = self.manager.statistics().allocated.current > BUDGET / 3;
        let kind = error.kind();
        assert!(matches!(kind, ErrorKind::OutOfMemory | ErrorKind::Driver), "{error}");
        assert!(is_short || self.faults.failed_count() > 0, "{error}");
    }

    fn check(&self) {
        for (handle, scope) in self.handles.iter().zip(&self.scopes) {
            let usage = handle.usage();
            let found = (usage.live_bytes, usage.live_count, (usage.peak_bytes, usage.peak_count));
            assert_eq!(found, (scope.live_bytes, scope.live_count, scope.peak), "{}", handle.path());
            assert_eq!(
                (usage.soft_exceeded_count, usage.refused_count),
                (scope.soft_exceeded, scope.refused)
            );
            assert_eq!(usage.limits, scope.limits);
        }
    }

    fn finish(mut self) {
        self.faults.stop();
        self.buffers.clear();
        assert!(self.handles.iter().all(|handle| handle.usage().live_count == 0));
        assert!(self.handles.iter().all(|handle| handle.usage().live_bytes == 0));
        assert_balanced(&self.manager.statistics());
    }
}

#[test]
fn random_programs_agree_with_the_oracle() {
    let seed =
        std::env::var("AQUIFER_PROPERTY_SEED").map_or(20_240_229, |seed| seed.parse().expect("a number"));
    let config =
        Config { cases: 48, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&vec(op(), 1..150), |ops| {
        let mut program = Program::new();
        ops.into_iter().for_each(|op| program.apply(op));
        program.finish();
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("with AQUIFER_PROPERTY_SEED={seed}: {failure}");
    }
}

/// Threads that allocate in three sub-budgets of one: what they hold at any moment, counted by themselves, is within the limits.
#[test]
fn threads_never_exceed_hard_limits_of_a_manager() {
    let manager = host_manager(256 * MIB);
    let (hard_bytes, hard_count) = (4 * MIB, 40);
    let limits = Limits::NONE.hard_bytes(hard_bytes).hard_count(hard_count).soft_bytes(3 * MIB);
    let outer = manager.sub_budget("outer", limits).expect("a new name");
    let inner = ["a", "b", "c"].map(|name| outer.sub_budget(name, Limits::NONE.hard_bytes(2 * MIB)));
    let inner = inner.map(|made| made.expect("a new name"));
    let (held_bytes, held_count, refused) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for seed in 1..=8_u64 {
            let (manager, inner) = (&manager, &inner);
            let (held_bytes, held_count, refused) = (&held_bytes, &held_count, &refused);
            scope.spawn(move || {
                let (mut random, mut held) = (seed, Vec::new());
                let free = |buffer: Buffer<Host>| {
                    held_bytes.fetch_sub(buffer.size_bytes(), Ordering::Relaxed);
                    held_count.fetch_sub(1, Ordering::Relaxed);
                };
                for _ in 0..3000 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let bytes = (random >> 33) % (400 << 10) + 1;
                    let options = MemoryOptions::DEFAULT.tag(inner[(random >> 60) as usize % 3].own_tag());
                    if held.len() == 8 || random >> 32 & 1 == 0 {
                        held.pop().into_iter().for_each(free);
                        continue;
                    }
                    match manager.allocate_with(bytes, options) {
                        Ok(buffer) => {
                            let bytes = held_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
                            let count = held_count.fetch_add(1, Ordering::Relaxed) + 1;
                            assert!(bytes <= hard_bytes && count <= hard_count, "{bytes} in {count}");
                            held.push(buffer);
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                held.into_iter().for_each(free);
            });
        }
    });
    let usage = outer.usage();
    assert_eq!((usage.live_bytes, usage.live_count), (0, 0));
    assert!(usage.peak_bytes <= hard_bytes && usage.peak_count <= hard_count, "{usage:?}");
    let counted: u64 = [&outer].into_iter().chain(&inner).map(|one| one.usage().refused_count).sum();
    assert_eq!(counted, refused.load(Ordering::Relaxed));
    let all = inner.map(|one| manager.allocate_with(2 * MIB, MemoryOptions::DEFAULT.tag(one.own_tag())));
    assert_eq!(all.iter().filter(|answer| answer.is_ok()).count(), 2, "refunds are complete, and no more");
}
