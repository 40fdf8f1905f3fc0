//! Ordinary objc2-metal client code (nothing here names the double's classes), run on Linux.
use block2::RcBlock;
use objc2::rc::{autoreleasepool, Retained, Weak};
use objc2::runtime::{AnyObject, NSObject, NSObjectProtocol, ProtocolObject};
use objc2::{class, msg_send, Message};
use objc2_foundation::{NSRange, NSString};
use objc2_metal::*;
use software_metal as soft;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

static ONE: Mutex<()> = Mutex::new(()); // counts are process-wide
struct Alone(MutexGuard<'static, ()>, BTreeMap<String, usize>);
fn alone() -> Alone {
    Alone(ONE.lock().unwrap_or_else(|e| e.into_inner()), soft::live_objects())
}
fn device() -> Retained<ProtocolObject<dyn MTLDevice>> {
    MTLCreateSystemDefaultDevice().expect("a device")
}
/// Every object that the test made is gone (a queue's thread may need a moment).
fn drained(g: &Alone) {
    let _ = &g.0;
    for _ in 0..2000 {
        if soft::live_objects() == g.1 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("still live: {:?}", soft::live_objects());
}

#[test]
fn device_and_buffer() {
    let g = alone();
    autoreleasepool(|_| {
        let d = device();
        assert_eq!(d.name().to_string(), "software Metal device");
        assert!(d.hasUnifiedMemory());
        let b = d.newBufferWithLength_options(1000, MTLResourceOptions::StorageModeShared).unwrap();
        assert_eq!((b.length(), b.retainCount()), (1000, 1));
        unsafe { b.contents().cast::<u64>().write(42) };
        let c = b.clone();
        assert_eq!(b.retainCount(), 2);
        drop(b);
        assert_eq!(unsafe { c.contents().cast::<u64>().read() }, 42);
        c.setLabel(Some(&NSString::from_str("weights")));
        assert_eq!(c.label().unwrap().to_string(), "weights");
        assert_eq!(soft::live_of("SoftMetalBuffer"), 1);
        assert_eq!(d.currentAllocatedSize(), 16384);
        drop(c);
        assert_eq!(soft::live_of("SoftMetalBuffer"), 0);
        assert_eq!(soft::control::allocated(), 0);
    });
    drained(&g);
}

#[test]
fn blit_events_and_handlers() {
    let g = alone();
    let hits = Arc::new(AtomicUsize::new(0));
    autoreleasepool(|_| {
        let d = device();
        let q = d.newCommandQueue().unwrap();
        let a = d.newBufferWithLength_options(4096, MTLResourceOptions::StorageModeShared).unwrap();
        let b = d.newBufferWithLength_options(4096, MTLResourceOptions::StorageModePrivate).unwrap();
        let c = d.newBufferWithLength_options(4096, MTLResourceOptions::StorageModeShared).unwrap();
        unsafe { a.contents().cast::<u8>().as_ptr().write_bytes(7, 4096) };
        let ev = d.newSharedEvent().unwrap();
        let cb = q.commandBuffer().unwrap();
        let blit = cb.blitCommandEncoder().unwrap();
        unsafe {
            blit.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(&a, 0, &b, 0, 4096);
            blit.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(&b, 1, &c, 0, 4000);
        }
        blit.fillBuffer_range_value(&c, NSRange::new(4000, 96), 9);
        blit.endEncoding();
        cb.encodeSignalEvent_value(ProtocolObject::from_ref(&*ev), 5);
        let h = hits.clone();
        let block = RcBlock::new(move |cb: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| {
            assert_eq!(unsafe { cb.as_ref() }.status(), MTLCommandBufferStatus::Completed);
            h.fetch_add(1, SeqCst);
        });
        unsafe { cb.addCompletedHandler(RcBlock::as_ptr(&block)) };
        drop(block); // the command buffer holds its own copy
        drop(b); // retained references: the command buffer keeps it alive
        cb.commit();
        assert!(ev.waitUntilSignaledValue_timeoutMS(5, 5000));
        cb.waitUntilCompleted();
        assert_eq!(cb.status(), MTLCommandBufferStatus::Completed);
        let out = unsafe { std::slice::from_raw_parts(c.contents().cast::<u8>().as_ptr(), 4096) };
        assert!(out[..4000].iter().all(|x| *x == 7) && out[4000..].iter().all(|x| *x == 9));
    });
    assert_eq!(hits.load(SeqCst), 1);
    drained(&g);
    assert_eq!(soft::live_blocks(), 0);
    assert_eq!(Arc::strong_count(&hits), 1);
}

#[test]
fn heaps_residency_purgeable_no_copy() {
    let g = alone();
    let freed = Arc::new(AtomicUsize::new(0));
    autoreleasepool(|_| {
        let d = device();
        let hd = MTLHeapDescriptor::new();
        hd.setSize(1 << 16);
        hd.setStorageMode(MTLStorageMode::Shared);
        let heap = d.newHeapWithDescriptor(&hd).unwrap();
        let x = heap.newBufferWithLength_options(1000, MTLResourceOptions::StorageModeShared).unwrap();
        let y = heap.newBufferWithLength_options(1000, MTLResourceOptions::StorageModeShared).unwrap();
        assert_eq!((x.heapOffset(), y.heapOffset(), heap.usedSize()), (0, 1024, 2048));
        drop(x);
        let z = heap.newBufferWithLength_options(100, MTLResourceOptions::StorageModeShared).unwrap();
        assert_eq!(z.heapOffset(), 0); // the hole is reused
        assert!(heap.newBufferWithLength_options(1 << 20, MTLResourceOptions::StorageModeShared).is_none());
        hd.setType(MTLHeapType::Placement);
        let ph = d.newHeapWithDescriptor(&hd).unwrap();
        let p1 = unsafe { ph.newBufferWithLength_options_offset(4096, MTLResourceOptions::StorageModeShared, 4096) }.unwrap();
        assert_eq!(p1.heapOffset(), 4096);
        assert!(p1.heap().is_some());

        let rs = d.newResidencySetWithDescriptor_error(&MTLResidencySetDescriptor::new()).unwrap();
        rs.addAllocation(ProtocolObject::from_ref(&*heap));
        rs.addAllocation(ProtocolObject::from_ref(&*p1));
        rs.commit();
        rs.requestResidency();
        assert_eq!(rs.allocationCount(), 2);
        rs.removeAllocation(ProtocolObject::from_ref(&*p1));
        assert_eq!(rs.allocationCount(), 1);

        let b = d.newBufferWithLength_options(64, MTLResourceOptions::StorageModeShared).unwrap();
        assert_eq!(b.setPurgeableState(MTLPurgeableState::Volatile), MTLPurgeableState::NonVolatile);
        assert_eq!(b.setPurgeableState(MTLPurgeableState::KeepCurrent), MTLPurgeableState::Volatile);

        let l = std::alloc::Layout::from_size_align(16384, 16384).unwrap();
        let mem = NonNull::new(unsafe { std::alloc::alloc_zeroed(l) }).unwrap();
        let f = freed.clone();
        let free = RcBlock::new(move |p: NonNull<std::ffi::c_void>, n: usize| {
            f.fetch_add(n, SeqCst);
            unsafe { std::alloc::dealloc(p.as_ptr().cast(), l) };
        });
        let nc = unsafe {
            d.newBufferWithBytesNoCopy_length_options_deallocator(mem.cast(), 16384, MTLResourceOptions::empty(), Some(&free))
        }
        .unwrap();
        assert_eq!(nc.contents(), mem.cast());
        assert_eq!(freed.load(SeqCst), 0);
        drop(nc);
        assert_eq!(freed.load(SeqCst), 16384);
    });
    drained(&g);
    assert_eq!((soft::live_blocks(), soft::control::allocated()), (0, 0));
}

#[test]
fn out_of_memory_is_nil() {
    let g = alone();
    autoreleasepool(|_| {
        let d = device();
        soft::control::set_memory_limit(1 << 20);
        assert!(d.newBufferWithLength_options(2 << 20, MTLResourceOptions::empty()).is_none());
        soft::control::set_memory_limit(usize::MAX);
    });
    drained(&g);
}

#[test]
fn weak_references() {
    let g = alone();
    autoreleasepool(|_| {
        let o = NSObject::new();
        let w = Weak::from_retained(&o);
        assert!(w.load().is_some());
        assert_eq!(o.retainCount(), 1);
        drop(o);
        assert!(w.load().is_none());
    });
    drained(&g);
}

fn caught(f: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let e = std::panic::catch_unwind(f).expect_err("must panic");
    e.downcast_ref::<String>().cloned().or(e.downcast_ref::<&str>().map(|s| s.to_string())).unwrap()
}

#[test]
fn misuse_is_caught() {
    let _g = alone();
    // unknown selector: debug builds see it in objc2's own check, release builds in the runtime
    let m = caught(|| {
        let d = device();
        let _: () = unsafe { msg_send![&*d, fooBar] };
    });
    println!("1 {m}");
    assert!(m.contains("fooBar"));
    // wrong argument type in a hand-written message: objc2's debug-mode signature check
    #[cfg(debug_assertions)]
    {
        let m = caught(|| {
            let d = device();
            let _: *mut AnyObject = unsafe { msg_send![&*d, newBufferWithLength: 5i32, options: 0usize] };
        });
        println!("2 {m}");
        assert!(m.contains("expected argument at index 0"));
    }
    // message to a dead object
    let m = caught(|| {
        let o = NSObject::new();
        let p = Retained::as_ptr(&o);
        drop(o);
        let _: usize = unsafe { msg_send![p, hash] };
    });
    println!("3 {m}");
    // over-release
    let m = caught(|| {
        let o = NSObject::new();
        let p = Retained::into_raw(o);
        drop(unsafe { Retained::from_raw(p) });
        drop(unsafe { Retained::from_raw(p) });
    });
    println!("4 {m}");
    // a method of the protocol that the double lacks
    let m = caught(|| {
        let d = device();
        let _ = d.peerGroupID();
    });
    println!("5 {m}");
    // commit with an open encoder
    let m = caught(|| {
        autoreleasepool(|_| {
            let q = device().newCommandQueue().unwrap();
            let cb = q.commandBuffer().unwrap();
            let _e = cb.blitCommandEncoder().unwrap();
            cb.commit();
        })
    });
    println!("6 {m}");
    assert!(m.contains("open encoder"));
    // a blit outside its buffer
    let m = caught(|| {
        autoreleasepool(|_| {
            let d = device();
            let b = d.newBufferWithLength_options(64, MTLResourceOptions::empty()).unwrap();
            let cb = d.newCommandQueue().unwrap().commandBuffer().unwrap();
            cb.blitCommandEncoder().unwrap().fillBuffer_range_value(&b, NSRange::new(60, 5), 0);
        })
    });
    println!("7 {m}");
    assert!(m.contains("outside a buffer of 64"));
    println!("live after misuse: {:?}", soft::live_objects());
}

#[test]
fn unretained_references_find_a_freed_buffer() {
    let g = alone();
    autoreleasepool(|_| {
        let d = device();
        let q = d.newCommandQueue().unwrap();
        let gate = d.newSharedEvent().unwrap();
        let a = d.newBufferWithLength_options(64, MTLResourceOptions::empty()).unwrap();
        let cb = q.commandBufferWithUnretainedReferences().unwrap();
        cb.encodeWaitForEvent_value(ProtocolObject::from_ref(&*gate), 1);
        let e = cb.blitCommandEncoder().unwrap();
        e.fillBuffer_range_value(&a, NSRange::new(0, 64), 1);
        e.endEncoding();
        cb.commit();
        drop(a); // too early: the GPU has not run yet
        gate.setSignaledValue(1);
        cb.waitUntilCompleted();
        assert_eq!(cb.status(), MTLCommandBufferStatus::Error);
        println!("{}", cb.error().unwrap().localizedDescription());
    });
    drained(&g);
}

#[test]
fn pool_less_autorelease_is_counted() {
    let _g = alone();
    let before = soft::poolless_autoreleases();
    std::thread::spawn(|| {
        let q = device().newCommandQueue().unwrap();
        let _cb = q.commandBuffer().unwrap(); // autoreleased, no pool on this thread
    })
    .join()
    .unwrap();
    assert_eq!(soft::poolless_autoreleases(), before + 1);
    println!("leaked: {:?}", soft::live_objects());
}

#[test]
fn classes() {
    let _g = alone();
    assert_eq!(class!(NSString).name(), c"NSString");
    autoreleasepool(|_| {
        let s = NSString::from_str("a");
        assert!(s.isKindOfClass(class!(NSObject)));
        assert_eq!(s, NSString::from_str("a"));
        let any: &AnyObject = s.as_ref();
        assert!(any.downcast_ref::<NSString>().is_some());
        let _ = s.retain();
    });
}
