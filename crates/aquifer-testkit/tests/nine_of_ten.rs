//! After a burst: nine of ten live buffers, chosen at random, are freed, and the manager is trimmed. What is reserved then should be little more than
//! what is live, on three distributions of sizes and lifetimes, and no live buffer may have moved.

use aquifer_core::{Backend, Buffer, Capabilities, Config, MemoryManager, Policy, SyncBackend};
use aquifer_host::Host;
use aquifer_sim::{Sim, SimDesc};
use aquifer_testkit::{Random, assert_balanced, config_with_budget};

/// Sizes and lifetimes.
#[derive(Debug, Clone, Copy)]
enum Distribution {
    /// 256 B to 1 MiB, log-uniform, Pareto(1.1) lifetimes.
    Small,
    /// 4 KiB to 32 MiB, log-uniform, Pareto(1.1) lifetimes.
    Large,
    /// Phases of 256 B to 64 KiB and of 256 KiB to 4 MiB, 1 % long-lived.
    Phases,
}

const SEED: u64 = 9;

impl Distribution {
    fn count(self) -> u64 {
        match self {
            Self::Small | Self::Phases => 40_000,
            Self::Large => 20_000,
        }
    }

    fn bytes(self, random: &mut Random, number: u64) -> u64 {
        let (least, most) = match self {
            Self::Small => (256, 1 << 20),
            Self::Large => (4 << 10, 32 << 20),
            Self::Phases if (number / 5000).is_multiple_of(2) => (256, 64 << 10),
            Self::Phases => (256 << 10, 4 << 20),
        };
        (least as f64 * (most as f64 / least as f64).powf(unit(random))) as u64
    }

    /// After how many more allocations a buffer is freed.
    fn lifetime(self, random: &mut Random) -> u64 {
        match self {
            Self::Small => pareto(random, 150.0),
            Self::Large => pareto(random, 30.0),
            Self::Phases if random.below(100) == 0 => u64::MAX,
            Self::Phases => 1 + random.below(400),
        }
    }
}

/// A number from 0 to 1.
fn unit(random: &mut Random) -> f64 {
    random.below(1 << 32) as f64 / (1_u64 << 32) as f64
}

/// Of a Pareto distribution with exponent 1.1: most are near the least, and some are very long.
fn pareto(random: &mut Random, least: f64) -> u64 {
    (least * unit(random).max(1e-9).powf(-1.0 / 1.1)) as u64
}

/// Reserved over live bytes after the trim.
fn after_a_burst<B: SyncBackend>(manager: &MemoryManager<B>, distribution: Distribution) -> f64 {
    let mut random = Random::new(SEED);
    let mut live: Vec<(u64, Buffer<B>)> = Vec::new();
    for number in 0..distribution.count() {
        if number % 64 == 0 {
            live.retain(|&(dies, _)| dies > number);
        }
        let bytes = distribution.bytes(&mut random, number);
        let dies = number.saturating_add(distribution.lifetime(&mut random));
        live.push((dies, manager.allocate(bytes).expect("there is room")));
    }
    let kept: Vec<_> = live.into_iter().map(|(_, buffer)| buffer).filter(|_| random.below(10) == 0).collect();
    let addresses: Vec<_> = kept.iter().map(Buffer::device_address).collect();
    manager.trim();
    let statistics = manager.statistics();
    assert_balanced(&statistics);
    assert!(kept.iter().map(Buffer::device_address).eq(addresses), "a live buffer has moved");
    // What has been given back serves again.
    let again = manager.allocate(1 << 20).expect("there is room");
    assert_balanced(&manager.statistics());
    drop((again, kept));
    manager.trim();
    assert_eq!(manager.statistics().reserved.current, 0);
    statistics.reserved.current as f64 / statistics.requested.current as f64
}

fn config(policy: Policy) -> Config {
    let mut config = config_with_budget(16 << 30);
    config.policy = policy;
    config
}

const ALL: [Distribution; 3] = [Distribution::Small, Distribution::Large, Distribution::Phases];

/// The host gives memory back in parts as small as its pages.
#[test]
fn the_host_keeps_at_most_half_as_much_again_as_is_live() {
    println!("seed {SEED}");
    let host = || Host::new().expect("the system says how much memory it has");
    let can_be_elastic = host().properties().capabilities.contains(Capabilities::SPARSE_BLOCKS);
    for policy in [Policy::Blocks, Policy::Elastic] {
        if policy == Policy::Elastic && !can_be_elastic {
            println!("skipped: the system maps no memory behind addresses");
            continue;
        }
        for distribution in ALL {
            let manager = MemoryManager::with_config(host(), config(policy)).expect("a budget");
            let ratio = after_a_burst(&manager, distribution);
            assert!(ratio <= 1.5, "{policy:?} {distribution:?}: {ratio}");
        }
    }
}

/// With physical pages of 2 MiB one small live buffer keeps a whole one. The figures are the reference for relocation; the best of
/// other allocators keep 8.9, 1.3 and 4.7 times what is live on like distributions.
#[test]
fn a_device_with_large_pages_keeps_those_that_hold_something() {
    println!("seed {SEED}");
    // In larger pieces, by default, somewhat more is kept.
    for (policy, most) in [(Policy::Elastic, [9.0, 2.5, 3.0]), (Policy::Automatic, [11.0, 3.25, 4.0])] {
        for (distribution, most) in ALL.into_iter().zip(most) {
            let sim = Sim::new(SimDesc::default());
            let manager = MemoryManager::with_config(sim, config(policy)).expect("a budget");
            assert_eq!(manager.config().policy, Policy::Elastic);
            let ratio = after_a_burst(&manager, distribution);
            println!("{policy:?}, {distribution:?}: {ratio:.3}");
            assert!(ratio <= most, "{policy:?}, {distribution:?}: {ratio}");
        }
    }
}
