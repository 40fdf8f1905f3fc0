//! Numbers that look random and come again from the same seed.

/// A source of numbers: Vigna's SplitMix64. The testkit has the same one, but this crate may not depend on it.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Whether something happens that does so `per_mille` times in a thousand.
    pub(crate) fn hits(&mut self, per_mille: u32) -> bool {
        self.draw() % 1000 < u64::from(per_mille)
    }

    /// A number from 1 to `max`, each power of two about as likely as any other; 0 if `max` is 0.
    pub(crate) fn up_to(&mut self, max: u64) -> u64 {
        let Some(bits_max) = max.checked_ilog2() else { return 0 };
        let power = 1 << (self.draw() % (u64::from(bits_max) + 1));
        (power + self.draw() % power).min(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_again_and_stay_in_their_range() {
        let numbers = |seed| {
            let mut random = Random::new(seed);
            (0..1000).map(|_| random.up_to(1000)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(1), numbers(1));
        assert_ne!(numbers(1), numbers(2));
        assert!(numbers(3).iter().all(|number| (1..=1000).contains(number)));
        assert_eq!(Random::new(4).up_to(0), 0);
        assert!(Random::new(5).up_to(u64::MAX) > 0);
        let mut random = Random::new(6);
        let hits = (0..10_000).filter(|_| random.hits(100)).count();
        assert!((500..2000).contains(&hits), "{hits}");
        assert!(!random.hits(0) && random.hits(1000));
    }
}
