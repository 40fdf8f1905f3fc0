use crate::support::*;

const UNSUPPORTED: i32 = 217;
const ALREADY_ENABLED: i32 = 704;
const NOT_ENABLED: i32 = 705;

#[test]
fn devices_copy_to_each_other() {
    let (far, cuda) = (Session::new(24), Session::new(25));
    if far.device == cuda.device {
        return; // a machine with one device
    }
    let mut can = -1;
    assert_eq!((cuda.cuDeviceCanAccessPeer)(&mut can, cuda.device, cuda.device), 0);
    assert_eq!(can, 0);
    assert_eq!((cuda.cuDeviceCanAccessPeer)(&mut can, cuda.device, far.device), 0);
    assert_eq!(can, 1);
    let near_block = cuda.alloc(4096);
    assert_eq!((cuda.cuCtxSetCurrent)(far.context), 0);
    let far_block = cuda.alloc(4096);
    cuda.write(far_block, &[8; 4096]);
    assert_eq!((cuda.cuCtxSetCurrent)(cuda.context), 0);
    let stream = cuda.stream();
    let code = (cuda.cuMemcpyPeerAsync)(near_block, cuda.context, far_block, far.context, 4096, stream);
    assert_eq!((code, (cuda.cuStreamSynchronize)(stream)), (0, 0));
    assert_eq!(cuda.read(near_block, 4096), [8; 4096]);
    assert_eq!((cuda.cuCtxDisablePeerAccess)(far.context), NOT_ENABLED);
    assert_eq!((cuda.cuCtxEnablePeerAccess)(far.context, 0), 0);
    assert_eq!((cuda.cuCtxEnablePeerAccess)(far.context, 0), ALREADY_ENABLED);
    // Now the device itself may go there.
    assert_eq!((cuda.cuMemsetD8Async)(far_block, 9, 4096, stream), 0);
    assert_eq!((cuda.cuStreamSynchronize)(stream), 0);
    assert_eq!(cuda.read(far_block, 4096), [9; 4096]);
    assert_eq!((cuda.cuCtxDisablePeerAccess)(far.context), 0);
    assert_eq!((cuda.cuStreamDestroy_v2)(stream), 0);
    assert_eq!((cuda.cuMemFree_v2)(near_block), 0);
    assert_eq!((cuda.cuMemFree_v2)(far_block), 0);
    let mut own = 0;
    assert_eq!((cuda.cuCtxCreate_v2)(&mut own, 0, cuda.device), 0);
    assert_eq!((cuda.cuCtxEnablePeerAccess)(cuda.context, 0), UNSUPPORTED, "the same device");
    assert_eq!((cuda.cuCtxDestroy_v2)(own), 0);
}
