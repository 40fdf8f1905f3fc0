//! The tool's side of the memory extension.

use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::bytes::Bytes;
use crate::{Mode, log, mode};

static HEAPS: AtomicUsize = AtomicUsize::new(0);

/// `NVTX_EXTENSION_DISABLED`.
const DISABLED: usize = 1;

/// The extensions' entry point.
///
/// # Safety
///
/// `module` is the address of an nvtxExtModuleInfo_t, whose segments and slots are there.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "system" fn InitializeInjectionNvtxExtension(module: usize) -> c_int {
    // SAFETY: a description of a module, as the caller promises.
    let module = unsafe { Bytes::sized(module, 40) };
    let words = [0, 2, 4, 6].map(|at| module.u16(at));
    // SAFETY: the module has at least this one.
    let segment = unsafe { Bytes::at(module.word(16), 24) };
    let (id, count) = (segment.word(0), segment.word(8));
    let first: *mut usize = ptr::with_exposed_provenance_mut(segment.word(16));
    // SAFETY: the segment has so many slots, which nobody else looks at during this call.
    let slots = unsafe { std::slice::from_raw_parts_mut(first, count) };
    let fresh = slots.iter().all(|&slot| slot == 0);
    let (segments, export, info) = (module.word(8), module.word(24), module.word(32));
    log(&format!(
        "extension {words:?}, {segments} segment {id} with {count} slots, all zero: {fresh}; {export} {info}"
    ));
    match mode() {
        Mode::NoFunctions => {}
        Mode::Disabled => slots.fill(DISABLED),
        _ => {
            slots[0] = heap_register as *const () as usize;
            slots[1] = heap_unregister as *const () as usize;
            slots[2] = heap_reset as *const () as usize;
            slots[3] = regions_register as *const () as usize;
            slots[5] = regions_unregister as *const () as usize;
            slots[6] = regions_name as *const () as usize;
        }
    }
    i32::from(mode() != Mode::NoMemory)
}

unsafe extern "C" fn heap_register(domain: usize, heap: usize) -> usize {
    let handle = match mode() {
        Mode::NoHeaps => 0,
        Mode::NoHeapsEarly => usize::MAX,
        _ => 0xa0 + HEAPS.fetch_add(1, Ordering::Relaxed) + 1,
    };
    // SAFETY: nvtxMemHeapDesc_t.
    let heap = unsafe { Bytes::sized(heap, 48) };
    // SAFETY: nvtxMemVirtualRangeDesc_t.
    let range = unsafe { range(heap.word(24)) };
    // SAFETY: the name, or null.
    let name = unsafe { heap.text(40) };
    let (compatibility, size) = (heap.u16(0), heap.u16(2));
    let rest = [4, 8, 12].map(|at| heap.u32(at));
    let (range_size, category, kind) = (heap.word(16), heap.u32(32), heap.u32(36));
    log(&format!(
        "HeapRegister {domain:#x} {compatibility:#x} {size} {rest:?} {range_size} {range} {category} {kind} {name} = {handle:#x}"
    ));
    handle
}

extern "C" fn heap_unregister(domain: usize, heap: usize) {
    log(&format!("HeapUnregister {domain:#x} {heap:#x}"));
}

extern "C" fn heap_reset(domain: usize, heap: usize) {
    log(&format!("HeapReset {domain:#x} {heap:#x}"));
}

unsafe extern "C" fn regions_register(domain: usize, batch: usize) {
    // SAFETY: nvtxMemRegionsRegisterBatch_t.
    let batch = unsafe { Bytes::sized(batch, 48) };
    let (count, element) = (batch.word(16), batch.word(24));
    // SAFETY: an array of so many nvtxMemVirtualRangeDesc_t.
    let each = |index| unsafe { range(batch.word(32) + index * element) };
    let ranges: Vec<String> = (0..count).map(each).collect();
    let (compatibility, size, kind, heap, handles) =
        (batch.u16(0), batch.u16(2), batch.u32(4), batch.word(8), batch.word(40));
    let ranges = ranges.join(" ");
    log(&format!(
        "RegionsRegister {domain:#x} {compatibility:#x} {size} {kind} {heap:#x} {count} {element} {ranges} {handles}"
    ));
}

unsafe extern "C" fn regions_unregister(domain: usize, batch: usize) {
    // SAFETY: nvtxMemRegionsUnregisterBatch_t.
    let batch = unsafe { Bytes::sized(batch, 32) };
    let (count, element) = (batch.word(8), batch.word(16));
    // SAFETY: an array of so many nvtxMemRegionRef_t.
    let each = |index| unsafe { Bytes::at(batch.word(24) + index * element, 8) };
    let regions: Vec<String> =
        (0..count).map(each).map(|region| format!("[{:#x}]", region.word(0))).collect();
    let (compatibility, size, kind) = (batch.u16(0), batch.u16(2), batch.u32(4));
    let regions = regions.join(" ");
    log(&format!(
        "RegionsUnregister {domain:#x} {compatibility:#x} {size} {kind} {count} {element} {regions}"
    ));
}

unsafe extern "C" fn regions_name(domain: usize, batch: usize) {
    // SAFETY: nvtxMemRegionsNameBatch_t.
    let batch = unsafe { Bytes::sized(batch, 40) };
    let (count, element) = (batch.word(8), batch.word(16));
    // SAFETY: an array of so many nvtxMemRegionNameDesc_t.
    let each = |index| unsafe { name(batch.word(24) + index * element) };
    let names: Vec<String> = (0..count).map(each).collect();
    let (compatibility, size, reserved, last) = (batch.u16(0), batch.u16(2), batch.u32(4), batch.word(32));
    let names = names.join(" ");
    log(&format!(
        "RegionsName {domain:#x} {compatibility:#x} {size} {reserved} {count} {element} {names} {last}"
    ));
}

/// # Safety
///
/// `start` is the address of an nvtxMemVirtualRangeDesc_t.
unsafe fn range(start: usize) -> String {
    // SAFETY: as the caller promises.
    let range = unsafe { Bytes::at(start, 16) };
    format!("[{} {:#x}]", range.word(0), range.word(8))
}

/// # Safety
///
/// `start` is the address of an nvtxMemRegionNameDesc_t.
unsafe fn name(start: usize) -> String {
    // SAFETY: as the caller promises.
    let name = unsafe { Bytes::at(start, 32) };
    // SAFETY: the name, or null.
    let text = unsafe { name.text(16) };
    let [by, kind, category, reserved] = [0, 4, 24, 28].map(|at| name.u32(at));
    format!("[{by} {kind} {:#x} {text} {category} {reserved}]", name.word(8))
}
