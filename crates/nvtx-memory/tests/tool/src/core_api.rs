//! The tool's side of NVTX's core: domains.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::bytes::{Bytes, text};
use crate::{Mode, log, mode};

type GetExportTable = unsafe extern "system" fn(u32) -> *const c_void;
type GetModuleFunctionTable =
    unsafe extern "system" fn(c_int, *mut *const *mut *const c_void, *mut c_uint) -> c_int;

/// `NVTX_CB_MODULE_CORE2`.
const CORE2: c_int = 5;
const DOMAIN_CREATE: usize = 12;
const DOMAIN_DESTROY: usize = 14;

static DOMAINS: AtomicUsize = AtomicUsize::new(0);

/// The core's entry point.
///
/// # Safety
///
/// `get_export_table` is NVTX's.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "system" fn InitializeInjectionNvtx2(get_export_table: GetExportTable) -> c_int {
    // SAFETY: any number may be asked for.
    let unknown = unsafe { get_export_table(2) };
    // SAFETY: as above.
    let versions = unsafe { get_export_table(3) };
    // SAFETY: NvtxExportTableVersionInfo.
    let versions = unsafe { Bytes::at(versions.expose_provenance(), 24) };
    // SAFETY: as above.
    let callbacks = unsafe { get_export_table(1) };
    // SAFETY: NvtxExportTableCallbacks.
    let callbacks = unsafe { Bytes::at(callbacks.expose_provenance(), 16) };
    log(&format!(
        "core: table 2 is null: {}; versions {} {}; callbacks {}",
        unknown.is_null(),
        versions.word(0),
        versions.u32(8),
        callbacks.word(0)
    ));
    let address: *const c_void = ptr::with_exposed_provenance(callbacks.word(8));
    // SAFETY: the table has this function there.
    let get = unsafe { std::mem::transmute::<*const c_void, GetModuleFunctionTable>(address) };
    for module in 0..=7 {
        // SAFETY: NVTX's function.
        unsafe { look_at(get, module) };
    }
    i32::from(mode() != Mode::NoCore)
}

/// Writes down what a module's table is like, and puts the functions for domains into their slots.
///
/// # Safety
///
/// `get` is NVTX's.
unsafe fn look_at(get: GetModuleFunctionTable, module: c_int) {
    let (mut table, mut count) = (ptr::null(), 0);
    // SAFETY: both places can be written.
    let found = unsafe { get(module, &raw mut table, &raw mut count) };
    if found == 0 {
        return log(&format!("core: no module {module}"));
    }
    // SAFETY: the count leaves out the null at the end.
    let entries = unsafe { std::slice::from_raw_parts(table, count as usize + 1) };
    let filled = entries.iter().filter(|entry| !entry.is_null()).count();
    let ends = entries[0].is_null() && entries[count as usize].is_null();
    log(&format!("core: module {module} has {count} entries, {filled} filled, ends null: {ends}"));
    if module == CORE2 && mode() != Mode::NoFunctions {
        // SAFETY: a slot of NVTX's.
        unsafe { entries[DOMAIN_CREATE].write(domain_create as *const c_void) };
        // SAFETY: a slot of NVTX's.
        unsafe { entries[DOMAIN_DESTROY].write(domain_destroy as *const c_void) };
    }
}

unsafe extern "system" fn domain_create(name: *const c_char) -> usize {
    let handle = 0xd0 + DOMAINS.fetch_add(1, Ordering::Relaxed) + 1;
    // SAFETY: a domain's name is a C string.
    let name = unsafe { text(name) };
    log(&format!("DomainCreateA {name} = {handle:#x}"));
    handle
}

extern "system" fn domain_destroy(domain: usize) {
    log(&format!("DomainDestroy {domain:#x}"));
}
