//! Allocating, freeing, and what blocks on it.

use super::program::Action;
use super::scene::Scene;
use aquifer_core::{Error, ErrorKind};

impl Scene {
    pub(super) fn use_memory(&mut self, action: Action) {
        match action {
            Action::Allocate { queue, bytes, alignment_log2, tag, is_zeroed } => {
                self.allocate(queue, bytes, alignment_log2, (tag, is_zeroed));
            }
            Action::Free { buffer } => {
                if let Some(place) = self.buffer(buffer) {
                    self.buffers.swap_remove(place).free(&self.sim);
                }
            }
            Action::FreeMany { buffer, count } => {
                for _ in 0..count {
                    let Some(place) = self.buffer(buffer) else { break };
                    self.buffers.swap_remove(place).free(&self.sim);
                }
            }
            Action::Preallocate { bytes, count } => self.preallocate(bytes, count.into()),
            Action::HostFill { buffer } => self.host_fill(buffer),
            Action::HostCopy { from, to } => self.host_copy(from, to),
            Action::Trim => self.give_back(|scene| scene.manager.trim()),
            Action::TrimTo { mib } => self.give_back(|scene| scene.manager.trim_to(u64::from(mib) << 20)),
            Action::ReleaseIdle => self.give_back(|scene| scene.manager.release_idle()),
            Action::MarkIdlePurgeable => self.mark_idle_purgeable(),
            _ => unreachable!("not about memory: {action:?}"),
        }
    }

    fn allocate(&mut self, queue: u8, bytes: u64, alignment_log2: u8, (tag, is_zeroed): (u8, bool)) {
        let options = self.options(alignment_log2, tag, is_zeroed);
        let alignment = 1 << alignment_log2.min(self.setup.granularity_log2);
        let home = self.home(queue);
        let answer = match &home {
            Some(queue) => queue.allocate_with(bytes, options),
            None => self.manager.allocate_with(bytes, options),
        };
        match answer {
            Ok(buffer) => self.hold(buffer, home.map(|queue| queue.raw().id()), bytes, alignment),
            Err(error) => self.check_refusal(bytes, &error),
        }
    }

    /// The block that a request alone would need, in bytes.
    fn block_bytes(&self, bytes: u64) -> u64 {
        let rounded = self.manager.config().layout.round_up(bytes).expect("a size that was generated");
        rounded.next_multiple_of(1 << self.setup.granularity_log2)
    }

    /// The bytes that must be unreserved for a request to be served for certain.
    fn room_bytes(&self, bytes: u64) -> u64 {
        self.block_bytes(bytes).next_multiple_of(self.setup.page_bytes())
    }

    pub(super) fn check_can_never_fit(&self, bytes: u64, error: &Error) {
        assert!(self.block_bytes(bytes) > self.budget_bytes(), "can fit: {bytes} bytes: {error}");
    }

    fn check_refusal(&mut self, bytes: u64, error: &Error) {
        match error.kind() {
            ErrorKind::OutOfMemory => {
                let report = error.out_of_memory().expect("every such error has a report");
                let parts =
                    report.live_bytes + report.cached_bytes + report.quarantined_bytes + report.free_bytes;
                assert_eq!(parts, report.reserved_bytes, "{error}");
                assert_eq!(report.requested_bytes, bytes);
                self.probe(bytes, error);
            }
            ErrorKind::CanNeverFit => self.check_can_never_fit(bytes, error),
            _ => self.check_error("allocate", error),
        }
    }

    /// Sees whether a refusal was needless: when all that was freed has been passed and given back, is there room?
    fn probe(&mut self, bytes: u64, error: &Error) {
        let is_plain = !self.has_faults && !self.has_pressure && self.hung.is_empty() && !self.may_be_lost;
        if !is_plain || !self.waits_long() || self.loose_count > 0 || !self.step.is_multiple_of(3) {
            return;
        }
        self.sim.run_all();
        self.manager.settle();
        self.manager.trim();
        let reserved = self.manager.statistics().reserved.current;
        let room = self.budget_bytes().saturating_sub(reserved);
        let needed = self.room_bytes(bytes);
        assert!(
            room < needed,
            "needless refusal: {needed} bytes needed, {room} unreserved after trimming: {error}"
        );
    }

    /// What is ready is there, and what was refused has left nothing.
    fn preallocate(&mut self, bytes: u64, count: u64) {
        let before = self.check();
        let rounded = self.manager.config().layout.round_up(bytes).expect("a size that was generated");
        match self.manager.pool().preallocate(bytes, count) {
            Ok(created) => {
                let after = self.check();
                assert!(
                    after.cached_bytes >= rounded * count,
                    "{count} buffers of {bytes} bytes are not ready"
                );
                assert!(created <= after.reserved.total - before.reserved.total);
            }
            Err(error) => {
                let after = self.check();
                let is_kept = self.has_faults || self.may_be_lost;
                assert!(is_kept || after.reserved.current <= before.reserved.current, "left behind: {error}");
                match error.kind() {
                    ErrorKind::OutOfMemory => {
                        let report = error.out_of_memory().expect("every such error has a report");
                        assert_eq!(report.requested_bytes, bytes * count);
                    }
                    ErrorKind::CanNeverFit => {
                        assert!(
                            rounded * count > self.budget_bytes()
                                || self.block_bytes(bytes) > self.budget_bytes()
                        );
                    }
                    _ => self.check_error("preallocate", &error),
                }
            }
        }
    }

    fn give_back(&mut self, call: impl FnOnce(&Self) -> u64) {
        let held = || {
            let books = self.sim.books();
            books.live_bytes + books.purged_bytes
        };
        let before = held();
        let given = call(self);
        // Parts that were taken back and not touched since are nothing that the device gets.
        let may_return_parts = self.may_return_parts();
        assert!(before - held() == given || may_return_parts && before - held() <= given, "bytes given back");
    }

    fn mark_idle_purgeable(&self) {
        let before = self.sim.books();
        let marked = self.manager.mark_idle_purgeable();
        let after = self.sim.books();
        assert_eq!(after.purgeable_bytes - before.purgeable_bytes, marked, "bytes made purgeable");
        assert_eq!(after.live_blocks, before.live_blocks, "none is made or destroyed");
    }

    fn host_fill(&mut self, buffer: u16) {
        let Some(place) = self.buffer(buffer).filter(|_| !self.is_blocked()) else { return };
        match self.buffers[place].buffer.fill(7) {
            Ok(()) => self.sim.host_access(self.buffers[place].access()),
            Err(error) => self.check_error("fill", &error),
        }
    }

    fn host_copy(&mut self, from: u16, to: u16) {
        let (Some(from), Some(to)) = (self.buffer(from), self.buffer(to)) else { return };
        if from == to || self.is_blocked() {
            return;
        }
        let [source, destination] =
            self.buffers.get_disjoint_mut([from, to]).expect("two places in the list");
        let bytes = source.buffer.size_bytes().min(destination.buffer.size_bytes());
        match destination.buffer.copy_from(0, &source.buffer, 0, bytes) {
            Ok(()) => {
                self.sim.host_access(source.access());
                self.sim.host_access(destination.access());
            }
            Err(error) => self.check_error("copy", &error),
        }
    }
}
