//! Generated programs on a whole manager, against a naive oracle.
//!
//! The programs come from a fixed seed, so that a run is the same each time. `AQUIFER_PROPERTY_SEED` sets another, and
//! `AQUIFER_PROPERTY_CASES` how many programs each test makes; a failure prints the seed and the shortest program.

#![cfg(any(target_os = "linux", target_os = "macos"))]

use aquifer_backend::Capabilities;
use aquifer_core::{Backend, BucketLayout, ZeroPolicy};
use aquifer_host::Host;
use aquifer_testkit::{Faulty, World, WorldDesc, ops};
use proptest::test_runner::{Config, RngSeed, TestRunner};

const DESC: WorldDesc = WorldDesc {
    layout: BucketLayout::power_of_two(),
    budget_bytes: 1 << 30,
    zero_policy: ZeroPolicy::OnRequest,
    live_max: 24,
};

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value:?} is not a number")))
}

fn host() -> Host {
    Host::new().expect("the system says how much memory it has")
}

/// Runs programs that ask for up to `bytes_max` bytes at once in worlds made by `make` and `desc`.
fn check<B: Backend>(make: impl Fn() -> B, desc: WorldDesc, bytes_max: u64) {
    let seed = variable("AQUIFER_PROPERTY_SEED").unwrap_or(20_240_229);
    let config = Config {
        cases: variable("AQUIFER_PROPERTY_CASES").unwrap_or(48) as u32,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&ops(1..250, bytes_max), |program| {
        let mut world = World::new(make(), desc);
        program.into_iter().for_each(|op| world.apply(op));
        world.finish();
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("with AQUIFER_PROPERTY_SEED={seed}: {failure}");
    }
}

#[test]
fn default_layout() {
    check(host, WorldDesc { layout: BucketLayout::default(), ..DESC }, 8 << 20);
}

#[test]
fn power_of_two_layout() {
    check(host, DESC, 8 << 20);
}

#[test]
fn one_sub_class() {
    check(host, WorldDesc { layout: BucketLayout::with_sub_classes(1).unwrap(), ..DESC }, 4 << 20);
}

#[test]
fn sixty_four_sub_classes() {
    check(host, WorldDesc { layout: BucketLayout::with_sub_classes(64).unwrap(), ..DESC }, 4 << 20);
}

#[test]
fn many_small_buffers() {
    check(host, WorldDesc { layout: BucketLayout::default(), live_max: 200, ..DESC }, 2000);
}

#[test]
fn zeros_by_policy_on_dirty_blocks() {
    let make = || {
        Faulty::with_properties(host(), |properties| properties.capabilities = Capabilities::COMMIT_ON_TOUCH)
    };
    let desc =
        WorldDesc { layout: BucketLayout::default(), zero_policy: ZeroPolicy::OnReuse, live_max: 12, ..DESC };
    check(make, desc, 1 << 19);
}

#[test]
fn purgeable_memory_that_loses_its_content() {
    let make = || {
        Faulty::with_properties(host(), |properties| {
            properties.capabilities = properties.capabilities | Capabilities::PURGEABLE;
        })
    };
    for budget_bytes in [DESC.budget_bytes, 12 << 20] {
        check(make, WorldDesc { layout: BucketLayout::default(), budget_bytes, ..DESC }, 4 << 20);
    }
}

#[test]
fn small_budgets() {
    for budget_bytes in [10_000, 100 << 10, 1 << 20, 6 << 20, (20 << 20) + 12_345] {
        for layout in [BucketLayout::default(), BucketLayout::power_of_two()] {
            check(host, WorldDesc { layout, budget_bytes, ..DESC }, 8 << 20);
        }
    }
}
