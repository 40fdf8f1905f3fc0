//! After a burst: nine of ten live buffers, chosen at random, are freed, and the manager is trimmed. What is reserved then should be little more than
//! what is live, on three distributions of sizes and lifetimes, and no live buffer may have moved.

use aquifer_core::{Backend, Buffer, Capabilities, Config, MemoryManager, Policy, SyncBackend};
use aquifer_host::Host;
use aquifer_sim::{Sim, SimDesc};
use aquifer_testkit::{Random, assert_balanced};

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
    let mut kept = Vec::new();
    for (_, buffer) in live {
        if random.below(10) == 0 {
            kept.push((buffer.device_address(), buffer));
        }
    }
    manager.trim();
    let statistics = manager.statistics();
    assert_balanced(&statistics);
    assert!(kept.iter().all(|(address, buffer)| *address == buffer.device_address()), "a buffer has moved");
    statistics.reserved.current as f64 / statistics.requested.current as f64
}

fn config(policy: Policy) -> Config {
    let mut config = Config::default();
    config.budget_bytes = Some(16 << 30);
    config.policy = policy;
    config
}

const ALL: [Distribution; 3] = [Distribution::Small, Distribution::Large, Distribution::Phases];

#[test]
fn the_host_keeps_little_more_than_is_live() {
    println!("seed {SEED}");
    let host = Host::new().expect("the system says how much memory it has");
    let can_be_elastic = host.properties().capabilities.contains(Capabilities::SPARSE_BLOCKS);
    let policies: &[Policy] =
        if can_be_elastic { &[Policy::Blocks, Policy::Elastic] } else { &[Policy::Blocks] };
    for &policy in policies {
        for distribution in ALL {
            let manager =
                MemoryManager::with_config(Host::new().expect("as above"), config(policy)).expect("a budget");
            let ratio = after_a_burst(&manager, distribution);
            println!("{policy:?} {distribution:?} {ratio}");
        }
    }
}

#[test]
fn a_device_with_large_pages() {
    for distribution in ALL {
        let manager = MemoryManager::with_config(Sim::new(SimDesc::default()), config(Policy::Automatic))
            .expect("a budget");
        let ratio = after_a_burst(&manager, distribution);
        println!("sim {distribution:?} {ratio}");
    }
}
