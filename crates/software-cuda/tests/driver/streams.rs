use crate::support::*;
use std::sync::atomic::Ordering::SeqCst;

#[test]
fn a_stream_waits_for_a_word_and_the_caller_does_not() {
    let cuda = Session::new(2);
    let (stream, block, word, done) = (cuda.stream(), cuda.alloc(4096), cuda.word(), cuda.word());
    let at = |word: &std::sync::atomic::AtomicU64| word.as_ptr().addr() as u64;
    assert_eq!((cuda.cuStreamWaitValue64_v2)(stream, at(word), 2, 0), 0);
    assert_eq!((cuda.cuMemsetD8Async)(block, 7, 4096, stream), 0);
    assert_eq!((cuda.cuStreamWriteValue64_v2)(stream, at(done), 5, 0), 0);
    assert_eq!((cuda.cuStreamQuery)(stream), NOT_READY);
    word.store(1, SeqCst);
    assert_eq!((cuda.cuStreamQuery)(stream), NOT_READY);
    assert_eq!(done.load(SeqCst), 0);
    word.store(3, SeqCst);
    assert_eq!((cuda.cuStreamSynchronize)(stream), 0);
    assert_eq!(done.load(SeqCst), 5);
    assert_eq!(cuda.read(block, 4096), [7; 4096]);
    assert_eq!((cuda.cuStreamDestroy_v2)(stream), 0);
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
    assert_eq!((cuda.cuMemFreeHost)(word.as_ptr().cast()), 0);
    assert_eq!((cuda.cuMemFreeHost)(done.as_ptr().cast()), 0);
}
