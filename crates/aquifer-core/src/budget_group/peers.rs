//! The other members of a group, as this process sees them: their files, kept open, and what it remembers of their waiting.

use super::directory::{self, Directory, FileId, OpenedPeer};
use super::record::{GroupRecord, MemberRecord};
use super::rules::{self, LinePlace, SENIORITY_UNSEEN, Standing};
use aquifer_backend::Error;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// How often a record is read again that makes no sense: it may be being written.
const READ_ATTEMPTS: u32 = 8;

#[derive(Debug)]
struct Peer {
    /// `None` if this user may not read it.
    file: Option<File>,
    /// The record's last sequence number.
    sequence: u64,
    /// The want that was seen last.
    want: Option<Want>,
    leased_bytes: u64,
}

/// What this process has seen of another's want.
#[derive(Debug, Clone, Copy)]
struct Want {
    since_ns: u64,
    first_seen_ns: u64,
    /// Since when all that it wants was free whenever this process looked.
    there_since_ns: Option<u64>,
}

/// What one member's record says, for people.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) process: u32,
    pub(super) standing: Standing,
}

/// This process's own file, which is never opened again.
#[derive(Debug)]
pub(super) struct OwnFile {
    pub(super) name: CString,
    pub(super) id: FileId,
}

#[derive(Debug, Default)]
pub(super) struct Peers(BTreeMap<CString, Peer>);

/// A number for a name, the same in all processes.
pub(super) fn tie_breaker(name: &CStr) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl Peers {
    /// Reads what all other members say now. A record that makes no sense counts as its owner's whole quota, as do all numbers
    /// above that: it is no more than the owner could take rightly.
    pub(super) fn look(
        &mut self,
        operation: &'static str,
        directory: &Directory,
        own: &OwnFile,
        own_bytes: u64,
        group: &GroupRecord,
    ) -> Result<Vec<Seen>, Error> {
        self.find(operation, directory, own)?;
        let now_ns = directory::monotonic_ns();
        let mut seen: Vec<Seen> = self
            .0
            .iter_mut()
            .map(|(name, peer)| Seen {
                process: directory::process_of(name).unwrap_or(0),
                standing: peer.read(name, group.quota_bytes, now_ns),
            })
            .collect();
        let standings: Vec<Standing> = seen.iter().map(|seen| seen.standing).collect();
        let free_bytes = rules::free_bytes(group.budget_bytes, own_bytes, &standings);
        for (peer, Seen { standing, .. }) in self.0.values_mut().zip(&mut seen) {
            standing.is_in_force = peer.is_in_force(standing.wanted_bytes <= free_bytes, now_ns);
        }
        Ok(seen)
    }

    /// Opens the files of new members, and forgets those that have gone. One whose file was removed while it lives still counts.
    fn find(&mut self, operation: &'static str, directory: &Directory, own: &OwnFile) -> Result<(), Error> {
        let mut names = directory.members(operation)?;
        names.sort_unstable();
        self.0.retain(|name, peer| {
            names.binary_search(name).is_ok()
                || peer.file.as_ref().is_some_and(|file| !directory::is_dead(file))
        });
        for name in names {
            if name == own.name || self.0.contains_key(&name) {
                continue;
            }
            let file = match directory.open_peer(operation, &name, Some(own.id))? {
                OpenedPeer::File(file) => Some(file),
                OpenedPeer::Unreadable => None,
                OpenedPeer::None => continue,
            };
            self.0.insert(name, Peer { file, sequence: 0, want: None, leased_bytes: 0 });
        }
        Ok(())
    }

    /// Removes the files of members whose processes have ended. True if there were any, so that their leases are free now.
    pub(super) fn remove_dead(&mut self, directory: &Directory) -> bool {
        let count = self.0.len();
        self.0.retain(|name, peer| {
            !peer.file.as_ref().is_some_and(|file| directory.remove_of_dead(name, file))
        });
        self.0.len() < count
    }
}

impl Peer {
    fn read(&mut self, name: &CStr, quota_bytes: u64, now_ns: u64) -> Standing {
        let Some(record) = self.read_record() else {
            self.want = None;
            return Standing {
                announced_bytes: quota_bytes,
                leased_bytes: quota_bytes,
                ..Standing::default()
            };
        };
        let leased_bytes = record.leased_bytes.min(quota_bytes);
        // An honest one never announces less than it has.
        let announced_bytes = record.announced_bytes.max(leased_bytes).min(quota_bytes);
        let wanted_bytes =
            leased_bytes.saturating_add(record.wanted_bytes).min(quota_bytes).saturating_sub(announced_bytes);
        let has_grown = leased_bytes > std::mem::replace(&mut self.leased_bytes, leased_bytes);
        let since_ns = record.wanted_since_ns;
        let place = if record.wanted_bytes == 0 {
            self.want = None;
            LinePlace::default()
        } else {
            // Who has been given something, or says otherwise than before how long it has waited, waits anew.
            let known = self.want.filter(|want| want.since_ns == since_ns && !has_grown);
            let want = known.unwrap_or(Want { since_ns, first_seen_ns: now_ns, there_since_ns: None });
            self.want = Some(want);
            let earliest_ns = want.first_seen_ns.saturating_sub(SENIORITY_UNSEEN.as_nanos() as u64);
            LinePlace {
                believed_since_ns: since_ns.max(earliest_ns),
                since_ns,
                tie_breaker: tie_breaker(name),
            }
        };
        Standing { announced_bytes, leased_bytes, wanted_bytes, place, is_in_force: false }
    }

    /// `None` for one that makes no sense, or is older than one that was read before.
    fn read_record(&mut self) -> Option<MemberRecord> {
        let file = self.file.as_ref()?;
        for attempt in 0..READ_ATTEMPTS {
            if attempt > 0 {
                std::thread::yield_now();
            }
            let record = directory::read_record(file).and_then(|bytes| MemberRecord::decode(&bytes));
            if let Some(record) = record.filter(|record| record.sequence >= self.sequence) {
                self.sequence = record.sequence;
                return Some(record);
            }
        }
        None
    }

    fn is_in_force(&mut self, are_bytes_there: bool, now_ns: u64) -> bool {
        let Some(want) = &mut self.want else { return false };
        want.there_since_ns = are_bytes_there.then(|| want.there_since_ns.unwrap_or(now_ns));
        let since = |then_ns: u64| Duration::from_nanos(now_ns.saturating_sub(then_ns));
        rules::is_in_force(want.there_since_ns.map(since), since(want.since_ns))
    }
}
