//! What the tests share: ordinary objc2-metal client code.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) use objc2::rc::{Retained, autoreleasepool};
pub(crate) use objc2::runtime::ProtocolObject;
pub(crate) use objc2_foundation::NSRange;
pub(crate) use objc2_metal::*;
pub(crate) use software_metal::{DeviceDesc, SoftwareDevice};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub(crate) type Device = Retained<ProtocolObject<dyn MTLDevice>>;
pub(crate) type Buffer = Retained<ProtocolObject<dyn MTLBuffer>>;
pub(crate) type CommandBuffer = Retained<ProtocolObject<dyn MTLCommandBuffer>>;
pub(crate) type Queue = Retained<ProtocolObject<dyn MTLCommandQueue>>;

pub(crate) const SHARED: MTLResourceOptions = MTLResourceOptions::StorageModeShared;
pub(crate) const PRIVATE: MTLResourceOptions = MTLResourceOptions::StorageModePrivate;
pub(crate) const UNTRACKED: MTLResourceOptions = MTLResourceOptions::HazardTrackingModeUntracked;

/// Runs a test on a device of its own, in a pool, and checks that everything is returned.
pub(crate) fn with_device(desc: DeviceDesc, test: impl FnOnce(&SoftwareDevice, &Device)) {
    let software = SoftwareDevice::new(desc);
    autoreleasepool(|_| test(&software, &software.metal_device()));
    software.wait_until_returned().unwrap();
    assert_eq!(software.allocated_bytes(), 0);
}

/// The message of the panic that `misuse` must end with.
#[track_caller]
pub(crate) fn caught<T>(misuse: impl FnOnce() -> T) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| autoreleasepool(|_| drop(misuse()))))
        .expect_err("misuse that goes unseen");
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap()
}

#[track_caller]
pub(crate) fn buffer(device: &Device, len: usize, options: MTLResourceOptions) -> Buffer {
    device.newBufferWithLength_options(len, options).expect("a buffer")
}

/// The bytes of a shared buffer.
pub(crate) fn read(buffer: &Buffer) -> Vec<u8> {
    // SAFETY: shared memory of that length, which nothing writes now.
    unsafe { std::slice::from_raw_parts(buffer.contents().cast::<u8>().as_ptr(), buffer.length()) }.to_vec()
}

pub(crate) fn write(buffer: &Buffer, value: u8) {
    // SAFETY: shared memory of that length, which nothing else uses now.
    unsafe { buffer.contents().cast::<u8>().as_ptr().write_bytes(value, buffer.length()) };
}

/// Encodes one pass.
pub(crate) fn pass(
    commands: &CommandBuffer,
    encode: impl FnOnce(&ProtocolObject<dyn MTLBlitCommandEncoder>),
) {
    let encoder = commands.blitCommandEncoder().expect("an encoder");
    encode(&encoder);
    encoder.endEncoding();
}

pub(crate) fn fill(commands: &CommandBuffer, buffer: &Buffer, value: u8) {
    pass(commands, |encoder| encoder.fillBuffer_range_value(buffer, NSRange::new(0, buffer.length()), value));
}

pub(crate) fn copy(commands: &CommandBuffer, from: &Buffer, to: &Buffer) {
    pass(commands, |encoder| {
        // SAFETY: the device checks the ranges.
        unsafe {
            encoder.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(from, 0, to, 0, from.length())
        };
    });
}

pub(crate) fn complete(commands: &CommandBuffer) {
    commands.commit();
    commands.waitUntilCompleted();
    assert_eq!(commands.status(), MTLCommandBufferStatus::Completed, "{:?}", commands.error());
}

pub(crate) fn event_of(shared: &ProtocolObject<dyn MTLSharedEvent>) -> &ProtocolObject<dyn MTLEvent> {
    ProtocolObject::from_ref(shared)
}
