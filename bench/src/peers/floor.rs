//! The floor: one fixed-size stack of free handles per size class and thread, and nothing else.
//!
//! An allocation pops, a free pushes. A stack that is empty makes a new handle, one that is full forgets it, so the
//! floor manages no memory at all: it is the least that a per-thread cache in front of an allocator can cost.

use std::cell::Cell;

use super::Peer;

/// Four classes per doubling, for sizes up to 16 MiB.
const CLASSES: usize = 4 * 24;
/// Handles in a stack.
const DEPTH: usize = 256;

struct Stack {
    length: Cell<usize>,
    handles: [Cell<u32>; DEPTH],
}

thread_local! {
    static STACKS: [Stack; CLASSES] = const {
        [const { Stack { length: Cell::new(0), handles: [const { Cell::new(0) }; DEPTH] } }; CLASSES]
    };
}

/// A handle and its size class.
pub(crate) struct Cached {
    class: u32,
    handle: u32,
}

#[derive(Clone)]
pub(crate) struct Floor;

impl Peer for Floor {
    type Handle = Cached;

    #[inline]
    fn allocate(&mut self, bytes: u64) -> Option<Cached> {
        let class = class(bytes);
        let handle = STACKS.with(|stacks| {
            let stack = &stacks[class as usize];
            match stack.length.get() {
                0 => u32::MAX,
                length => {
                    stack.length.set(length - 1);
                    stack.handles[length - 1].get()
                }
            }
        });
        Some(Cached { class, handle })
    }

    #[inline]
    fn free(&mut self, Cached { class, handle }: Cached) {
        STACKS.with(|stacks| {
            let stack = &stacks[class as usize];
            let length = stack.length.get();
            if length < DEPTH {
                stack.handles[length].set(handle);
                stack.length.set(length + 1);
            }
        });
    }
}

/// The class of a size, by its highest bit and the two below it.
#[inline]
fn class(bytes: u64) -> u32 {
    let top = (bytes | 4).ilog2();
    4 * (top - 2) + ((bytes >> (top - 2)) & 3) as u32
}
