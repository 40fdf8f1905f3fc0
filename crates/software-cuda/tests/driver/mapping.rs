use crate::support::*;

#[test]
fn one_handle_is_behind_several_addresses() {
    let cuda = Session::new(1);
    let size = cuda.granularity();
    let (range, handles) = (cuda.reserve(3 * size), [cuda.create(size), cuda.create(size)]);
    for (i, which) in [0, 1, 0].into_iter().enumerate() {
        assert_eq!((cuda.cuMemMap)(range + (i * size) as u64, size, 0, handles[which], 0), 0);
    }
    assert_eq!(cuda.allow(range, 3 * size), 0);
    let end = range + size as u64;
    // Across a border between two handles.
    cuda.write(end - 4, b"deadbeef");
    assert_eq!(cuda.read(end - 4, 8), b"deadbeef");
    // The first handle's memory by its other address.
    assert_eq!(cuda.read(end + 2 * size as u64 - 4, 4), b"dead");
    // The memory lives by its mappings alone.
    for handle in handles {
        assert_eq!((cuda.cuMemRelease)(handle), 0);
    }
    assert_eq!(cuda.read(end - 4, 8), b"deadbeef");
    assert_eq!((cuda.cuMemUnmap)(range, 3 * size), 0);
    assert_eq!((cuda.cuMemAddressFree)(range, 3 * size), 0);
}
