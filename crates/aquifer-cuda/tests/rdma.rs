//! Network cards can be given all of the device's memory, where the device has that.

#![cfg(target_os = "linux")]

mod common;

use aquifer_backend::{Backend, BlockDesc};
use aquifer_cuda::cudarc::driver::{result, sys};

/// What an attribute of an address is.
fn is_rdma_capable(address: u64) -> bool {
    let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE;
    let mut value = 0_u8;
    // SAFETY: the attribute is a byte; the driver only looks the address up.
    unsafe { sys::cuPointerGetAttribute((&raw mut value).cast(), attribute, address) }.result().unwrap();
    value != 0
}

#[test]
fn mapped_memory_is_for_network_cards_too() {
    let backend = common::cuda();
    let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED;
    // SAFETY: the device is there.
    let has_it = unsafe { result::device::get_attribute(0, attribute) }.unwrap() != 0;
    let bytes = backend.properties().physical_page_bytes;
    if !has_it || bytes == 0 {
        aquifer_testkit::skip("the device does not have it");
        return;
    }
    let block = backend.create_block(&BlockDesc::new(bytes, 0)).unwrap();
    assert!(is_rdma_capable(backend.device_address(&block).unwrap()));
    // SAFETY: nobody uses it.
    unsafe { backend.destroy_block(block) }.unwrap();
}
