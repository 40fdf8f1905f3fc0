//! The checks: ordinary client code, safe on a real device. Sizes are small, and nothing is done that Metal's validation layer objects to.

mod memory;
mod sets_and_tiles;
mod work;

use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSRange;
use objc2_metal::{
    MTLBlitCommandEncoder, MTLBuffer, MTLCommandBuffer, MTLCommandBufferStatus, MTLCommandEncoder,
    MTLCommandQueue, MTLDevice, MTLGPUFamily, MTLHeap, MTLHeapDescriptor, MTLHeapType, MTLResourceOptions,
    MTLStorageMode,
};
use std::fmt::Debug;

pub(crate) type Device = ProtocolObject<dyn MTLDevice>;
type Buffer = Retained<ProtocolObject<dyn MTLBuffer>>;
type CommandBuffer = Retained<ProtocolObject<dyn MTLCommandBuffer>>;

const SHARED: MTLResourceOptions = MTLResourceOptions::StorageModeShared;
const PRIVATE: MTLResourceOptions = MTLResourceOptions::StorageModePrivate;
const UNTRACKED: MTLResourceOptions = MTLResourceOptions::HazardTrackingModeUntracked;

/// A guess and how it is checked.
pub(crate) struct Check {
    /// Its row in `GUESSES.md`.
    pub(crate) number: u32,
    pub(crate) guess: &'static str,
    pub(crate) run: fn(&Device) -> Verdict,
}

/// What a check found, with what was observed, or why nothing could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Same(String),
    Different(String),
    Skipped(String),
}

/// All checks, by number.
pub(crate) fn all_checks() -> Vec<Check> {
    let mut checks: Vec<_> =
        memory::CHECKS.into_iter().chain(work::CHECKS).chain(sets_and_tiles::CHECKS).collect();
    checks.sort_by_key(|check| check.number);
    checks
}

fn compare<T: Debug + PartialEq>(observed: T, guessed: T) -> Verdict {
    let text = format!("{observed:?}");
    if observed == guessed {
        Verdict::Same(text)
    } else {
        Verdict::Different(format!("{text}, not {guessed:?}"))
    }
}

fn skip(reason: &str) -> Verdict {
    Verdict::Skipped(reason.into())
}

/// The verdict of a check that cannot be made if something cannot be had.
fn made(check: Option<Verdict>) -> Verdict {
    check.unwrap_or_else(|| skip("an object that the check needs is nil"))
}

fn page_bytes(device: &Device) -> usize {
    if is_apple_family(device) { 16384 } else { 4096 }
}

fn is_apple_family(device: &Device) -> bool {
    device.supportsFamily(MTLGPUFamily::Apple1)
}

fn buffer(device: &Device, len: usize, options: MTLResourceOptions) -> Option<Buffer> {
    device.newBufferWithLength_options(len, options)
}

fn heap(device: &Device, len: usize, kind: MTLHeapType) -> Option<Retained<ProtocolObject<dyn MTLHeap>>> {
    let descriptor = MTLHeapDescriptor::new();
    descriptor.setSize(len);
    descriptor.setType(kind);
    descriptor.setStorageMode(MTLStorageMode::Private);
    device.newHeapWithDescriptor(&descriptor)
}

/// The bytes of a shared buffer.
fn bytes(buffer: &Buffer) -> Vec<u8> {
    // SAFETY: shared memory of that length, with no work in flight that writes it.
    unsafe { std::slice::from_raw_parts(buffer.contents().cast::<u8>().as_ptr(), buffer.length()) }.to_vec()
}

/// Encodes a pass.
fn pass(
    commands: &CommandBuffer,
    encode: impl FnOnce(&ProtocolObject<dyn MTLBlitCommandEncoder>),
) -> Option<()> {
    let encoder = commands.blitCommandEncoder()?;
    encode(&encoder);
    encoder.endEncoding();
    Some(())
}

fn fill(encoder: &ProtocolObject<dyn MTLBlitCommandEncoder>, buffer: &Buffer, value: u8) {
    encoder.fillBuffer_range_value(buffer, NSRange::new(0, buffer.length()), value);
}

fn copy(encoder: &ProtocolObject<dyn MTLBlitCommandEncoder>, from: &Buffer, to: &Buffer) {
    let len = from.length().min(to.length());
    // SAFETY: both ranges are inside the buffers, which the command buffer keeps.
    unsafe { encoder.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(from, 0, to, 0, len) };
}

/// Encodes, runs and waits; how it ended.
fn run(device: &Device, encode: impl FnOnce(&CommandBuffer) -> Option<()>) -> Option<MTLCommandBufferStatus> {
    let commands = device.newCommandQueue()?.commandBuffer()?;
    encode(&commands)?;
    commands.commit();
    commands.waitUntilCompleted();
    Some(commands.status())
}
