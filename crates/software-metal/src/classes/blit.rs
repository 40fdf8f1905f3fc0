//! `MTLBlitCommandEncoder`.

use super::buffer::Buffer;
use super::command_buffer::{CommandBuffer, Encoded};
use super::fence::Fence;
use super::{Device, Label, Proto, down, make};
use crate::census::{Counted, Kind};
use crate::work::{Command, Target};
use objc2::rc::Retained;
use objc2::runtime::NSObjectProtocol;
use objc2::{DefinedClass, Message, define_class};
use objc2_foundation::{NSObject, NSRange, NSString};
use objc2_metal::{MTLBlitCommandEncoder, MTLBuffer, MTLCommandEncoder, MTLDevice, MTLFence, MTLResource};
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use std::sync::Arc;

pub(crate) struct BlitEncoderIvars {
    label: Label,
    /// `None` once encoding has ended.
    encoded: Mutex<Option<Encoded>>,
    command_buffer: Retained<CommandBuffer>,
    _counted: Counted,
}

impl Drop for BlitEncoderIvars {
    fn drop(&mut self) {
        if self.encoded.get_mut().is_some() && !std::thread::panicking() {
            self.command_buffer.abandon_encoding();
        }
    }
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftwareMetalBlitCommandEncoder"]
    #[ivars = BlitEncoderIvars]
    pub(crate) struct BlitEncoder;

    // SAFETY: NSObject is the superclass.
    unsafe impl NSObjectProtocol for BlitEncoder {}

    // SAFETY: each method has its protocol's signature, which is checked against the encodings in debug builds.
    unsafe impl MTLCommandEncoder for BlitEncoder {
        #[unsafe(method_id(device))]
        fn device_object(&self) -> Retained<Proto<dyn MTLDevice>> {
            Proto::from_retained(self.device().retain())
        }

        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().label.get()
        }

        #[unsafe(method(setLabel:))]
        fn set_label(&self, label: Option<&NSString>) {
            self.ivars().label.set(label);
        }

        #[unsafe(method(insertDebugSignpost:))]
        fn insert_debug_signpost(&self, _text: &NSString) {}

        #[unsafe(method(pushDebugGroup:))]
        fn push_debug_group(&self, _text: &NSString) {}

        #[unsafe(method(popDebugGroup))]
        fn pop_debug_group(&self) {}

        #[unsafe(method(endEncoding))]
        fn end_encoding(&self) {
            let encoded = self.ivars().encoded.lock().take().expect("endEncoding twice");
            self.ivars().command_buffer.end_encoding(encoded);
        }
    }

    // SAFETY: each method has its protocol's signature, which is checked against the encodings in debug builds.
    unsafe impl MTLBlitCommandEncoder for BlitEncoder {
        #[unsafe(method(copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:))]
        fn copy(
            &self,
            from: &Proto<dyn MTLBuffer>,
            from_offset: usize,
            to: &Proto<dyn MTLBuffer>,
            to_offset: usize,
            len: usize,
        ) {
            let mut encoded = self.encoded("a copy");
            let (from, to) = (down::<Buffer, _>(from), down::<Buffer, _>(to));
            self.check_written(to);
            let overlaps =
                std::ptr::eq(from, to) && from_offset < to_offset + len && to_offset < from_offset + len;
            assert!(!overlaps, "a copy between overlapping ranges of one buffer");
            let (from, to) = (self.target(from, from_offset, len), self.target(to, to_offset, len));
            encoded.commands.push(Command::Copy { from, to, len });
        }

        #[unsafe(method(fillBuffer:range:value:))]
        fn fill(&self, buffer: &Proto<dyn MTLBuffer>, range: NSRange, value: u8) {
            let mut encoded = self.encoded("a fill");
            let buffer = down::<Buffer, _>(buffer);
            self.check_written(buffer);
            let to = self.target(buffer, range.location, range.length);
            encoded.commands.push(Command::Fill { to, len: range.length, value });
        }

        #[unsafe(method(updateFence:))]
        fn update_fence(&self, fence: &Proto<dyn MTLFence>) {
            let mut encoded = self.encoded("updateFence:");
            encoded.updates.push(down::<Fence, _>(fence).retain());
        }

        #[unsafe(method(waitForFence:))]
        fn wait_for_fence(&self, fence: &Proto<dyn MTLFence>) {
            let mut encoded = self.encoded("waitForFence:");
            let fence = down::<Fence, _>(fence);
            let is_updated = encoded.updates.iter().any(|other| std::ptr::eq(&**other, fence));
            assert!(!is_updated, "waitForFence: after updateFence: of the same fence in one encoder");
            encoded.waits_for.push(fence.retain());
        }

        #[unsafe(method(synchronizeResource:))]
        fn synchronize(&self, _resource: &Proto<dyn MTLResource>) {
            panic!("synchronizeResource: of a resource whose storage mode is not managed");
        }
    }
);

impl BlitEncoder {
    pub(super) fn new(command_buffer: &CommandBuffer) -> Retained<Self> {
        make(BlitEncoderIvars {
            label: Label::default(),
            encoded: Mutex::new(Some(Encoded::default())),
            command_buffer: command_buffer.retain(),
            _counted: Counted::new(command_buffer.device().state(), Kind::BlitEncoder),
        })
    }

    fn device(&self) -> &Device {
        self.ivars().command_buffer.device()
    }

    fn encoded(&self, what: &str) -> MappedMutexGuard<'_, Encoded> {
        let guard = self.ivars().encoded.lock();
        assert!(guard.is_some(), "{what} after endEncoding");
        MutexGuard::map(guard, |encoded| encoded.as_mut().expect("checked above"))
    }

    fn check_written(&self, buffer: &Buffer) {
        assert!(!buffer.is_remote(), "a remote view is written; it can only be the source of a copy");
    }

    /// A range of a buffer as a blit's target, checked and kept.
    fn target(&self, buffer: &Buffer, offset: usize, len: usize) -> Target {
        let memory: &Arc<_> = buffer.memory();
        assert!(std::ptr::eq(buffer.device(), self.device()), "a buffer of another device");
        assert!(len > 0, "a blit of 0 bytes");
        let is_inside = offset.checked_add(len).is_some_and(|end| end <= memory.len);
        assert!(is_inside, "blit range {offset}+{len} outside a buffer of {}", memory.len);
        let is_aligned = self.device().state().desc.is_apple_family || (offset | len).is_multiple_of(4);
        assert!(
            is_aligned,
            "blit range {offset}+{len}: offset and size must be multiples of 4 on this device"
        );
        self.ivars().command_buffer.keep(buffer);
        Target::new(memory, offset)
    }
}
