//! Buffers, heaps, purgeable memory.

use super::*;
use block2::RcBlock;
use objc2_metal::{MTLCreateSystemDefaultDevice, MTLHazardTrackingMode, MTLPurgeableState, MTLResource};
use std::alloc::Layout;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(super) const CHECKS: [Check; 17] = [
    Check { number: 1, guess: "the default device is one object", run: one_object },
    Check {
        number: 2,
        guess: "a buffer's allocatedSize is its length rounded up to a page",
        run: page_rounding,
    },
    Check {
        number: 3,
        guess: "currentAllocatedSize grows by a buffer's allocatedSize",
        run: current_allocated,
    },
    Check { number: 4, guess: "currentAllocatedSize grows by a heap's size", run: current_allocated_heap },
    Check { number: 5, guess: "a buffer of the device reads as zeros", run: zeroed },
    Check { number: 6, guess: "buffers on heaps need 256 bytes for 1, aligned to 256", run: heap_alignment },
    Check {
        number: 7,
        guess: "currentAllocatedSize counts memory of newBufferWithBytesNoCopy",
        run: no_copy_counts,
    },
    Check {
        number: 8,
        guess: "the deallocator gets the pointer and the length, once, at the last release",
        run: deallocator,
    },
    Check { number: 9, guess: "setPurgeableState: answers the state before", run: purgeable_states },
    Check { number: 10, guess: "memory that was made empty answers empty", run: emptied },
    Check {
        number: 11,
        guess: "memory that was made empty still counts in currentAllocatedSize",
        run: emptied_counts,
    },
    Check { number: 12, guess: "a heap takes purgeable states as a buffer does", run: heap_purgeable },
    Check {
        number: 13,
        guess: "resources are tracked on the device and untracked on heaps",
        run: hazard_defaults,
    },
    Check {
        number: 14,
        guess: "heapOffset is 0 on an automatic heap, and gpuAddress tells the place",
        run: automatic_offset,
    },
    Check { number: 15, guess: "placed buffers lie as far apart as their offsets", run: placed_addresses },
    Check { number: 16, guess: "makeAliasable gives the space of an automatic heap back", run: aliasable },
    Check { number: 17, guess: "a buffer on a heap keeps one reference to it", run: heap_kept },
];

fn one_object(_: &Device) -> Verdict {
    let (one, other) = (MTLCreateSystemDefaultDevice(), MTLCreateSystemDefaultDevice());
    compare(one == other, true)
}

fn page_rounding(device: &Device) -> Verdict {
    let size = |len| buffer(device, len, SHARED).map(|buffer| MTLResource::allocatedSize(&*buffer));
    let page = page_bytes(device);
    compare([size(1), size(page), size(page + 1)], [Some(page), Some(page), Some(2 * page)])
}

fn current_allocated(device: &Device) -> Verdict {
    let before = device.currentAllocatedSize();
    made(buffer(device, 1 << 20, PRIVATE).map(|buffer| {
        let now = device.currentAllocatedSize();
        compare(now.wrapping_sub(before), MTLResource::allocatedSize(&*buffer))
    }))
}

fn current_allocated_heap(device: &Device) -> Verdict {
    let before = device.currentAllocatedSize();
    made(heap(device, 1 << 20, MTLHeapType::Placement).map(|heap| {
        let now = device.currentAllocatedSize();
        compare((now.wrapping_sub(before), heap.currentAllocatedSize()), (1 << 20, 1 << 20))
    }))
}

fn zeroed(device: &Device) -> Verdict {
    made(
        buffer(device, 1 << 20, SHARED)
            .map(|buffer| compare(bytes(&buffer).iter().filter(|byte| **byte != 0).count(), 0)),
    )
}

fn heap_alignment(device: &Device) -> Verdict {
    let need = |len| {
        let need = device.heapBufferSizeAndAlignWithLength_options(len, PRIVATE);
        (need.size, need.align)
    };
    compare([need(1), need(256), need(1000)], [(256, 256), (256, 256), (1024, 256)])
}

/// A buffer over memory of the host, and how often and with how many bytes its deallocator was called.
fn no_copy(device: &Device) -> Option<(Buffer, Arc<[AtomicUsize; 2]>)> {
    let layout = Layout::from_size_align(65536, 16384).ok()?;
    // SAFETY: the layout has a size.
    let memory = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
    let calls: Arc<[AtomicUsize; 2]> = Arc::default();
    let told = Arc::clone(&calls);
    let deallocator = RcBlock::new(move |pointer: NonNull<c_void>, len: usize| {
        told[0].fetch_add(1, Ordering::SeqCst);
        told[1].fetch_add(len, Ordering::SeqCst);
        // SAFETY: the memory has this layout, and its one user is gone.
        unsafe { std::alloc::dealloc(pointer.as_ptr().cast(), layout) };
    });
    // SAFETY: the memory is page-aligned and lives until the deallocator is called.
    let buffer = unsafe {
        device.newBufferWithBytesNoCopy_length_options_deallocator(
            memory.cast(),
            layout.size(),
            SHARED,
            Some(&deallocator),
        )
    };
    Some((buffer?, calls))
}

fn no_copy_counts(device: &Device) -> Verdict {
    let before = device.currentAllocatedSize();
    made(no_copy(device).map(|_buffer| compare(device.currentAllocatedSize().wrapping_sub(before), 65536)))
}

fn deallocator(device: &Device) -> Verdict {
    made(no_copy(device).map(|(buffer, calls)| {
        let counts = || [calls[0].load(Ordering::SeqCst), calls[1].load(Ordering::SeqCst)];
        let before = counts();
        drop(buffer);
        compare((before, counts()), ([0, 0], [1, 65536]))
    }))
}

fn purgeable_states(device: &Device) -> Verdict {
    made(buffer(device, 1 << 16, SHARED).map(|buffer| {
        let states =
            [MTLPurgeableState::KeepCurrent, MTLPurgeableState::Volatile, MTLPurgeableState::KeepCurrent];
        let before = states.map(|state| buffer.setPurgeableState(state));
        compare(
            before,
            [MTLPurgeableState::NonVolatile, MTLPurgeableState::NonVolatile, MTLPurgeableState::Volatile],
        )
    }))
}

fn emptied(device: &Device) -> Verdict {
    made(buffer(device, 1 << 16, SHARED).map(|buffer| {
        buffer.setPurgeableState(MTLPurgeableState::Empty);
        let answers = [MTLPurgeableState::NonVolatile, MTLPurgeableState::KeepCurrent]
            .map(|state| buffer.setPurgeableState(state));
        compare(answers, [MTLPurgeableState::Empty, MTLPurgeableState::NonVolatile])
    }))
}

fn emptied_counts(device: &Device) -> Verdict {
    made(buffer(device, 1 << 20, SHARED).map(|buffer| {
        let before = device.currentAllocatedSize();
        buffer.setPurgeableState(MTLPurgeableState::Empty);
        compare(before.wrapping_sub(device.currentAllocatedSize()), 0)
    }))
}

fn heap_purgeable(device: &Device) -> Verdict {
    made(heap(device, 1 << 20, MTLHeapType::Placement).map(|heap| {
        let states = [MTLPurgeableState::Volatile, MTLPurgeableState::Empty, MTLPurgeableState::NonVolatile];
        let before = states.map(|state| heap.setPurgeableState(state));
        // The system may purge what is volatile at any time.
        let second =
            if before[1] == MTLPurgeableState::Empty { MTLPurgeableState::Volatile } else { before[1] };
        compare(
            [before[0], second, before[2]],
            [MTLPurgeableState::NonVolatile, MTLPurgeableState::Volatile, MTLPurgeableState::Empty],
        )
    }))
}

fn hazard_defaults(device: &Device) -> Verdict {
    let modes = || {
        let heap = heap(device, 1 << 16, MTLHeapType::Automatic)?;
        let on_heap = heap.newBufferWithLength_options(256, PRIVATE)?;
        let own = buffer(device, 256, PRIVATE)?;
        Some([heap.hazardTrackingMode(), on_heap.hazardTrackingMode(), own.hazardTrackingMode()])
    };
    let [untracked, tracked] = [MTLHazardTrackingMode::Untracked, MTLHazardTrackingMode::Tracked];
    made(modes().map(|modes| compare(modes, [untracked, untracked, tracked])))
}

fn automatic_offset(device: &Device) -> Verdict {
    let places = || {
        let heap = heap(device, 1 << 16, MTLHeapType::Automatic)?;
        let (one, two) = (
            heap.newBufferWithLength_options(256, PRIVATE)?,
            heap.newBufferWithLength_options(256, PRIVATE)?,
        );
        Some((one.heapOffset(), two.heapOffset(), one.gpuAddress() != two.gpuAddress()))
    };
    made(places().map(|places| compare(places, (0, 0, true))))
}

fn placed_addresses(device: &Device) -> Verdict {
    let distance = || {
        let heap = heap(device, 1 << 17, MTLHeapType::Placement)?;
        // SAFETY: inside the heap, and aligned to a page.
        let one = unsafe { heap.newBufferWithLength_options_offset(256, PRIVATE, 0) }?;
        // SAFETY: as above.
        let two = unsafe { heap.newBufferWithLength_options_offset(256, PRIVATE, 1 << 16) }?;
        Some((two.gpuAddress() - one.gpuAddress(), two.heapOffset()))
    };
    made(distance().map(|distance| compare(distance, (1 << 16, 1 << 16))))
}

fn aliasable(device: &Device) -> Verdict {
    let used = || {
        let heap = heap(device, 1 << 16, MTLHeapType::Automatic)?;
        let one = heap.newBufferWithLength_options(4096, PRIVATE)?;
        let before = heap.usedSize();
        // SAFETY: nothing uses the buffer.
        unsafe { one.makeAliasable() };
        Some((before, heap.usedSize(), one.isAliasable()))
    };
    made(used().map(|used| compare(used, (4096, 0, true))))
}

fn heap_kept(device: &Device) -> Verdict {
    use objc2::runtime::NSObjectProtocol;
    let counts = || {
        let heap = heap(device, 1 << 16, MTLHeapType::Placement)?;
        let before = heap.retainCount();
        // SAFETY: inside the heap, at its start.
        let one = unsafe { heap.newBufferWithLength_options_offset(256, PRIVATE, 0) }?;
        let with = heap.retainCount();
        drop(one);
        Some((with > before, heap.retainCount() == before))
    };
    made(counts().map(|counts| compare(counts, (true, true))))
}
