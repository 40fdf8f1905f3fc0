//! `MTLCommandBuffer`.

use super::blit::BlitEncoder;
use super::event::event_of;
use super::fence::Fence;
use super::foundation::command_buffer_error;
use super::queue::{Attached, CommandQueue, PlaceOfOne};
use super::{Device, Label, Proto, make};
use crate::census::{Counted, Kind};
use crate::event::Event;
use crate::faults::Call;
use crate::work::{Command, Failure};
use block2::{DynBlock, RcBlock};
use objc2::rc::Retained;
use objc2::runtime::{AnyObject, NSObjectProtocol};
use objc2::{DefinedClass, Message, define_class};
use objc2_foundation::{NSError, NSObject, NSString};
use objc2_metal::{
    MTLBlitCommandEncoder, MTLCommandBuffer, MTLCommandBufferErrorOption, MTLCommandBufferStatus,
    MTLCommandQueue, MTLDevice, MTLEvent, MTLResidencySet,
};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::ptr::NonNull;
use std::sync::Arc;

type Handler = DynBlock<dyn Fn(NonNull<Proto<dyn MTLCommandBuffer>>)>;
pub(super) type KeptHandler = RcBlock<dyn Fn(NonNull<Proto<dyn MTLCommandBuffer>>)>;

/// What one encoder encoded, as long as the command buffer is not committed.
#[derive(Default)]
pub(super) struct Encoded {
    pub(super) commands: Vec<Command>,
    pub(super) waits_for: Vec<Retained<Fence>>,
    pub(super) updates: Vec<Retained<Fence>>,
}

/// What is encoded, in order.
pub(super) enum Encoding {
    Pass(Encoded),
    Signal(Arc<Event>, u64),
    Wait(Arc<Event>, u64),
}

/// What changes of a command buffer.
pub(super) struct Inner {
    pub(super) status: MTLCommandBufferStatus,
    /// Handlers are through, so that nobody needs to wait any more.
    pub(super) is_over: bool,
    /// The scheduled handlers are through.
    pub(super) is_scheduled: bool,
    has_open_encoder: bool,
    /// The place in the queue that `enqueue` took.
    ticket: Option<u64>,
    encoded: Vec<Encoding>,
    /// What the command buffer references, if it does.
    pub(super) kept: Vec<Retained<AnyObject>>,
    pub(super) on_scheduled: Vec<KeptHandler>,
    pub(super) on_completed: Vec<KeptHandler>,
    pub(super) failure: Option<Failure>,
    pub(super) place: Option<PlaceOfOne>,
}

pub(crate) struct CommandBufferIvars {
    label: Label,
    retains_references: bool,
    pub(super) residency_sets: Attached,
    inner: Mutex<Inner>,
    pub(super) changed: Condvar,
    /// Held while scheduled handlers run, so that completed ones come after.
    pub(super) scheduling: Mutex<()>,
    pub(super) queue: Retained<CommandQueue>,
    _counted: Counted,
}

impl Drop for CommandBufferIvars {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        if let (Some(ticket), MTLCommandBufferStatus::Enqueued) = (inner.ticket, inner.status) {
            self.queue.lane().cancel(ticket);
        }
    }
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftwareMetalCommandBuffer"]
    #[ivars = CommandBufferIvars]
    pub(crate) struct CommandBuffer;

    // SAFETY: NSObject is the superclass.
    unsafe impl NSObjectProtocol for CommandBuffer {}

    // SAFETY: each method has its protocol's signature, which is checked against the encodings in debug builds.
    unsafe impl MTLCommandBuffer for CommandBuffer {
        #[unsafe(method_id(device))]
        fn device_object(&self) -> Retained<Proto<dyn MTLDevice>> {
            Proto::from_retained(self.device().retain())
        }

        #[unsafe(method_id(commandQueue))]
        fn command_queue(&self) -> Retained<Proto<dyn MTLCommandQueue>> {
            Proto::from_retained(self.ivars().queue.clone())
        }

        #[unsafe(method(retainedReferences))]
        fn retained_references(&self) -> bool {
            self.ivars().retains_references
        }

        #[unsafe(method(errorOptions))]
        fn error_options(&self) -> MTLCommandBufferErrorOption {
            MTLCommandBufferErrorOption::None
        }

        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().label.get()
        }

        #[unsafe(method(setLabel:))]
        fn set_label(&self, label: Option<&NSString>) {
            self.ivars().label.set(label);
        }

        #[unsafe(method(status))]
        fn status(&self) -> MTLCommandBufferStatus {
            self.inner().status
        }

        #[unsafe(method_id(error))]
        fn error(&self) -> Option<Retained<NSError>> {
            self.inner().failure.as_ref().map(|failure| command_buffer_error(failure.code, &failure.text))
        }

        #[unsafe(method_id(blitCommandEncoder))]
        fn blit_command_encoder(&self) -> Option<Retained<Proto<dyn MTLBlitCommandEncoder>>> {
            self.begin_encoding().map(Proto::from_retained)
        }

        #[unsafe(method(encodeSignalEvent:value:))]
        fn encode_signal(&self, event: &Proto<dyn MTLEvent>, value: u64) {
            self.keep(event.as_ref());
            let event = event_of(event, self.device());
            self.open("a signal").encoded.push(Encoding::Signal(event, value));
        }

        #[unsafe(method(encodeWaitForEvent:value:))]
        fn encode_wait(&self, event: &Proto<dyn MTLEvent>, value: u64) {
            self.keep(event.as_ref());
            let event = event_of(event, self.device());
            self.open("a wait").encoded.push(Encoding::Wait(event, value));
        }

        #[unsafe(method(useResidencySet:))]
        fn use_residency_set(&self, set: &Proto<dyn MTLResidencySet>) {
            self.attach(set);
        }

        #[unsafe(method(useResidencySets:count:))]
        fn use_residency_sets(&self, sets: NonNull<NonNull<Proto<dyn MTLResidencySet>>>, count: usize) {
            // SAFETY: the caller says that `count` sets are there.
            unsafe { super::residency_set::objects(sets, count) }.for_each(|set| self.attach(set));
        }

        #[unsafe(method(addScheduledHandler:))]
        fn add_scheduled_handler(&self, handler: *mut Handler) {
            // SAFETY: the caller's pointer is to a block.
            let handler = unsafe { RcBlock::copy(handler) }.expect("a handler is not nil");
            self.uncommitted("a scheduled handler").on_scheduled.push(handler);
        }

        #[unsafe(method(addCompletedHandler:))]
        fn add_completed_handler(&self, handler: *mut Handler) {
            // SAFETY: the caller's pointer is to a block.
            let handler = unsafe { RcBlock::copy(handler) }.expect("a handler is not nil");
            self.uncommitted("a completed handler").on_completed.push(handler);
        }

        #[unsafe(method(enqueue))]
        fn enqueue(&self) {
            let mut inner = self.uncommitted("enqueue");
            if inner.ticket.is_none() {
                inner.ticket = Some(self.ivars().queue.lane().reserve());
                inner.status = MTLCommandBufferStatus::Enqueued;
            }
        }

        #[unsafe(method(commit))]
        fn commit(&self) {
            let mut inner = self.open("commit");
            inner.status = MTLCommandBufferStatus::Committed;
            let encoded = std::mem::take(&mut inner.encoded);
            let (ticket, has_scheduled) = (inner.ticket, !inner.on_scheduled.is_empty());
            drop(inner);
            let job = self.job(encoded, has_scheduled);
            self.ivars().queue.lane().push(ticket, job);
        }

        #[unsafe(method(waitUntilScheduled))]
        fn wait_until_scheduled(&self) {
            self.wait_for(|inner| inner.is_scheduled);
        }

        #[unsafe(method(waitUntilCompleted))]
        fn wait_until_completed(&self) {
            self.wait_for(|inner| inner.is_over);
        }
    }
);

impl CommandBuffer {
    pub(super) fn new(queue: &CommandQueue, retains_references: bool, place: PlaceOfOne) -> Retained<Self> {
        let inner = Inner {
            status: MTLCommandBufferStatus::NotEnqueued,
            is_over: false,
            is_scheduled: false,
            has_open_encoder: false,
            ticket: None,
            encoded: Vec::new(),
            kept: Vec::new(),
            on_scheduled: Vec::new(),
            on_completed: Vec::new(),
            failure: None,
            place: Some(place),
        };
        make(CommandBufferIvars {
            label: Label::default(),
            retains_references,
            residency_sets: Attached::default(),
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            scheduling: Mutex::new(()),
            queue: queue.retain(),
            _counted: Counted::new(queue.device().state(), Kind::CommandBuffer),
        })
    }

    pub(super) fn device(&self) -> &Device {
        self.ivars().queue.device()
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.ivars().inner.lock()
    }

    fn uncommitted(&self, what: &str) -> MutexGuard<'_, Inner> {
        let inner = self.inner();
        assert!(inner.status < MTLCommandBufferStatus::Committed, "{what} after commit");
        inner
    }

    /// To be changed between encoders only.
    fn open(&self, what: &str) -> MutexGuard<'_, Inner> {
        let inner = self.uncommitted(what);
        assert!(!inner.has_open_encoder, "{what} with an open encoder");
        inner
    }

    /// Keeps what is encoded until the end, unless references are not retained.
    pub(super) fn keep(&self, object: &AnyObject) {
        if self.ivars().retains_references {
            self.inner().kept.push(object.retain());
        }
    }

    fn attach(&self, set: &Proto<dyn MTLResidencySet>) {
        drop(self.uncommitted("a residency set"));
        self.ivars().residency_sets.add(set, self.device());
    }

    fn begin_encoding(&self) -> Option<Retained<BlitEncoder>> {
        let mut inner = self.open("a blit encoder");
        if self.device().state().faults.plans_refuse(Call::NewBlitEncoder) {
            return None;
        }
        inner.has_open_encoder = true;
        drop(inner);
        Some(BlitEncoder::new(self))
    }

    pub(super) fn end_encoding(&self, encoded: Encoded) {
        let mut inner = self.inner();
        inner.has_open_encoder = false;
        inner.encoded.push(Encoding::Pass(encoded));
    }

    /// An encoder was deallocated without `endEncoding`.
    pub(super) fn abandon_encoding(&self) {
        panic!("an encoder was deallocated without endEncoding");
    }

    fn wait_for(&self, reached: impl Fn(&Inner) -> bool) {
        let mut inner = self.inner();
        assert!(
            inner.status >= MTLCommandBufferStatus::Committed,
            "a wait for a command buffer that is not committed"
        );
        while !reached(&inner) {
            self.ivars().changed.wait(&mut inner);
        }
    }
}
