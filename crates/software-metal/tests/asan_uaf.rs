// Under AddressSanitizer this must fail: it reads a buffer's memory after the last release.
use objc2::rc::autoreleasepool;
use objc2_metal::*;
use software_metal as _;
#[test]
#[ignore = "run by hand under -Zsanitizer=address: must report heap-use-after-free"]
fn contents_after_release() {
    autoreleasepool(|_| {
        let d = MTLCreateSystemDefaultDevice().unwrap();
        let b = d.newBufferWithLength_options(64, MTLResourceOptions::empty()).unwrap();
        let p = b.contents().cast::<u8>();
        drop(b);
        println!("{}", unsafe { p.read_volatile() });
    });
}
