use crate::support::*;

const DESTROYED: i32 = 709;

#[test]
fn contexts_are_stacked_on_a_thread() {
    let cuda = Session::new(19);
    let (mut own, mut now, mut device) = (0, 0, -1);
    assert_eq!((cuda.cuCtxCreate_v2)(&mut own, 0, cuda.device), 0);
    assert_eq!((cuda.cuCtxGetCurrent)(&mut now), 0);
    assert_eq!(now, own, "a new one is current");
    assert_eq!((cuda.cuCtxGetDevice)(&mut device), 0);
    assert_eq!(device, cuda.device);
    assert_eq!((cuda.cuCtxPopCurrent_v2)(&mut now), 0);
    assert_eq!((cuda.cuCtxGetCurrent)(&mut now), 0);
    assert_eq!(now, cuda.context);
    assert_eq!((cuda.cuCtxPushCurrent_v2)(own), 0);
    assert_eq!((cuda.cuCtxSetCurrent)(0), 0, "takes the top away");
    assert_eq!((cuda.cuCtxGetCurrent)(&mut now), 0);
    assert_eq!(now, cuda.context);
    assert_eq!((cuda.cuCtxDestroy_v2)(own), 0);
}

#[test]
fn without_a_context_nothing_goes() {
    let cuda = Session::new(20);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut now = 1;
            assert_eq!((cuda.cuCtxGetCurrent)(&mut now), 0);
            assert_eq!(now, 0);
            assert_eq!((cuda.cuMemAlloc_v2)(&mut 0, 64), INVALID_CONTEXT);
            assert_eq!((cuda.cuStreamCreate)(&mut 0, 0), INVALID_CONTEXT);
            assert_eq!((cuda.cuCtxSynchronize)(), INVALID_CONTEXT);
            assert_eq!((cuda.cuMemGetInfo_v2)(&mut 0, &mut 0), INVALID_CONTEXT);
        });
    });
}

#[test]
fn a_context_takes_what_it_has_with_it() {
    let cuda = Session::new(21);
    let (mut own, mut now) = (0, 0);
    assert_eq!((cuda.cuCtxCreate_v2)(&mut own, 0, cuda.device), 0);
    let (block, stream) = (cuda.alloc(1 << 20), cuda.stream());
    assert_eq!((cuda.cuMemsetD8Async)(block, 0, 1 << 20, stream), 0);
    assert_eq!((cuda.cuCtxPopCurrent_v2)(&mut now), 0);
    if is_software() {
        assert_eq!((cuda.cuMemsetD8Async)(block, 0, 1, stream), INVALID_HANDLE, "another context's stream");
    }
    assert_eq!((cuda.cuCtxDestroy_v2)(own), 0);
    assert_eq!((cuda.cuMemFree_v2)(block), INVALID_VALUE);
    if is_software() {
        let live = software_cuda::live_on(cuda.device as usize);
        assert_eq!((live.contexts, live.blocks, live.streams, live.device_bytes), (1, 0, 0, 0));
    }
}

#[test]
fn a_primary_context_lives_while_it_is_retained() {
    let cuda = Session::new(22);
    let (mut again, mut flags, mut active) = (0, 0, 0);
    let mut is_active = || {
        assert_eq!((cuda.cuDevicePrimaryCtxGetState)(cuda.device, &mut flags, &mut active), 0);
        active == 1
    };
    assert!(is_active());
    assert_eq!((cuda.cuDevicePrimaryCtxRetain)(&mut again, cuda.device), 0);
    assert_eq!(again, cuda.context);
    assert_eq!((cuda.cuDevicePrimaryCtxRelease_v2)(cuda.device), 0);
    assert_eq!((cuda.cuDevicePrimaryCtxRelease_v2)(cuda.device), 0);
    assert!(!is_active());
    assert_eq!((cuda.cuMemAlloc_v2)(&mut 0, 64), DESTROYED, "still current, and gone");
    assert_eq!((cuda.cuDevicePrimaryCtxRelease_v2)(cuda.device), INVALID_CONTEXT, "more often than retained");
    assert_eq!((cuda.cuDevicePrimaryCtxRetain)(&mut again, cuda.device), 0, "for the session's end");
}

#[test]
fn the_capture_mode_is_exchanged() {
    let cuda = Session::new(23);
    let (mut mode, mut status, stream) = (2, 7, cuda.stream());
    assert_eq!((cuda.cuThreadExchangeStreamCaptureMode)(&mut mode), 0);
    assert_eq!(mode, 0);
    assert_eq!((cuda.cuThreadExchangeStreamCaptureMode)(&mut mode), 0);
    assert_eq!(mode, 2);
    assert_eq!((cuda.cuStreamIsCapturing)(stream, &mut status), 0);
    assert_eq!(status, 0);
    let mut context = 0;
    assert_eq!((cuda.cuStreamGetCtx)(stream, &mut context), 0);
    assert_eq!(context, cuda.context);
    assert_eq!((cuda.cuStreamDestroy_v2)(stream), 0);
}
