//! What the host does with a unified buffer.

use super::super::super::queues::lost;
use super::super::side::Side;
use super::super::uses::Wanted;
use super::{DIRTY_MAX, State, in_units};
use crate::planted;
use crate::range_lock::Access;
use crate::raw::unified::UnifiedMemory;
use aquifer_backend::{Backend, Error};
use std::ops::Range;

impl<B: Backend> State<B> {
    /// Makes a range ready for the host. Blocks until nobody is in the way and the bytes are there. To write, the caller has the buffer
    /// alone.
    pub(in super::super) fn begin_host(
        &mut self,
        memory: &UnifiedMemory<B>,
        operation: &'static str,
        range: &Range<u64>,
        access: Access,
    ) -> Result<(), Error> {
        self.begin(memory)?;
        let range = &in_units(range);
        if !planted::forgets_host_wait() {
            self.wait(memory, &[Wanted::new(Side::Host, range, access)])?;
        }
        self.bring_to_host(memory, operation, range)?;
        self.tell_failure()?;
        if memory.is_zero_copy() {
            return Ok(());
        }
        if access == Access::Write {
            self.host_newer.insert(range);
        }
        while !(if access == Access::Write { self.join() } else { self.device_newer.len() <= DIRTY_MAX }) {
            let Some(smallest) = self.device_newer.smallest() else { break };
            // If that fails there are more ranges, for now.
            if self.bring_to_host(memory, operation, &smallest).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn bring_to_host(
        &mut self,
        memory: &UnifiedMemory<B>,
        operation: &'static str,
        range: &Range<u64>,
    ) -> Result<(), Error> {
        for piece in self.device_newer.within(range) {
            self.wait(memory, &Wanted::by_copy(Side::Host, &piece))?;
            if memory.shared().is_lost() {
                return Err(lost(operation));
            }
            if !planted::forgets_bring_over() {
                memory.copy_now(Side::Host, &piece)?;
            }
            self.device_newer.remove(&piece);
        }
        Ok(())
    }

    /// Blocks until no queue uses the memory and both sides have the same bytes.
    pub(in super::super) fn synchronize(&mut self, memory: &UnifiedMemory<B>) -> Result<(), Error> {
        self.begin(memory)?;
        self.wait_for(memory, |_| true)?;
        if memory.shared().is_lost() {
            return Err(lost("synchronize"));
        }
        self.tell_failure()?;
        self.bring_to_host(memory, "synchronize", &(0..u64::MAX))?;
        for piece in self.host_newer.all() {
            memory.copy_now(Side::Device, &piece)?;
            self.host_newer.remove(&piece);
        }
        Ok(())
    }
}
