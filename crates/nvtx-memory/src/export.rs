//! The core's side of NVTX: the tables that a tool asks for, and writes its functions into.
//!
//! Only two functions of one module are ever called. But a tool may take a module that it is not given for a failure, so all six of
//! NVTX 3 are there, at their full lengths.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr;

use crate::abi::{CallbackTable, CoreFunction, FunctionTable, Slot, VERSION, VersionTable};

/// `NVTX_CB_MODULE_CORE2`, of the functions with domains, as a place in [`LENGTHS`].
const CORE2: usize = 4;

/// How many functions each module has, from `NVTX_CB_MODULE_CORE` (1) to `NVTX_CB_MODULE_SYNC` (6): core, CUDA, OpenCL, CUDA's
/// runtime, core with domains, synchronisation. Number zero, which no function has, is counted.
const LENGTHS: [usize; 6] = [16, 9, 15, 7, 16, 7];
const LONGEST: usize = 16;

/// `NVTX_ETID_CALLBACKS` and `NVTX_ETID_VERSIONINFO`.
const CALLBACKS_ID: u32 = 1;
const VERSION_ID: u32 = 3;

static SLOTS: [[Slot; LONGEST]; LENGTHS.len()] =
    [const { [const { Slot::new(ptr::null_mut()) }; LONGEST] }; LENGTHS.len()];

static TABLES: [[Option<&Slot>; LONGEST + 1]; LENGTHS.len()] = {
    let mut tables = [[None; LONGEST + 1]; LENGTHS.len()];
    let mut module = 0;
    while module < LENGTHS.len() {
        let mut function = 1;
        while function < LENGTHS[module] {
            tables[module][function] = Some(&SLOTS[module][function]);
            function += 1;
        }
        module += 1;
    }
    tables
};

static CALLBACKS: CallbackTable =
    CallbackTable { struct_size: size_of::<CallbackTable>(), get_module_function_table };

static VERSIONS: VersionTable = VersionTable {
    struct_size: size_of::<VersionTable>(),
    version: VERSION as u32,
    reserved: 0,
    set_injection_version,
};

/// Where a tool has put its function.
pub(crate) fn slot(function: CoreFunction) -> &'static Slot {
    &SLOTS[CORE2][function as usize]
}

/// `nvtxGetExportTable`: a table that lives for ever, or null. Callable on any thread.
pub(crate) extern "system" fn get_export_table(id: u32) -> *const c_void {
    match id {
        CALLBACKS_ID => (&raw const CALLBACKS).cast(),
        VERSION_ID => (&raw const VERSIONS).cast(),
        _ => ptr::null(),
    }
}

/// The table of one module, and the number of its entries, less the null behind the last. Answers zero if there is no such module.
///
/// # Safety
///
/// `table` and `count` are each null or writable.
unsafe extern "system" fn get_module_function_table(
    module: c_int,
    table: *mut FunctionTable,
    count: *mut c_uint,
) -> c_int {
    let module = usize::try_from(module).ok().and_then(|module| module.checked_sub(1));
    let Some((module, &length)) = module.and_then(|module| Some((module, LENGTHS.get(module)?))) else {
        return 0;
    };
    if !count.is_null() {
        // SAFETY: not null, so writable, as the caller promises.
        unsafe { count.write(length as c_uint) };
    }
    if !table.is_null() {
        // SAFETY: not null, so writable, as the caller promises.
        unsafe { table.write(TABLES[module].as_ptr()) };
    }
    1
}

/// For the tool to say which version of NVTX it was built with. NVTX itself ignores it too.
extern "system" fn set_injection_version(_version: u32) {}
