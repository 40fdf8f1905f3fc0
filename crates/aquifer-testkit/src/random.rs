//! Numbers that look random and come again from the same seed.

/// A source of numbers: Vigna's SplitMix64. Good enough to choose sizes, and a few nanoseconds a number.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The source of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// The next number, from 0 to `end` without `end`.
    ///
    /// # Panics
    ///
    /// If `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "there is no number below 0");
        self.draw() % end
    }

    /// A size from 1 to `bytes_max` bytes, each power of two about as likely as any other.
    ///
    /// # Panics
    ///
    /// If `bytes_max` is 0.
    pub fn size(&mut self, bytes_max: u64) -> u64 {
        let bits = self.below(u64::from(bytes_max.ilog2()) + 1);
        (self.below(1 << bits) + (1 << bits)).min(bytes_max)
    }
}

/// A number that changes in about half of its bits when any bit of `value` does.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let numbers = |seed| {
            let mut random = Random::new(seed);
            [random.draw(), random.below(10), random.size(1 << 20)]
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
    }

    #[test]
    fn sizes_stay_in_their_range() {
        let mut random = Random::new(1);
        let sizes: Vec<u64> = (0..10_000).map(|_| random.size(1000)).collect();
        assert!(sizes.iter().all(|size| (1..=1000).contains(size)));
        assert!(sizes.contains(&1) && sizes.contains(&1000));
    }
}
