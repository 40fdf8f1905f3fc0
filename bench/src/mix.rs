//! The workloads: which sizes are asked for and which live buffer is replaced.
//!
//! Both are drawn before the clock starts, from a small seeded generator, into a table that a batch reads once from
//! front to back. Each repetition draws a new one, so that neither the branch predictor nor an allocator meets the
//! same sequence twice (a table that repeats gives each buffer the same size again on every round).

use std::fmt;

use clap::ValueEnum;

/// Draws in one table: the most pairs that one repetition can time.
pub(crate) const DRAWS_MAX: usize = 1 << 20;

/// A distribution of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mix {
    /// Log-uniform from 256 B to 1 MiB.
    #[value(name = "256B-1MiB")]
    To1MiB,
    /// Log-uniform from 256 B to 32 KiB.
    #[value(name = "256B-32KiB")]
    To32KiB,
    /// 64 KiB, allocated and freed at once.
    #[value(name = "hot-64KiB")]
    Hot,
}

impl Mix {
    pub(crate) const ALL: [Self; 3] = [Self::To1MiB, Self::To32KiB, Self::Hot];

    const HOT_BYTES: u32 = 64 << 10;
    const LEAST_BYTES: f64 = 256.0;

    /// How often the largest size doubles the least; none for a mix of one size.
    fn doublings(self) -> Option<f64> {
        match self {
            Self::To1MiB => Some(12.0),
            Self::To32KiB => Some(7.0),
            Self::Hot => None,
        }
    }

    /// The expected size.
    pub(crate) fn mean_bytes(self) -> f64 {
        match self.doublings() {
            Some(doublings) => {
                Self::LEAST_BYTES * (doublings.exp2() - 1.0) / (doublings * std::f64::consts::LN_2)
            }
            None => f64::from(Self::HOT_BYTES),
        }
    }

    fn draw_bytes(self, random: &mut Random) -> u32 {
        match self.doublings() {
            Some(doublings) => (Self::LEAST_BYTES * (random.unit() * doublings).exp2()) as u32,
            None => Self::HOT_BYTES,
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::To1MiB => "256B-1MiB",
            Self::To32KiB => "256B-32KiB",
            Self::Hot => "hot-64KiB",
        })
    }
}

/// One step: the buffer to replace, and the size of its successor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw {
    pub(crate) slot: u32,
    pub(crate) bytes: u32,
}

/// A source of draws for one thread.
#[derive(Debug)]
pub(crate) struct Draws {
    mix: Mix,
    slots: u32,
    random: Random,
    table: Vec<Draw>,
}

impl Draws {
    pub(crate) fn new(mix: Mix, slots: u32, seed: u64) -> Self {
        Self { mix, slots, random: Random::new(seed), table: Vec::new() }
    }

    /// A new table of `count` draws, in the room of the last one.
    pub(crate) fn draw(&mut self, count: usize) {
        let Self { mix, slots, random, table } = self;
        table.clear();
        table.extend((0..count).map(|_| Draw { slot: random.below(*slots), bytes: mix.draw_bytes(random) }));
    }

    /// The last table.
    pub(crate) fn table(&self) -> &[Draw] {
        &self.table
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in `0..limit`.
    fn below(&mut self, limit: u32) -> u32 {
        (((self.next() >> 32) * u64::from(limit)) >> 32) as u32
    }

    /// Uniform in `0.0..1.0`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_to_the_mix() {
        for (mix, range) in [(Mix::To1MiB, 256..=1 << 20), (Mix::To32KiB, 256..=32 << 10)] {
            let mut draws = Draws::new(mix, 10, 7);
            draws.draw(200_000);
            let table = draws.table();
            assert!(table.iter().all(|draw| range.contains(&draw.bytes) && draw.slot < 10));
            let mean = table.iter().map(|draw| f64::from(draw.bytes)).sum::<f64>() / table.len() as f64;
            assert!((mean / mix.mean_bytes() - 1.0).abs() < 0.02, "{mix}: {mean}");
        }
    }

    #[test]
    fn a_seed_fixes_the_draws_and_a_repetition_does_not_repeat_them() {
        let slots = |draws: &mut Draws| {
            draws.draw(100);
            draws.table().iter().map(|draw| draw.slot).collect::<Vec<_>>()
        };
        let (mut one, mut two) = (Draws::new(Mix::To1MiB, 1000, 3), Draws::new(Mix::To1MiB, 1000, 3));
        let first = slots(&mut one);
        assert_eq!(first, slots(&mut two));
        assert_ne!(first, slots(&mut one));
    }
}
