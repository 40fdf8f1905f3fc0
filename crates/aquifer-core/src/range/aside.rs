//! Blocks that are set aside: out of all free memory, and still reserved. The caller keeps them, and decides what becomes
//! of each.

use super::{BlockIndex, IdleBlock, Ranges};

impl Ranges {
    /// Takes an idle block out, so that nothing finds room in it. It stays reserved.
    ///
    /// # Panics
    ///
    /// If the block is not idle for everybody: work of a queue could still use it.
    pub(crate) fn set_aside(&mut self, block: BlockIndex) {
        let bytes = self.remove_block(block).expect("only an idle block is set aside");
        self.reserved_bytes += bytes;
        self.aside_bytes += bytes;
        self.aside_count += 1;
    }

    /// Forgets a block that was set aside: it is not reserved any more.
    pub(crate) fn forget_aside(&mut self, idle: &IdleBlock) {
        self.reserved_bytes -= idle.reserved_bytes;
        self.aside_bytes -= idle.reserved_bytes;
        self.aside_count -= 1;
    }

    /// Takes a block back in that was set aside, idle for as long as it has been.
    pub(crate) fn restore_aside(&mut self, idle: IdleBlock) {
        self.forget_aside(&idle);
        self.restore_block(idle);
    }

    /// Bytes of the blocks that are set aside; [`Ranges::reserved_bytes`] counts them too.
    pub(crate) fn aside_bytes(&self) -> u64 {
        self.aside_bytes
    }
}
