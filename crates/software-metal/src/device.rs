//! The Metal classes.
use crate::control::{ALLOCATED, LIMIT};
use crate::exec::{Cmd, Event, Job, Lane};
use crate::foundation::{self as f, Error, Str};
use block2::{DynBlock, RcBlock};
use objc2::rc::{Allocated, Retained};
use objc2::runtime::{AnyObject, NSObject, NSObjectProtocol, ProtocolObject};
use objc2::{define_class, msg_send, AllocAnyThread, ClassType, DefinedClass, Message};
use objc2_foundation::{NSError, NSRange, NSString};
use objc2_metal::*;
use std::alloc::{alloc_zeroed, dealloc, Layout};
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

type Proto<T> = ProtocolObject<T>;
const PAGE: usize = 16384;

/// `this` must be an object of class `T`: a foreign or dead object in a message is a client's error.
fn down<T: ClassType, P: ?Sized>(p: &P) -> &T {
    let o = unsafe { &*(p as *const P as *const AnyObject) };
    assert!(o.class() == T::class(), "expected a {}, got a {}", T::class(), o.class());
    unsafe { &*(p as *const P as *const T) }
}
fn as_ns(s: Retained<Str>) -> Retained<NSString> {
    unsafe { Retained::cast_unchecked(s) }
}
fn as_err(e: Retained<Error>) -> Retained<NSError> {
    unsafe { Retained::cast_unchecked(e) }
}
macro_rules! soft_new {
    ($t:ty, $iv:expr) => {{
        let this = <$t>::alloc().set_ivars($iv);
        let r: Retained<$t> = unsafe { msg_send![super(this), init] };
        r
    }};
}

// ---- memory ----
type Free = RcBlock<dyn Fn(NonNull<c_void>, usize)>;
enum Mem {
    Owned(*mut u8, Layout),
    Foreign(*mut u8, Option<Free>),
    InHeap(Retained<Heap>, usize),
}
fn host_alloc(n: usize) -> Option<(*mut u8, Layout)> {
    let l = Layout::from_size_align(n.next_multiple_of(PAGE), PAGE).ok()?;
    if ALLOCATED.load(SeqCst).checked_add(l.size())? > LIMIT.load(SeqCst) {
        return None;
    }
    let p = unsafe { alloc_zeroed(l) };
    if p.is_null() {
        return None;
    }
    ALLOCATED.fetch_add(l.size(), SeqCst);
    Some((p, l))
}
fn host_free(p: *mut u8, l: Layout) {
    unsafe {
        p.write_bytes(0xdd, l.size());
        dealloc(p, l)
    };
    ALLOCATED.fetch_sub(l.size(), SeqCst);
}

pub struct BufIvars {
    dev: Retained<Device>,
    mem: Mem,
    len: usize,
    opts: MTLResourceOptions,
    label: RefCell<Option<Retained<NSString>>>,
    purge: Cell<MTLPurgeableState>,
    aliasable: Cell<bool>,
}
impl Drop for BufIvars {
    fn drop(&mut self) {
        match &self.mem {
            Mem::Owned(p, l) => host_free(*p, *l),
            Mem::Foreign(p, Some(f)) => f.call((NonNull::new(*p as *mut c_void).unwrap(), self.len)),
            Mem::Foreign(_, None) => {}
            Mem::InHeap(h, off) => h.give_back(*off),
        }
    }
}
define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftMetalBuffer"]
    #[ivars = BufIvars]
    pub struct Buffer;

    unsafe impl NSObjectProtocol for Buffer {}
    unsafe impl MTLAllocation for Buffer {
        #[unsafe(method(allocatedSize))]
        fn allocated_size(&self) -> usize {
            match &self.ivars().mem {
                Mem::Owned(_, l) => l.size(),
                _ => self.ivars().len,
            }
        }
    }
    unsafe impl MTLResource for Buffer {
        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().label.borrow().clone()
        }
        #[unsafe(method(setLabel:))]
        fn set_label(&self, s: Option<&NSString>) {
            *self.ivars().label.borrow_mut() = s.map(|s| s.retain());
        }
        #[unsafe(method_id(device))]
        fn device(&self) -> Retained<Proto<dyn MTLDevice>> {
            Proto::from_retained(self.ivars().dev.clone())
        }
        #[unsafe(method(storageMode))]
        fn storage_mode(&self) -> MTLStorageMode {
            mode(self.ivars().opts)
        }
        #[unsafe(method(resourceOptions))]
        fn resource_options(&self) -> MTLResourceOptions {
            self.ivars().opts
        }
        #[unsafe(method(setPurgeableState:))]
        fn set_purgeable(&self, s: MTLPurgeableState) -> MTLPurgeableState {
            let old = self.ivars().purge.get();
            if s == MTLPurgeableState::Empty {
                unsafe { self.ptr().write_bytes(0xdb, self.ivars().len) }
            }
            if s != MTLPurgeableState::KeepCurrent {
                self.ivars().purge.set(s);
            }
            old
        }
        #[unsafe(method_id(heap))]
        fn heap(&self) -> Option<Retained<Proto<dyn MTLHeap>>> {
            match &self.ivars().mem {
                Mem::InHeap(h, _) => Some(Proto::from_retained(h.clone())),
                _ => None,
            }
        }
        #[unsafe(method(heapOffset))]
        fn heap_offset(&self) -> usize {
            match &self.ivars().mem {
                Mem::InHeap(_, o) => *o,
                _ => 0,
            }
        }
        #[unsafe(method(makeAliasable))]
        fn make_aliasable(&self) {
            self.ivars().aliasable.set(true);
            if let Mem::InHeap(h, o) = &self.ivars().mem {
                h.give_back(*o)
            }
        }
        #[unsafe(method(isAliasable))]
        fn is_aliasable(&self) -> bool {
            self.ivars().aliasable.get()
        }
    }
    unsafe impl MTLBuffer for Buffer {
        #[unsafe(method(length))]
        fn length(&self) -> usize {
            self.ivars().len
        }
        #[unsafe(method(contents))]
        fn contents(&self) -> *mut c_void {
            assert!(mode(self.ivars().opts) != MTLStorageMode::Private, "contents of a private buffer");
            self.ptr() as *mut c_void
        }
        #[unsafe(method(gpuAddress))]
        fn gpu_address(&self) -> u64 {
            self.ptr() as u64
        }
    }
);
fn mode(o: MTLResourceOptions) -> MTLStorageMode {
    MTLStorageMode((o.0 >> 4) & 0xf)
}
impl Buffer {
    fn new(dev: &Device, mem: Mem, len: usize, opts: MTLResourceOptions) -> Retained<Self> {
        soft_new!(Buffer, BufIvars {
            dev: dev.retain(),
            mem,
            len,
            opts,
            label: RefCell::default(),
            purge: Cell::new(MTLPurgeableState::NonVolatile),
            aliasable: Cell::new(false),
        })
    }
    fn ptr(&self) -> *mut u8 {
        match &self.ivars().mem {
            Mem::Owned(p, _) | Mem::Foreign(p, _) => *p,
            Mem::InHeap(h, o) => unsafe { h.ivars().base.0.add(*o) },
        }
    }
    fn range(&self, off: usize, n: usize) -> *mut u8 {
        let len = self.ivars().len;
        assert!(off.checked_add(n).is_some_and(|e| e <= len), "blit range {off}+{n} outside a buffer of {len}");
        unsafe { self.ptr().add(off) }
    }
}

// ---- heap ----
pub struct HeapIvars {
    dev: Retained<Device>,
    base: (*mut u8, Layout),
    size: usize,
    kind: MTLHeapType,
    opts: MTLResourceOptions,
    used: RefCell<Vec<(usize, usize)>>,
}
impl Drop for HeapIvars {
    fn drop(&mut self) {
        host_free(self.base.0, self.base.1)
    }
}
define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftMetalHeap"]
    #[ivars = HeapIvars]
    pub struct Heap;

    unsafe impl NSObjectProtocol for Heap {}
    unsafe impl MTLAllocation for Heap {
        #[unsafe(method(allocatedSize))]
        fn allocated_size(&self) -> usize {
            self.ivars().base.1.size()
        }
    }
    unsafe impl MTLHeap for Heap {
        #[unsafe(method(size))]
        fn size(&self) -> usize {
            self.ivars().size
        }
        #[unsafe(method(usedSize))]
        fn used_size(&self) -> usize {
            self.ivars().used.borrow().iter().map(|u| u.1).sum()
        }
        #[unsafe(method(currentAllocatedSize))]
        fn current(&self) -> usize {
            self.ivars().base.1.size()
        }
        #[unsafe(method(type))]
        fn kind(&self) -> MTLHeapType {
            self.ivars().kind
        }
        #[unsafe(method(maxAvailableSizeWithAlignment:))]
        fn max_available(&self, align: usize) -> usize {
            self.gaps(align.max(1)).map(|(_, n)| n).max().unwrap_or(0)
        }
        #[unsafe(method_id(newBufferWithLength:options:))]
        fn new_buffer(&self, len: usize, opts: MTLResourceOptions) -> Option<Retained<Proto<dyn MTLBuffer>>> {
            assert!(self.ivars().kind != MTLHeapType::Placement, "a placement heap needs an offset");
            let need = len.next_multiple_of(256);
            self.gaps(256).find(|(_, n)| *n >= need).and_then(|(off, _)| self.place(off, need, len, opts))
        }
        #[unsafe(method_id(newBufferWithLength:options:offset:))]
        fn new_buffer_at(&self, len: usize, opts: MTLResourceOptions, off: usize) -> Option<Retained<Proto<dyn MTLBuffer>>> {
            assert!(self.ivars().kind == MTLHeapType::Placement, "an offset needs a placement heap");
            self.place(off, len, len, opts)
        }
    }
);
impl Heap {
    fn gaps(&self, align: usize) -> impl Iterator<Item = (usize, usize)> {
        let mut u = self.ivars().used.borrow().clone();
        u.sort();
        u.push((self.ivars().size, 0));
        let mut at = 0usize;
        u.into_iter().filter_map(move |(o, n)| {
            let s = at.next_multiple_of(align);
            let gap = o.checked_sub(s);
            at = at.max(o + n);
            gap.map(|g| (s, g))
        })
    }
    fn place(&self, off: usize, need: usize, len: usize, opts: MTLResourceOptions) -> Option<Retained<Proto<dyn MTLBuffer>>> {
        if off + need > self.ivars().size {
            return None;
        }
        assert!(mode(opts) == mode(self.ivars().opts), "buffer's storage mode differs from its heap's");
        self.ivars().used.borrow_mut().push((off, need));
        let b = Buffer::new(&self.ivars().dev, Mem::InHeap(self.retain(), off), len, opts);
        Some(Proto::from_retained(b))
    }
    fn give_back(&self, off: usize) {
        let mut u = self.ivars().used.borrow_mut();
        if let Some(i) = u.iter().position(|x| x.0 == off) {
            u.swap_remove(i);
        }
    }
}

// ---- descriptors: concrete classes that clients make with +new ----
pub struct HeapDesc {
    size: Cell<usize>,
    kind: Cell<MTLHeapType>,
    mode: Cell<MTLStorageMode>,
}
define_class!(
    #[unsafe(super(NSObject))]
    #[name = "MTLHeapDescriptor"]
    #[ivars = HeapDesc]
    pub struct SoftHeapDescriptor;

    impl SoftHeapDescriptor {
        #[unsafe(method_id(init))]
        fn init(this: Allocated<Self>) -> Option<Retained<Self>> {
            let d = HeapDesc {
                size: Cell::new(0),
                kind: Cell::new(MTLHeapType::Automatic),
                mode: Cell::new(MTLStorageMode::Private),
            };
            unsafe { msg_send![super(this.set_ivars(d)), init] }
        }
        #[unsafe(method(size))]
        fn size(&self) -> usize {
            self.ivars().size.get()
        }
        #[unsafe(method(setSize:))]
        fn set_size(&self, n: usize) {
            self.ivars().size.set(n)
        }
        #[unsafe(method(type))]
        fn kind(&self) -> MTLHeapType {
            self.ivars().kind.get()
        }
        #[unsafe(method(setType:))]
        fn set_kind(&self, k: MTLHeapType) {
            self.ivars().kind.set(k)
        }
        #[unsafe(method(storageMode))]
        fn storage(&self) -> MTLStorageMode {
            self.ivars().mode.get()
        }
        #[unsafe(method(setStorageMode:))]
        fn set_storage(&self, m: MTLStorageMode) {
            self.ivars().mode.set(m)
        }
    }
);
define_class!(
    #[unsafe(super(NSObject))]
    #[name = "MTLResidencySetDescriptor"]
    pub struct SoftResidencyDescriptor;
    impl SoftResidencyDescriptor {
        #[unsafe(method(setInitialCapacity:))]
        fn set_capacity(&self, _n: usize) {}
    }
);

// ---- residency set ----
#[derive(Default)]
pub struct Residency {
    pending: RefCell<Vec<Retained<Proto<dyn MTLAllocation>>>>,
    committed: Cell<usize>,
}
define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftMetalResidencySet"]
    #[ivars = Residency]
    pub struct ResidencySet;
    unsafe impl NSObjectProtocol for ResidencySet {}
    unsafe impl MTLResidencySet for ResidencySet {
        #[unsafe(method(addAllocation:))]
        fn add(&self, a: &Proto<dyn MTLAllocation>) {
            self.ivars().pending.borrow_mut().push(a.retain())
        }
        #[unsafe(method(removeAllocation:))]
        fn remove(&self, a: &Proto<dyn MTLAllocation>) {
            self.ivars().pending.borrow_mut().retain(|x| !std::ptr::eq(&**x, a))
        }
        #[unsafe(method(containsAllocation:))]
        fn contains(&self, a: &Proto<dyn MTLAllocation>) -> bool {
            self.ivars().pending.borrow().iter().any(|x| std::ptr::eq(&**x, a))
        }
        #[unsafe(method(commit))]
        fn commit(&self) {
            self.ivars().committed.set(self.ivars().pending.borrow().iter().map(|a| a.allocatedSize()).sum())
        }
        #[unsafe(method(allocatedSize))]
        fn allocated(&self) -> u64 {
            self.ivars().committed.get() as u64
        }
        #[unsafe(method(allocationCount))]
        fn count(&self) -> usize {
            self.ivars().pending.borrow().len()
        }
        #[unsafe(method(requestResidency))]
        fn request(&self) {}
        #[unsafe(method(endResidency))]
        fn end(&self) {}
    }
);

// ---- shared event ----
define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftMetalSharedEvent"]
    #[ivars = Arc<Event>]
    pub struct SharedEvent;
    unsafe impl NSObjectProtocol for SharedEvent {}
    unsafe impl MTLEvent for SharedEvent {}
    unsafe impl MTLSharedEvent for SharedEvent {
        #[unsafe(method(signaledValue))]
        fn value(&self) -> u64 {
            self.ivars().get()
        }
        #[unsafe(method(setSignaledValue:))]
        fn set_value(&self, v: u64) {
            self.ivars().signal(v)
        }
        #[unsafe(method(waitUntilSignaledValue:timeoutMS:))]
        fn wait(&self, v: u64, ms: u64) -> bool {
            self.ivars().wait(v, Duration::from_millis(ms))
        }
    }
);
// SAFETY: the state is an Arc of locks.
unsafe impl Send for SharedEvent {}
unsafe impl Sync for SharedEvent {}

// ---- queue, command buffer, blit encoder ----
pub struct QueueIvars {
    dev: Retained<Device>,
    lane: Arc<Lane>,
}
impl Drop for QueueIvars {
    fn drop(&mut self) {
        self.lane.stop()
    }
}
define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftMetalCommandQueue"]
    #[ivars = QueueIvars]
    pub struct Queue;
    unsafe impl NSObjectProtocol for Queue {}
    unsafe impl MTLCommandQueue for Queue {
        #[unsafe(method_id(device))]
        fn device(&self) -> Retained<Proto<dyn MTLDevice>> {
            Proto::from_retained(self.ivars().dev.clone())
        }
        #[unsafe(method_id(commandBuffer))]
        fn command_buffer(&self) -> Option<Retained<Proto<dyn MTLCommandBuffer>>> {
            Some(self.make(true))
        }
        #[unsafe(method_id(commandBufferWithUnretainedReferences))]
        fn command_buffer_unretained(&self) -> Option<Retained<Proto<dyn MTLCommandBuffer>>> {
            Some(self.make(false))
        }
    }
);
// SAFETY: the state is a retained device and an Arc of locks.
unsafe impl Send for Queue {}
unsafe impl Sync for Queue {}
impl Queue {
    fn make(&self, retained: bool) -> Retained<Proto<dyn MTLCommandBuffer>> {
        Proto::from_retained(soft_new!(CommandBuffer, CbIvars {
            queue: self.retain(),
            retained,
            state: Mutex::new(CbState {
                status: MTLCommandBufferStatus::NotEnqueued,
                encoding: false,
                cmds: Vec::new(),
                keep: Vec::new(),
                done: Vec::new(),
                error: None,
            }),
            cv: Condvar::new(),
        }))
    }
}
type Handler = RcBlock<dyn Fn(NonNull<Proto<dyn MTLCommandBuffer>>)>;
struct CbState {
    status: MTLCommandBufferStatus,
    encoding: bool,
    cmds: Vec<Cmd>,
    keep: Vec<Retained<AnyObject>>,
    done: Vec<Handler>,
    error: Option<String>,
}
pub struct CbIvars {
    queue: Retained<Queue>,
    retained: bool,
    state: Mutex<CbState>,
    cv: Condvar,
}
define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftMetalCommandBuffer"]
    #[ivars = CbIvars]
    pub struct CommandBuffer;
    unsafe impl NSObjectProtocol for CommandBuffer {}
    unsafe impl MTLCommandBuffer for CommandBuffer {
        #[unsafe(method_id(commandQueue))]
        fn queue(&self) -> Retained<Proto<dyn MTLCommandQueue>> {
            Proto::from_retained(self.ivars().queue.clone())
        }
        #[unsafe(method(retainedReferences))]
        fn retained_references(&self) -> bool {
            self.ivars().retained
        }
        #[unsafe(method(status))]
        fn status(&self) -> MTLCommandBufferStatus {
            self.st().status
        }
        #[unsafe(method_id(error))]
        fn error(&self) -> Option<Retained<NSError>> {
            self.st().error.clone().map(|t| as_err(f::error(1, t)))
        }
        #[unsafe(method_id(blitCommandEncoder))]
        fn blit(&self) -> Option<Retained<Proto<dyn MTLBlitCommandEncoder>>> {
            let mut s = self.st();
            assert!(!s.encoding, "an encoder of this command buffer is still open");
            s.encoding = true;
            Some(Proto::from_retained(soft_new!(Blit, BlitIvars { cb: self.retain(), open: Cell::new(true) })))
        }
        #[unsafe(method(encodeSignalEvent:value:))]
        fn signal(&self, e: &Proto<dyn MTLEvent>, v: u64) {
            self.st().cmds.push(Cmd::Signal(down::<SharedEvent, _>(e).ivars().clone(), v))
        }
        #[unsafe(method(encodeWaitForEvent:value:))]
        fn wait_event(&self, e: &Proto<dyn MTLEvent>, v: u64) {
            self.st().cmds.push(Cmd::Wait(down::<SharedEvent, _>(e).ivars().clone(), v))
        }
        #[unsafe(method(addCompletedHandler:))]
        fn add_completed(&self, b: *mut DynBlock<dyn Fn(NonNull<Proto<dyn MTLCommandBuffer>>)>) {
            let b = unsafe { RcBlock::copy(b) }.expect("a completed handler");
            self.st().done.push(b)
        }
        #[unsafe(method(commit))]
        fn commit(&self) {
            let mut s = self.st();
            assert!(!s.encoding, "commit with an open encoder");
            assert!(s.status == MTLCommandBufferStatus::NotEnqueued, "committed twice");
            s.status = MTLCommandBufferStatus::Committed;
            drop(s);
            self.ivars().queue.ivars().lane.push(Job(self.retain()));
        }
        #[unsafe(method(waitUntilCompleted))]
        fn wait(&self) {
            let mut s = self.st();
            assert!(s.status != MTLCommandBufferStatus::NotEnqueued, "wait on an uncommitted command buffer");
            while s.status.0 < MTLCommandBufferStatus::Completed.0 {
                s = self.ivars().cv.wait(s).unwrap();
            }
        }
    }
);
impl CommandBuffer {
    fn st(&self) -> std::sync::MutexGuard<'_, CbState> {
        self.ivars().state.lock().unwrap()
    }
    fn push(&self, c: Cmd, uses: &[&Proto<dyn MTLBuffer>]) {
        let mut s = self.st();
        s.cmds.push(c);
        if self.ivars().retained {
            for u in uses {
                let o: &AnyObject = u.as_ref();
                s.keep.push(o.retain());
            }
        }
    }
    pub fn execute(this: Retained<Self>) {
        let cmds = std::mem::take(&mut this.st().cmds);
        let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for c in cmds {
                match c {
                    Cmd::Copy { src, so, dst, d_o, n } => unsafe {
                        let (s, d) = (down::<Buffer, _>(&*src), down::<Buffer, _>(&*dst));
                        std::ptr::copy(s.range(so, n), d.range(d_o, n), n)
                    },
                    Cmd::Fill { dst, off, n, v } => unsafe {
                        down::<Buffer, _>(&*dst).range(off, n).write_bytes(v, n)
                    },
                    Cmd::Signal(e, v) => e.signal(v),
                    Cmd::Wait(e, v) => assert!(e.wait(v, Duration::from_secs(10)), "event wait timed out"),
                }
            }
        }));
        let (done, keep) = {
            let mut s = this.st();
            s.status = MTLCommandBufferStatus::Completed;
            if let Err(e) = r {
                s.status = MTLCommandBufferStatus::Error;
                s.error = e.downcast_ref::<String>().cloned().or(Some("fault".into()));
            }
            (std::mem::take(&mut s.done), std::mem::take(&mut s.keep))
        };
        let p: NonNull<Proto<dyn MTLCommandBuffer>> = NonNull::from(Proto::from_ref(&*this));
        for d in &done {
            d.call((p,));
        }
        drop((done, keep));
        this.ivars().cv.notify_all();
    }
}
pub struct BlitIvars {
    cb: Retained<CommandBuffer>,
    open: Cell<bool>,
}
define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftMetalBlitEncoder"]
    #[ivars = BlitIvars]
    pub struct Blit;
    unsafe impl NSObjectProtocol for Blit {}
    unsafe impl MTLCommandEncoder for Blit {
        #[unsafe(method(endEncoding))]
        fn end(&self) {
            assert!(self.ivars().open.replace(false), "endEncoding twice");
            self.ivars().cb.st().encoding = false;
        }
    }
    unsafe impl MTLBlitCommandEncoder for Blit {
        #[unsafe(method(copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:))]
        fn copy(&self, s: &Proto<dyn MTLBuffer>, so: usize, d: &Proto<dyn MTLBuffer>, d_o: usize, n: usize) {
            assert!(self.ivars().open.get(), "copy after endEncoding");
            let (src, dst) = (down::<Buffer, _>(s), down::<Buffer, _>(d));
            src.range(so, n);
            dst.range(d_o, n);
            self.ivars().cb.push(Cmd::Copy { src, so, dst, d_o, n }, &[s, d])
        }
        #[unsafe(method(fillBuffer:range:value:))]
        fn fill(&self, d: &Proto<dyn MTLBuffer>, r: NSRange, v: u8) {
            assert!(self.ivars().open.get(), "fill after endEncoding");
            let dst = down::<Buffer, _>(d);
            dst.range(r.location, r.length);
            self.ivars().cb.push(Cmd::Fill { dst, off: r.location, n: r.length, v }, &[d])
        }
    }
);

// ---- device ----
define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftMetalDevice"]
    pub struct Device;
    unsafe impl NSObjectProtocol for Device {}
    unsafe impl MTLDevice for Device {
        #[unsafe(method_id(name))]
        fn name(&self) -> Retained<NSString> {
            as_ns(f::string("software Metal device"))
        }
        #[unsafe(method(registryID))]
        fn registry_id(&self) -> u64 {
            1
        }
        #[unsafe(method(hasUnifiedMemory))]
        fn unified(&self) -> bool {
            true
        }
        #[unsafe(method(recommendedMaxWorkingSetSize))]
        fn working_set(&self) -> u64 {
            LIMIT.load(SeqCst).min(8 << 30) as u64
        }
        #[unsafe(method(maxBufferLength))]
        fn max_buffer(&self) -> usize {
            4 << 30
        }
        #[unsafe(method(currentAllocatedSize))]
        fn current(&self) -> usize {
            ALLOCATED.load(SeqCst)
        }
        #[unsafe(method(heapBufferSizeAndAlignWithLength:options:))]
        fn size_and_align(&self, len: usize, _o: MTLResourceOptions) -> MTLSizeAndAlign {
            MTLSizeAndAlign { size: len.next_multiple_of(256), align: 256 }
        }
        #[unsafe(method_id(newBufferWithLength:options:))]
        fn new_buffer(&self, len: usize, opts: MTLResourceOptions) -> Option<Retained<Proto<dyn MTLBuffer>>> {
            host_alloc(len).map(|(p, l)| Proto::from_retained(Buffer::new(self, Mem::Owned(p, l), len, opts)))
        }
        #[unsafe(method_id(newBufferWithBytesNoCopy:length:options:deallocator:))]
        fn new_buffer_no_copy(
            &self,
            p: *mut c_void,
            len: usize,
            opts: MTLResourceOptions,
            free: Option<&DynBlock<dyn Fn(NonNull<c_void>, usize)>>,
        ) -> Option<Retained<Proto<dyn MTLBuffer>>> {
            let paged = p as usize % PAGE == 0 && len % PAGE == 0 && len != 0;
            paged.then(|| {
                let mem = Mem::Foreign(p as *mut u8, free.map(|b| b.copy()));
                Proto::from_retained(Buffer::new(self, mem, len, opts))
            })
        }
        #[unsafe(method_id(newHeapWithDescriptor:))]
        fn new_heap(&self, d: &MTLHeapDescriptor) -> Option<Retained<Proto<dyn MTLHeap>>> {
            let d = down::<SoftHeapDescriptor, _>(d).ivars();
            host_alloc(d.size.get()).map(|base| Proto::from_retained(soft_new!(Heap, HeapIvars {
                dev: self.retain(),
                base,
                size: d.size.get(),
                kind: d.kind.get(),
                opts: MTLResourceOptions(d.mode.get().0 << 4),
                used: RefCell::default(),
            })))
        }
        #[unsafe(method_id(newCommandQueue))]
        fn new_queue(&self) -> Option<Retained<Proto<dyn MTLCommandQueue>>> {
            let q = soft_new!(Queue, QueueIvars { dev: self.retain(), lane: Lane::start() });
            Some(Proto::from_retained(q))
        }
        #[unsafe(method_id(newSharedEvent))]
        fn new_event(&self) -> Option<Retained<Proto<dyn MTLSharedEvent>>> {
            Some(Proto::from_retained(soft_new!(SharedEvent, Arc::new(Event::default()))))
        }
        #[unsafe(method_id(newResidencySetWithDescriptor:error:))]
        fn new_residency(&self, _d: &MTLResidencySetDescriptor, _e: *mut *mut NSError) -> Option<Retained<Proto<dyn MTLResidencySet>>> {
            Some(Proto::from_retained(soft_new!(ResidencySet, Residency::default())))
        }
    }
);
// SAFETY: no state.
unsafe impl Send for Device {}
unsafe impl Sync for Device {}

// ---- what the linker asks for ----
software_objc::class_slot!(NS_STRING, "NSString", || { slots(); Str::class(); });
software_objc::class_slot!(NS_ERROR, "NSError", || { slots(); Error::class(); });
software_objc::class_slot!(HEAP_DESC, "MTLHeapDescriptor", || { slots(); SoftHeapDescriptor::class(); });
software_objc::class_slot!(RES_DESC, "MTLResidencySetDescriptor", || { slots(); SoftResidencyDescriptor::class(); });
fn slots() {
    software_objc::register_slots(&[&NS_STRING, &NS_ERROR, &HEAP_DESC, &RES_DESC]);
}
#[no_mangle]
extern "C-unwind" fn MTLCreateSystemDefaultDevice() -> *mut Proto<dyn MTLDevice> {
    slots();
    Retained::into_raw(Proto::from_retained(soft_new!(Device, ())))
}
