//! Domains, heaps and regions.

use std::ffi::CString;
use std::ptr;
use std::sync::Arc;

use crate::abi::{
    self, Handle, HeapDescription, MemoryFunction, RegionName, RegionsName, RegionsRegister,
    RegionsUnregister, VirtualRange,
};
use crate::tool::Tool;

/// The longest name that compute-sanitizer takes.
const NAME_BYTES: usize = 49;

/// Whose heaps they are: tools may show or filter what they are told by its domain.
///
/// Cheap to clone; the tool's domain ends with the last clone and the last heap in it.
#[derive(Clone, Debug)]
pub struct Domain(Arc<OwnedDomain>);

#[derive(Debug)]
struct OwnedDomain {
    tool: &'static Tool,
    handle: Handle,
}

impl Domain {
    /// A new domain, or `None` if there is no tool ([`is_tool_present`](crate::is_tool_present)).
    ///
    /// Of this and all other names here 49 characters are told, and those that are not printable ASCII as question marks: a longer name, or
    /// another one, is not taken by compute-sanitizer.
    pub fn create(name: &str) -> Option<Domain> {
        let tool = Tool::get()?;
        let handle = tool.create_domain(&label(name));
        Some(Domain(Arc::new(OwnedDomain { tool, handle })))
    }

    /// Registers `bytes` bytes from the address `start` on as the heap of a sub-allocator. From now on the tool takes every access there for
    /// an error, until regions are registered in it.
    ///
    /// For compute-sanitizer the range is to be an allocation of the driver's (`cudaMalloc`, `cuMemAlloc`); its manual says nothing of
    /// parts of one, or of memory that is mapped (`cuMemMap`).
    ///
    /// `None` if the tool refuses, or if no such range can be (empty, or past the last address).
    pub fn register_heap(&self, start: u64, bytes: u64, name: &str) -> Option<Heap> {
        let end = start.checked_add(bytes)?;
        let range = range(start, bytes).filter(|_| bytes > 0)?;
        let name = label(name);
        let description = HeapDescription {
            compatibility: abi::MEMORY_COMPATIBILITY,
            struct_size: abi::struct_size::<HeapDescription>(),
            reserved: 0,
            usage: abi::USAGE_SUB_ALLOCATOR,
            memory_type: abi::TYPE_VIRTUAL_ADDRESS,
            range_size: size_of::<VirtualRange>(),
            range: &raw const range,
            category: 0,
            message_type: if name.is_empty() { abi::MESSAGE_UNKNOWN } else { abi::MESSAGE_ASCII },
            message: if name.is_empty() { ptr::null() } else { name.as_ptr() },
        };
        // SAFETY: the domain lives, and range and name outlive the call.
        let handle = unsafe { self.0.tool.register_heap(self.0.handle, &description) }?;
        Some(Heap { domain: self.clone(), handle, start, end })
    }
}

impl Drop for OwnedDomain {
    fn drop(&mut self) {
        // SAFETY: it is from create_domain, and every heap in it has held a clone.
        unsafe { self.tool.destroy_domain(self.handle) }
    }
}

/// A part of memory that is handed out piece by piece, the pieces being its regions.
///
/// Usable on any thread, by several at a time: what they tell reaches the tool in the order of their calls. Dropping it ends
/// its regions too, and is to come right before the memory goes back to the driver: compute-sanitizer's manual has it that memory that
/// was a heap may only be freed.
#[derive(Debug)]
pub struct Heap {
    domain: Domain,
    handle: Handle,
    start: u64,
    end: u64,
}

impl Heap {
    /// Says that the `bytes` bytes from `start` on may be accessed now. To be called before anybody is given them.
    ///
    /// With a name, unless it is empty, as [`name_region`](Self::name_region) gives it.
    ///
    /// Whether the tool has been told: `false`, and nothing else, for an empty region or one that is not inside the heap. Whether
    /// regions overlap is not checked here; what becomes of such is the tool's business.
    pub fn register_region(&self, start: u64, bytes: u64, name: Option<&str>) -> bool {
        let inside = bytes > 0 && self.contains(start) && bytes <= self.end - start;
        let Some(element) = range(start, bytes).filter(|_| inside) else {
            return false;
        };
        let batch = RegionsRegister {
            compatibility: abi::MEMORY_COMPATIBILITY,
            struct_size: abi::struct_size::<RegionsRegister>(),
            memory_type: abi::TYPE_VIRTUAL_ADDRESS,
            heap: self.handle,
            count: 1,
            element_size: size_of::<VirtualRange>(),
            elements: &raw const element,
            handles: ptr::null_mut(),
        };
        // SAFETY: batch is what this function takes, and element outlives the call.
        unsafe { self.tell(MemoryFunction::RegionsRegister, &batch) };
        if let Some(name) = name {
            self.name_region(start, name);
        }
        true
    }

    /// Says that the region that starts at `start` may no longer be accessed. To be called when no work in flight uses it any more, and
    /// before anybody else is given the memory.
    ///
    /// Whether the tool has been told: `false`, and nothing else, for an address outside the heap.
    pub fn unregister_region(&self, start: u64) -> bool {
        let Some(element) = usize::try_from(start).ok().filter(|_| self.contains(start)) else {
            return false;
        };
        let batch = RegionsUnregister {
            compatibility: abi::MEMORY_COMPATIBILITY,
            struct_size: abi::struct_size::<RegionsUnregister>(),
            reference_type: abi::REFERENCE_POINTER,
            count: 1,
            element_size: size_of::<usize>(),
            elements: &raw const element,
        };
        // SAFETY: batch is what this function takes, and element outlives the call.
        unsafe { self.tell(MemoryFunction::RegionsUnregister, &batch) };
        true
    }

    /// Names the region that starts at `start`, or names it anew. compute-sanitizer shows names in reports of leaks and of
    /// unused memory.
    ///
    /// Whether the tool has been told: `false`, and nothing else, for an address outside the heap or an empty name.
    pub fn name_region(&self, start: u64, name: &str) -> bool {
        let possible = self.contains(start) && !name.is_empty();
        let Some(region) = usize::try_from(start).ok().filter(|_| possible) else {
            return false;
        };
        let name = label(name);
        let element = RegionName {
            reference_type: abi::REFERENCE_POINTER,
            message_type: abi::MESSAGE_ASCII,
            start: region,
            name: name.as_ptr(),
            category: 0,
            reserved: 0,
        };
        let batch = RegionsName {
            compatibility: abi::MEMORY_COMPATIBILITY,
            struct_size: abi::struct_size::<RegionsName>(),
            reserved: 0,
            count: 1,
            element_size: size_of::<RegionName>(),
            elements: &raw const element,
            reserved_too: 0,
        };
        // SAFETY: batch is what this function takes, and element and name outlive the call.
        unsafe { self.tell(MemoryFunction::RegionsName, &batch) };
        true
    }

    /// Ends all regions at once, as if the heap were new.
    pub fn reset(&self) {
        // SAFETY: what this function takes is a heap that lives.
        unsafe { self.tool().tell(MemoryFunction::HeapReset, self.domain(), self.handle.as_argument()) }
    }

    fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    fn tool(&self) -> &'static Tool {
        self.domain.0.tool
    }

    fn domain(&self) -> Handle {
        self.domain.0.handle
    }

    /// # Safety
    ///
    /// `batch`, with all that it points to, is what `function` takes.
    unsafe fn tell<Batch>(&self, function: MemoryFunction, batch: &Batch) {
        // SAFETY: the domain lives as long as its heaps; the rest is the caller's promise.
        unsafe { self.tool().tell(function, self.domain(), ptr::from_ref(batch).cast()) }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        let heap = self.handle.as_argument();
        // SAFETY: what this function takes is a heap that lives, and this one is not used afterwards.
        unsafe { self.tool().tell(MemoryFunction::HeapUnregister, self.domain(), heap) }
    }
}

/// A range as NVTX has it, if this process has such addresses.
fn range(start: u64, bytes: u64) -> Option<VirtualRange> {
    Some(VirtualRange { bytes: bytes.try_into().ok()?, start: start.try_into().ok()? })
}

/// A name as compute-sanitizer takes it: printable ASCII, and no more than [`NAME_BYTES`] of it.
fn label(name: &str) -> CString {
    let printable = |character: char| if matches!(character, ' '..='~') { character as u8 } else { b'?' };
    let bytes: Vec<u8> = name.chars().map(printable).take(NAME_BYTES).collect();
    // There is no zero among them, which is all that could be refused.
    CString::new(bytes).unwrap_or_default()
}
