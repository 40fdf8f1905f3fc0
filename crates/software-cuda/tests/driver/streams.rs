use crate::support::*;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::thread::ThreadId;

fn at(word: &AtomicU64) -> u64 {
    word.as_ptr().addr() as u64
}

impl Session {
    fn free_word(&self, word: &AtomicU64) {
        assert_eq!((self.cuMemFreeHost)(word.as_ptr().cast()), 0);
    }
}

#[test]
fn a_stream_waits_for_a_word_and_the_caller_does_not() {
    let cuda = Session::new(13);
    let (stream, block, word, done) = (cuda.stream(), cuda.alloc(4096), cuda.word(), cuda.word());
    assert_eq!((cuda.cuStreamWaitValue64_v2)(stream, at(word), 2, 0), 0);
    assert_eq!((cuda.cuMemsetD8Async)(block, 7, 4096, stream), 0);
    assert_eq!((cuda.cuStreamWriteValue64_v2)(stream, at(done), 5, 0), 0);
    assert_eq!((cuda.cuStreamQuery)(stream), NOT_READY);
    word.store(1, SeqCst);
    assert_eq!((cuda.cuStreamQuery)(stream), NOT_READY);
    assert_eq!(done.load(SeqCst), 0);
    word.store(3, SeqCst);
    assert_eq!((cuda.cuStreamSynchronize)(stream), 0);
    assert_eq!((cuda.cuStreamQuery)(stream), 0);
    assert_eq!(done.load(SeqCst), 5);
    assert_eq!(cuda.read(block, 4096), [7; 4096]);
    // Equality is another question than "at least".
    assert_eq!((cuda.cuStreamWaitValue64_v2)(stream, at(word), 2, 1), 0);
    assert_eq!((cuda.cuStreamQuery)(stream), NOT_READY);
    word.store(2, SeqCst);
    assert_eq!((cuda.cuStreamSynchronize)(stream), 0);
    assert_eq!((cuda.cuStreamWriteValue64_v2)(stream, at(done) + 4, 5, 0), INVALID_VALUE, "not aligned");
    assert_eq!((cuda.cuStreamWriteValue64_v2)(stream, 4096, 5, 0), INVALID_VALUE, "nothing of the driver's");
    assert_eq!((cuda.cuStreamDestroy_v2)(stream), 0);
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
    cuda.free_word(word);
    cuda.free_word(done);
}

#[test]
fn streams_are_ordered_by_words_and_events() {
    let cuda = Session::new(14);
    let (first, second, block, word) = (cuda.stream(), cuda.stream(), cuda.alloc(64), cuda.word());
    let mut event = 0;
    assert_eq!((cuda.cuEventCreate)(&mut event, 2), 0);
    assert_eq!((cuda.cuEventQuery)(event), 0, "never recorded");
    assert_eq!((cuda.cuStreamWaitValue64_v2)(first, at(word), 1, 0), 0);
    assert_eq!((cuda.cuMemsetD8Async)(block, 1, 64, first), 0);
    assert_eq!((cuda.cuEventRecord)(event, first), 0);
    assert_eq!((cuda.cuStreamWaitEvent)(second, event, 0), 0);
    assert_eq!((cuda.cuMemsetD8Async)(block, 2, 64, second), 0);
    assert_eq!((cuda.cuEventQuery)(event), NOT_READY);
    assert_eq!((cuda.cuStreamQuery)(second), NOT_READY);
    word.store(1, SeqCst);
    assert_eq!((cuda.cuEventSynchronize)(event), 0);
    assert_eq!((cuda.cuStreamSynchronize)(second), 0);
    assert_eq!(cuda.read(block, 64), [2; 64]);
    assert_eq!((cuda.cuEventDestroy_v2)(event), 0);
    for stream in [first, second] {
        assert_eq!((cuda.cuStreamDestroy_v2)(stream), 0);
    }
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
    cuda.free_word(word);
}

extern "C" fn report(data: *mut c_void) {
    // SAFETY: the test gave a box of this type, once.
    let sender = unsafe { Box::from_raw(data.cast::<Sender<ThreadId>>()) };
    sender.send(std::thread::current().id()).expect("the test waits for it");
}

#[test]
fn host_functions_run_in_their_turn_on_another_thread() {
    let cuda = Session::new(15);
    let (stream, word, (sender, receiver)) = (cuda.stream(), cuda.word(), channel());
    let sender: *mut Sender<ThreadId> = Box::into_raw(Box::new(sender));
    assert_eq!((cuda.cuStreamWaitValue64_v2)(stream, at(word), 1, 0), 0);
    assert_eq!((cuda.cuLaunchHostFunc)(stream, report, sender.cast()), 0);
    assert!(receiver.try_recv().is_err());
    word.store(1, SeqCst);
    assert_ne!(receiver.recv().unwrap(), std::thread::current().id());
    assert_eq!((cuda.cuStreamDestroy_v2)(stream), 0);
    cuda.free_word(word);
}

#[test]
fn a_destroyed_stream_ends_its_work_and_has_no_name() {
    let cuda = Session::new(16);
    let (stream, block, word, done) = (cuda.stream(), cuda.alloc(64), cuda.word(), cuda.word());
    assert_eq!((cuda.cuStreamWaitValue64_v2)(stream, at(word), 1, 0), 0);
    assert_eq!((cuda.cuMemsetD8Async)(block, 6, 64, stream), 0);
    assert_eq!((cuda.cuStreamWriteValue64_v2)(stream, at(done), 1, 0), 0);
    assert_eq!((cuda.cuStreamDestroy_v2)(stream), 0);
    assert_eq!(done.load(SeqCst), 0);
    if is_software() {
        // The driver may crash here.
        assert_eq!((cuda.cuStreamQuery)(stream), INVALID_HANDLE);
        assert_eq!((cuda.cuStreamDestroy_v2)(stream), INVALID_HANDLE);
    }
    word.store(1, SeqCst);
    assert_eq!((cuda.cuCtxSynchronize)(), 0, "this waits for streams that have no name any more");
    assert_eq!(done.load(SeqCst), 1);
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
    cuda.free_word(word);
    cuda.free_word(done);
}

#[test]
fn freeing_waits_for_the_devices_work() {
    let cuda = Session::new(17);
    let (stream, block, word, done) = (cuda.stream(), cuda.alloc(64), cuda.word(), cuda.word());
    for free_host in [false, true] {
        let other = cuda.pinned(64);
        word.store(0, SeqCst);
        done.store(0, SeqCst);
        assert_eq!((cuda.cuStreamWaitValue64_v2)(stream, at(word), 1, 0), 0);
        assert_eq!((cuda.cuStreamWriteValue64_v2)(stream, at(done), 1, 0), 0);
        std::thread::scope(|scope| {
            scope.spawn(|| word.store(1, SeqCst));
            let code = if free_host { (cuda.cuMemFreeHost)(other) } else { (cuda.cuMemFree_v2)(block) };
            assert_eq!((code, done.load(SeqCst)), (0, 1));
        });
        if !free_host {
            assert_eq!((cuda.cuMemFreeHost)(other), 0);
        }
    }
    assert_eq!((cuda.cuStreamDestroy_v2)(stream), 0);
    cuda.free_word(word);
    cuda.free_word(done);
}

#[test]
fn the_null_stream_goes_between_blocking_streams() {
    let cuda = Session::new(18);
    let (block, word, mut blocking) = (cuda.alloc(64), cuda.word(), 0);
    assert_eq!((cuda.cuStreamCreate)(&mut blocking, 0), 0);
    assert_eq!((cuda.cuStreamWaitValue64_v2)(blocking, at(word), 1, 0), 0);
    assert_eq!((cuda.cuMemsetD8Async)(block, 1, 64, blocking), 0);
    assert_eq!((cuda.cuMemsetD8Async)(block, 2, 32, 0), 0, "behind the blocking stream");
    assert_eq!((cuda.cuMemsetD8Async)(block, 3, 16, blocking), 0, "behind the null stream");
    assert_eq!((cuda.cuStreamQuery)(0), NOT_READY);
    word.store(1, SeqCst);
    assert_eq!((cuda.cuStreamSynchronize)(blocking), 0);
    assert_eq!(cuda.read(block, 64), [[3; 16], [2; 16], [1; 16], [1; 16]].concat());
    assert_eq!((cuda.cuStreamDestroy_v2)(blocking), 0);
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
    cuda.free_word(word);
}
