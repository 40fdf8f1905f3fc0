//! What the files of a group hold: one record of a fixed size each, with a checksum, so that one that is torn, cut short or
//! garbled is recognised. Numbers only; nothing here touches a file.

/// The size of both kinds of record.
pub(super) const RECORD_BYTES: usize = 64;

const GROUP_MAGIC: u64 = u64::from_le_bytes(*b"AQUIFERG");
const MEMBER_MAGIC: u64 = u64::from_le_bytes(*b"AQUIFERM");
/// Changes with the meaning of what the files hold, and of the rules by which members read them.
pub(super) const VERSION: u64 = 1;

const WORDS: usize = RECORD_BYTES / 8;
const CHECKED_WORDS: usize = WORDS - 1;

/// What a group is, in its own file. Never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupRecord {
    pub(super) version: u64,
    pub(super) budget_bytes: u64,
    pub(super) quota_bytes: u64,
}

/// What a member says of itself, in the file that only it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct MemberRecord {
    /// Rises with each write.
    pub(super) sequence: u64,
    /// The most that it may have, if the claim that it is just making is granted; else the same as `leased_bytes`.
    pub(super) announced_bytes: u64,
    /// Its lease: what it may have reserved.
    pub(super) leased_bytes: u64,
    /// How many bytes more it waits for; 0 if it does not wait.
    pub(super) wanted_bytes: u64,
    /// Since when, by the machine's monotonic clock.
    pub(super) wanted_since_ns: u64,
}

impl GroupRecord {
    pub(super) fn encode(&self) -> [u8; RECORD_BYTES] {
        encode([GROUP_MAGIC, self.version, self.budget_bytes, self.quota_bytes, 0, 0, 0])
    }

    /// `None` for anything but what [`GroupRecord::encode`] has made. The version is the caller's matter.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let [GROUP_MAGIC, version, budget_bytes, quota_bytes, ..] = decode(bytes)? else { return None };
        Some(Self { version, budget_bytes, quota_bytes })
    }
}

impl MemberRecord {
    pub(super) fn encode(&self) -> [u8; RECORD_BYTES] {
        encode([
            MEMBER_MAGIC,
            self.sequence,
            self.announced_bytes,
            self.leased_bytes,
            self.wanted_bytes,
            self.wanted_since_ns,
            0,
        ])
    }

    /// `None` for anything but what [`MemberRecord::encode`] has made.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let words = decode(bytes)?;
        let [MEMBER_MAGIC, sequence, announced_bytes, leased_bytes, wanted_bytes, wanted_since_ns, _] = words
        else {
            return None;
        };
        Some(Self { sequence, announced_bytes, leased_bytes, wanted_bytes, wanted_since_ns })
    }
}

fn encode(words: [u64; CHECKED_WORDS]) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words.iter().chain([&checksum(&words)])) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<[u64; CHECKED_WORDS]> {
    let bytes: &[u8; RECORD_BYTES] = bytes.try_into().ok()?;
    let (words, []) = bytes.as_chunks::<8>() else { return None };
    let (checked, [found]) = words.split_at(CHECKED_WORDS) else { return None };
    let checked: [[u8; 8]; CHECKED_WORDS] = checked.try_into().ok()?;
    let checked = checked.map(u64::from_le_bytes);
    (checksum(&checked) == u64::from_le_bytes(*found)).then_some(checked)
}

/// Mixes every bit of every word into every bit of the sum (the finaliser of MurmurHash3, word by word). Not a secret: it finds
/// accidents and clumsiness; who forges a record well is counted as at most its quota.
fn checksum(words: &[u64; CHECKED_WORDS]) -> u64 {
    words.iter().fold(0x9e37_79b9_7f4a_7c15, |sum, word| {
        let mut mixed = sum ^ *word;
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        (mixed ^ (mixed >> 33)).wrapping_add(0x9e37_79b9_7f4a_7c15)
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MEMBER: MemberRecord = MemberRecord {
        sequence: 7,
        announced_bytes: 600,
        leased_bytes: 500,
        wanted_bytes: 100,
        wanted_since_ns: 12_345,
    };

    #[test]
    fn records_are_not_mistaken_for_each_other() {
        let group = GroupRecord { version: VERSION, budget_bytes: 1 << 30, quota_bytes: 1 << 29 };
        assert_eq!(GroupRecord::decode(&group.encode()), Some(group));
        assert_eq!(MemberRecord::decode(&MEMBER.encode()), Some(MEMBER));
        assert_eq!(MemberRecord::decode(&group.encode()), None);
        assert_eq!(GroupRecord::decode(&MEMBER.encode()), None);
        assert_eq!(MemberRecord::decode(&[0; RECORD_BYTES]), None);
        assert_eq!(MemberRecord::decode(&MEMBER.encode()[..63]), None);
        assert_eq!(MemberRecord::decode(&[]), None);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        for bit in 0..RECORD_BYTES * 8 {
            let mut bytes = MEMBER.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(MemberRecord::decode(&bytes), None, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn a_record_torn_between_two_writes_is_found(
            old in any::<[u64; 5]>(), new in any::<[u64; 5]>(), cut in 0..=RECORD_BYTES,
        ) {
            let record = |[sequence, announced_bytes, leased_bytes, wanted_bytes, wanted_since_ns]: [u64; 5]|
                MemberRecord { sequence, announced_bytes, leased_bytes, wanted_bytes, wanted_since_ns };
            let (old, new) = (record(old), record(new));
            let mut torn = old.encode();
            torn[..cut].copy_from_slice(&new.encode()[..cut]);
            if let Some(read) = MemberRecord::decode(&torn) {
                prop_assert!(read == old || read == new);
            }
        }

        #[test]
        fn noise_is_no_record(noise in proptest::collection::vec(any::<u8>(), 0..2 * RECORD_BYTES)) {
            prop_assert_eq!(MemberRecord::decode(&noise), None);
            prop_assert_eq!(GroupRecord::decode(&noise), None);
        }
    }
}
