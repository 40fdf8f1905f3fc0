//! Random programs on streams: each buffer is filled on its home stream, lives for a while, is read on that stream, and is freed at once, while
//! streams are held back now and then. Memory that is given away too early is written by two, and one of them reads what the other wrote.

use aquifer_backend::ErrorKind;
use aquifer_core::{Buffer, MemoryManager, Queue};
use aquifer_cuda::cudarc::driver::{CudaContext, DriverError, result};
use aquifer_cuda::{Cuda, CudaOptions, CudaQueue, QueueHold};
use aquifer_testkit::{Random, config_with_budget};
use std::time::Duration;

const QUEUES: usize = 4;
const LIVE_MAX: usize = 24;
const BYTES_MAX: u64 = 4 << 20;
/// How much of each buffer is read back.
const SEEN_BYTES: usize = 256;

struct Held {
    buffer: Buffer<Cuda>,
    queue: usize,
    value: u8,
}

/// Runs the program of a seed, and answers how many of its buffers held something else than what was written last on their stream.
///
/// # Errors
///
/// What the driver says of work that touches memory which has been taken from under it. The device is lost to the process then.
pub(crate) fn wrong_buffers(seed: u64, steps: usize) -> Result<usize, DriverError> {
    crate::common::prepare();
    let mut random = Random::new(seed);
    let context = CudaContext::new(0).expect("there is a device");
    context.bind_to_thread().expect("the context is alive");
    let backend = Cuda::with_context(&context, CudaOptions::default()).expect("there is a device");
    // Less than the program would like, so that memory comes again.
    let mut config = config_with_budget(32 << 20);
    // Who would let the streams go is this very thread.
    config.in_flight_wait = Duration::ZERO;
    let manager = MemoryManager::with_config(backend, config).expect("a budget");
    let queues: Vec<_> = (0..QUEUES).map(|_| manager.queue().expect("a queue")).collect();
    let mut holds: Vec<Option<QueueHold>> = (0..QUEUES).map(|_| None).collect();
    let mut pinned = manager.pinned().allocate((steps * SEEN_BYTES) as u64).expect("there is pinned memory");
    let seen = pinned.as_mut_slice::<u8>().expect("the host sees it");
    // A sanitizer has calls wait for the device, and so for the hold.
    let may_hold = std::env::var_os("AQUIFER_TEST_NO_HOLDS").is_none();
    let (mut live, mut expected): (Vec<Held>, Vec<u8>) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let queue = random.below(QUEUES as u64) as usize;
        if random.below(4) == 0 && may_hold {
            let hold =
                if holds[queue].is_none() { Some(queues[queue].raw().hold().expect("a hold")) } else { None };
            holds[queue] = hold;
        }
        let bytes = 256 + random.below(BYTES_MAX);
        match queues[queue].allocate(bytes) {
            Ok(buffer) => {
                let value = step as u8 | 1;
                fill(queues[queue].raw(), &buffer, value)?;
                live.push(Held { buffer, queue, value });
            }
            Err(error) => {
                // What held streams keep is not to be had.
                assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
                holds.iter_mut().for_each(|hold| *hold = None);
            }
        }
        if live.len() > LIVE_MAX || (!live.is_empty() && random.below(3) == 0) {
            let held = live.swap_remove(random.below(live.len() as u64) as usize);
            let at = expected.len() * SEEN_BYTES;
            read(&queues[held.queue], &held.buffer, &mut seen[at..at + SEEN_BYTES])?;
            expected.push(held.value);
        }
    }
    drop(holds);
    queues.iter().for_each(|queue| queue.raw().wait_idle());
    let parts = seen.chunks(SEEN_BYTES).zip(&expected);
    Ok(parts.filter(|(part, value)| part.iter().any(|byte| byte != *value)).count())
}

fn fill(queue: &CudaQueue, buffer: &Buffer<Cuda>, value: u8) -> Result<(), DriverError> {
    let address = buffer.device_address().expect("CUDA has addresses");
    // SAFETY: the buffer is at home on the queue, whose stream is alive.
    unsafe { result::memset_d8_async(address, value, buffer.size_bytes() as usize, queue.stream()) }
}

fn read(queue: &Queue<Cuda>, buffer: &Buffer<Cuda>, to: &mut [u8]) -> Result<(), DriverError> {
    let address = buffer.device_address().expect("CUDA has addresses");
    // SAFETY: as above; the pinned memory stays until all streams are idle, and each part is written once.
    unsafe { result::memcpy_dtoh_async(to, address, queue.raw().stream()) }
}
