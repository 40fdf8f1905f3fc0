//! Finding the tool, once for the process, and calling it.

use std::ffi::{CStr, c_void};
use std::mem::{self, ManuallyDrop};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use libloading::Library;

use crate::abi::{self, CoreFunction, Handle, HeapDescription, MemoryFunction, ModuleInfo, Segment, Slot};
use crate::export;

/// The variable with the path of the tool's library.
const PATH: &str =
    if cfg!(target_pointer_width = "32") { "NVTX_INJECTION32_PATH" } else { "NVTX_INJECTION64_PATH" };

static TOOL: OnceLock<Option<Tool>> = OnceLock::new();

/// Where the tool puts its memory functions. A tool may keep the address, so this lives for ever.
static SLOTS: [Slot; abi::MEMORY_SLOTS] = [const { Slot::new(ptr::null_mut()) }; abi::MEMORY_SLOTS];

/// A tool that has been initialised and registers heaps.
#[derive(Debug)]
pub(crate) struct Tool {
    /// Whether it takes the core's functions too.
    has_core: bool,
}

impl Tool {
    /// The process's tool. The first call looks for it, and others wait meanwhile.
    pub(crate) fn get() -> Option<&'static Tool> {
        TOOL.get_or_init(Tool::load).as_ref()
    }

    /// As NVTX's headers do it: first the core, then the extension, which is asked even if the core is refused.
    fn load() -> Option<Tool> {
        let path = std::env::var_os(PATH).filter(|path| !path.is_empty())?;
        // SAFETY: the library's initialisers run. Who sets the variable vouches for it, as for all programs with NVTX.
        let library = unsafe { Library::new(path) }.ok()?;
        // What it hands out must stay callable.
        let library = ManuallyDrop::new(library);
        let has_core = initialize_core(&library);
        initialize_memory(&library).then_some(Tool { has_core })
    }

    /// A domain, or the one that everybody shares if the tool makes none.
    pub(crate) fn create_domain(&self, name: &CStr) -> Handle {
        let Some(function) = self.core_function(CoreFunction::DomainCreateA) else {
            return Handle::NULL;
        };
        // SAFETY: the tool put it into the slot of nvtxDomainCreateA, whose signature this is.
        let create = unsafe { mem::transmute::<*mut (), abi::DomainCreate>(function) };
        // SAFETY: the name ends with a zero and outlives the call.
        unsafe { create(name.as_ptr()) }
    }

    /// # Safety
    ///
    /// `domain` is from [`create_domain`](Self::create_domain), and not used afterwards.
    pub(crate) unsafe fn destroy_domain(&self, domain: Handle) {
        let Some(function) = self.core_function(CoreFunction::DomainDestroy) else {
            return;
        };
        // SAFETY: the tool put it into the slot of nvtxDomainDestroy, whose signature this is.
        let destroy = unsafe { mem::transmute::<*mut (), abi::DomainDestroy>(function) };
        // SAFETY: a living domain, as the caller promises.
        unsafe { destroy(domain) }
    }

    /// The heap's handle, if the tool takes it.
    ///
    /// # Safety
    ///
    /// `domain` lives, and `description` with all that it points to is as NVTX says.
    pub(crate) unsafe fn register_heap(
        &self,
        domain: Handle,
        description: &HeapDescription,
    ) -> Option<Handle> {
        let function = filled(&SLOTS[MemoryFunction::HeapRegister as usize])?;
        // SAFETY: the tool put it into the slot of nvtxMemHeapRegister, whose signature this is.
        let register = unsafe { mem::transmute::<*mut (), abi::HeapRegister>(function) };
        // SAFETY: as the caller promises.
        let heap = unsafe { register(domain, description) };
        heap.is_some().then_some(heap)
    }

    /// Calls any other memory function, unless the tool has none.
    ///
    /// # Safety
    ///
    /// `domain` lives, `function` is not `HeapRegister`, and `argument` is what it takes: a living heap's handle, or a description
    /// that with all that it points to is as NVTX says.
    pub(crate) unsafe fn tell(&self, function: MemoryFunction, domain: Handle, argument: *const c_void) {
        let Some(function) = filled(&SLOTS[function as usize]) else {
            return;
        };
        // SAFETY: all functions but HeapRegister take two pointers and answer nothing.
        let tell = unsafe { mem::transmute::<*mut (), abi::Tell>(function) };
        // SAFETY: as the caller promises.
        unsafe { tell(domain, argument) }
    }

    /// A tool whose core has refused may have left functions in its slots all the same.
    fn core_function(&self, function: CoreFunction) -> Option<*mut ()> {
        if self.has_core { filled(export::slot(function)) } else { None }
    }
}

/// Whether the tool takes the core's functions.
fn initialize_core(library: &Library) -> bool {
    // SAFETY: a library that exports this name for another purpose is no tool.
    let symbol = unsafe { library.get::<abi::InitializeCore>(b"InitializeInjectionNvtx2\0") };
    // SAFETY: called once, with a function that does what the tool expects of nvtxGetExportTable.
    symbol.is_ok_and(|initialize| unsafe { initialize(export::get_export_table) } != 0)
}

/// Whether the tool takes the memory extension's functions, at least that which registers heaps.
fn initialize_memory(library: &Library) -> bool {
    // SAFETY: a library that exports this name for another purpose is no tool.
    let symbol = unsafe { library.get::<abi::InitializeExtension>(b"InitializeInjectionNvtxExtension\0") };
    let Ok(initialize) = symbol else {
        return false;
    };
    let mut segment = Segment { id: abi::MEMORY_SEGMENT, slot_count: SLOTS.len(), slots: SLOTS.as_ptr() };
    let mut module = ModuleInfo {
        nvtx_version: abi::VERSION,
        struct_size: abi::struct_size::<ModuleInfo>(),
        module: abi::MEMORY_MODULE,
        compatibility: abi::MEMORY_COMPATIBILITY,
        segment_count: 1,
        segments: &raw mut segment,
        get_export_function: ptr::null(),
        extension_info: ptr::null(),
    };
    // SAFETY: called once, with a description that outlives the call and slots that live for ever.
    let accepted = unsafe { initialize(&raw mut module) } != 0;
    accepted && filled(&SLOTS[MemoryFunction::HeapRegister as usize]).is_some()
}

/// The function in a slot. Read anew for each call, as NVTX does, for tools that come back to their slots.
fn filled(slot: &Slot) -> Option<*mut ()> {
    // Whoever calls has been through TOOL, which orders this after what initialisation wrote.
    let function = slot.load(Ordering::Relaxed);
    (!function.is_null() && function.addr() != abi::SLOT_DISABLED).then_some(function)
}
