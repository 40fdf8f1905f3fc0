//! Queues, streams and contexts that are not this backend's, or are none. One device, or two, for each test.

#![cfg(target_os = "linux")]

mod common;

use aquifer_backend::{Backend, ErrorKind};
use aquifer_cuda::cudarc::driver::{CudaContext, sys};
use aquifer_cuda::{Cuda, CudaOptions};
use software_cuda::Settings;
use std::ptr;

const DEVICES: u32 = 7;

fn device(ordinal: u32) -> Option<Cuda> {
    if common::is_real() {
        aquifer_testkit::skip("the machine may not have so many devices");
        return None;
    }
    let _is_first = software_cuda::configure(&Settings { device_count: DEVICES, ..Settings::default() });
    Some(Cuda::with_options(CudaOptions::default().ordinal(ordinal)).unwrap())
}

#[test]
fn a_queue_does_not_wait_for_another_devices() {
    let (Some(near), Some(far)) = (device(0), device(1)) else { return };
    let (first, second) = (far.create_queue().unwrap(), near.create_queue().unwrap());
    let hold = first.hold().unwrap();
    // SAFETY: nobody relies on the queue's value.
    unsafe { far.signal(&first, 1) }.unwrap();
    // If the far device were lost, the near one's stream would wait for good.
    let error = near.wait_on_queue(&second, &first, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert!(error.to_string().contains("device 0") && error.to_string().contains("device 1"), "{error}");
    drop(hold);
}

#[test]
fn the_default_streams_of_two_devices_are_two() {
    let (Some(near), Some(far)) = (device(2), device(3)) else { return };
    // SAFETY: the default stream lives as long as its context.
    let [first, second] = [&far, &near].map(|one| unsafe { one.adopt_raw_stream(ptr::null_mut()) }.unwrap());
    assert_eq!(first.stream(), second.stream());
    // SAFETY: nobody relies on the queue's value.
    unsafe { far.signal(&first, 1) }.unwrap();
    near.wait_on_queue(&second, &first, 1).expect_err("that would not order anything");
}

#[test]
fn what_is_no_stream_and_no_context_is_refused() {
    const PER_THREAD: usize = 2;
    let Some(backend) = device(4) else { return };
    // SAFETY: the handle is one that the driver knows.
    let refused = unsafe { backend.adopt_raw_stream(ptr::without_provenance_mut(PER_THREAD)) };
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    // SAFETY: there is no context to live.
    let error = unsafe { Cuda::with_raw_context(ptr::null_mut(), CudaOptions::default()) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    backend.create_queue().expect("the device is well");
}

#[test]
fn a_peers_context_that_is_gone_is_not_this_devices_loss() {
    const ORDINAL: u32 = 5;
    let Some(reader) = device(6) else { return };
    let peer = device(ORDINAL).unwrap();
    let context = CudaContext::new(ORDINAL as usize).unwrap();
    let reset = |_: &CudaContext| {
        // SAFETY: nobody uses the context but by calls that check the handle.
        unsafe { sys::cuDevicePrimaryCtxReset_v2(ORDINAL as i32) }.result().unwrap();
    };
    reset(&context);
    assert!(!reader.reads_peer(&peer, 0));
    reader.create_queue().expect("the device is well");
    assert_eq!(peer.create_queue().unwrap_err().kind(), ErrorKind::DeviceLost);
}
