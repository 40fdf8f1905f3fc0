//! Random transfers on simulated devices that are cancelled and dropped at random times, by a printed seed: nothing stays allocated, nothing is
//! corrupted, and at most one chunk is copied after a cancellation.

mod simulated;

use aquifer::sim::{Lateness, Sim, SimDesc};
use aquifer::{
    Begun, Buffer, CancelToken, CopyDesc, ErrorKind, MemoryManager, OperationError, Priority, Route, Transfer,
};
use simulated::CHUNK_BYTES;

const BUFFER_BYTES: usize = 200_000;
const SEEDS: u64 = 20;
const CANCELS_AND_DROPS_PER_SEED: u32 = 500;

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A buffer on a device, and what it holds; `None` if that is not known.
struct Held {
    buffer: Buffer<Sim>,
    device: usize,
    content: Option<Vec<u8>>,
}

type Pair = (Buffer<Sim>, Buffer<Sim>);

/// A transfer under way, and what its parts hold once it is over.
enum Going {
    Upload(Transfer<Sim, (Buffer<Sim>, Vec<u8>)>, usize, Vec<u8>),
    Download(Transfer<Sim, (Buffer<Sim>, Vec<u8>)>, usize, Option<Vec<u8>>),
    Copy(Transfer<Sim, Pair>, [usize; 2], Option<Vec<u8>>),
    Fill(Transfer<Sim, Buffer<Sim>>, usize, u8),
}

impl Going {
    fn cancel(&self) {
        match self {
            Self::Upload(transfer, ..) | Self::Download(transfer, ..) => transfer.cancel(),
            Self::Copy(transfer, ..) => transfer.cancel(),
            Self::Fill(transfer, ..) => transfer.cancel(),
        }
    }

    fn done_bytes(&self) -> u64 {
        match self {
            Self::Upload(transfer, ..) | Self::Download(transfer, ..) => transfer.done_bytes(),
            Self::Copy(transfer, ..) => transfer.done_bytes(),
            Self::Fill(transfer, ..) => transfer.done_bytes(),
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Upload(transfer, ..) | Self::Download(transfer, ..) => transfer.is_over(),
            Self::Copy(transfer, ..) => transfer.is_over(),
            Self::Fill(transfer, ..) => transfer.is_over(),
        }
    }
}

struct Run {
    random: Random,
    devices: [Sim; 2],
    managers: [MemoryManager<Sim>; 2],
    idle: Vec<Held>,
    going: Vec<(Going, CancelToken, Option<u64>)>,
    stamp: u8,
}

/// A transfer that was begun, which all of these are.
fn begun<T>(answer: Begun<Sim, T>) -> Transfer<Sim, T> {
    answer.unwrap_or_else(|refused| panic!("refused: {refused}"))
}

/// What a transfer gave back, and whether it reached its end.
fn over<T>(outcome: Result<T, OperationError<T>>, before_bytes: Option<u64>) -> (T, bool) {
    match outcome {
        Ok(parts) => (parts, true),
        Err(error) => {
            assert_eq!(error.error().kind(), ErrorKind::Cancelled, "{error}");
            let before_bytes = before_bytes.expect("only what was cancelled answers so");
            let more_bytes = error.done_bytes() - before_bytes;
            assert!(more_bytes <= CHUNK_BYTES, "{more_bytes} bytes were copied after the cancellation");
            (error.into_parts().expect("what a transfer used comes back"), false)
        }
    }
}

impl Run {
    fn new(seed: u64) -> Self {
        let lateness = Lateness { per_mille: 200, delay_ns_max: 200_000 };
        let desc = SimDesc { lateness, seed, reads_peers: seed.is_multiple_of(2), ..SimDesc::discrete() };
        let first = Sim::new(desc.clone());
        let devices = [first.clone(), first.peer(desc)];
        let managers = [simulated::manager(&devices[0]), simulated::manager(&devices[1])];
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        Self { random, devices, managers, idle: Vec::new(), going: Vec::new(), stamp: 0 }
    }

    fn bytes(&mut self) -> Vec<u8> {
        self.stamp = self.stamp.wrapping_add(1);
        let stamp = self.stamp;
        (0..BUFFER_BYTES).map(|index| (index % 251) as u8 ^ stamp).collect()
    }

    fn take(&mut self) -> Held {
        if self.idle.len() < 3 || self.idle.len() < 8 && self.random.below(4) == 0 {
            let device = self.random.below(2) as usize;
            let buffer = self.managers[device].allocate(BUFFER_BYTES as u64).unwrap();
            return Held { buffer, device, content: None };
        }
        let index = self.random.below(self.idle.len() as u64) as usize;
        self.idle.swap_remove(index)
    }

    fn begin(&mut self) {
        let held = self.take();
        let device = held.device;
        let token = CancelToken::new();
        let priority = [Priority::Low, Priority::Normal, Priority::High][self.random.below(3) as usize];
        let transfers = self.managers[device].transfers().priority(priority).cancel_token(&token);
        let going = match self.random.below(4) {
            0 => {
                let values = self.bytes();
                let transfer = begun(transfers.upload_async(values.clone(), held.buffer, 0));
                Going::Upload(transfer, device, values)
            }
            1 => {
                let transfer = begun(transfers.download_async(held.buffer, 0, vec![0; BUFFER_BYTES]));
                Going::Download(transfer, device, held.content)
            }
            2 => {
                let other = self.take();
                let desc = CopyDesc { source_offset: 0, destination_offset: 0, bytes: BUFFER_BYTES as u64 };
                let transfer = begun(transfers.copy_async(held.buffer, other.buffer, desc));
                Going::Copy(transfer, [device, other.device], held.content)
            }
            _ => {
                let value = self.random.next() as u8;
                Going::Fill(
                    begun(transfers.fill_async(held.buffer, 0..BUFFER_BYTES as u64, value)),
                    device,
                    value,
                )
            }
        };
        self.going.push((going, token, None));
    }

    fn keep(&mut self, buffer: Buffer<Sim>, device: usize, content: Option<Vec<u8>>) {
        self.idle.push(Held { buffer, device, content });
    }

    fn end(&mut self, index: usize) {
        let (going, _, before_bytes) = self.going.swap_remove(index);
        match going {
            Going::Upload(transfer, device, values) => {
                let ((buffer, given), is_done) = over(transfer.wait(), before_bytes);
                assert!(given == values, "the source is as it was");
                self.keep(buffer, device, is_done.then_some(values));
            }
            Going::Download(transfer, device, content) => {
                let ((buffer, found), is_done) = over(transfer.wait(), before_bytes);
                assert!(!is_done || content.as_ref().is_none_or(|content| *content == found), "a download");
                self.keep(buffer, device, content);
            }
            Going::Copy(transfer, [device, other], content) => {
                let ((source, destination), is_done) = over(transfer.wait(), before_bytes);
                self.keep(destination, other, content.clone().filter(|_| is_done));
                self.keep(source, device, content);
            }
            Going::Fill(transfer, device, value) => {
                let (buffer, is_done) = over(transfer.wait(), before_bytes);
                self.keep(buffer, device, is_done.then(|| vec![value; BUFFER_BYTES]));
            }
        }
    }

    /// Lets some time pass, for both managers' transfers.
    fn pass(&mut self) {
        let until_ns = self.devices[0].now_ns() + self.random.below(100_000);
        for (sim, manager) in self.devices.iter().zip(&self.managers) {
            let is_done = || sim.now_ns() >= until_ns;
            simulated::run(sim, &manager.transfers(), is_done);
        }
    }

    /// Answers how many transfers each route had, and how many of them were cancelled.
    fn run(mut self) -> [(u64, u64); Route::ALL.len()] {
        let mut counts = [(0, 0); Route::ALL.len()];
        let mut ended = 0;
        while ended < CANCELS_AND_DROPS_PER_SEED {
            let index = self.random.below(self.going.len().max(1) as u64) as usize;
            match self.random.below(10) {
                0..4 if self.going.len() < 6 => self.begin(),
                4 | 5 => self.pass(),
                _ if self.going.is_empty() => {}
                6 => {
                    let (going, token, before_bytes) = &mut self.going[index];
                    before_bytes.get_or_insert(going.done_bytes());
                    if self.random.below(2) == 0 {
                        token.cancel()
                    } else {
                        going.cancel()
                    }
                    ended += 1;
                }
                7 => {
                    drop(self.going.swap_remove(index));
                    ended += 1;
                }
                8 => self.end(index),
                _ if self.going[index].0.is_over() => self.end(index),
                _ => {}
            }
        }
        while !self.going.is_empty() {
            self.end(0);
        }
        // What was dropped goes on.
        for manager in &self.managers {
            simulated::run(&self.devices[0], &manager.transfers(), || false);
        }
        self.idle.clear();
        for (manager, sim) in self.managers.into_iter().zip(&self.devices) {
            manager.settle();
            manager.trim();
            assert_eq!(manager.statistics().allocated.current, 0, "everything is freed");
            for (route, count) in Route::ALL.into_iter().zip(&mut counts) {
                let route = manager.statistics().transfers.route(route);
                assert_eq!(route.failed, 0);
                *count = (count.0 + route.count, count.1 + route.cancelled);
            }
            drop(manager);
            assert_eq!(sim.books().live_blocks, 0);
        }
        self.devices[0].assert_no_violations();
        counts
    }
}

#[test]
fn nothing_is_left_or_corrupted_by_what_is_cancelled_or_dropped() {
    let mut counts = [(0, 0); Route::ALL.len()];
    for seed in 1..=SEEDS {
        println!("seed {seed}");
        for (sum, count) in counts.iter_mut().zip(Run::new(seed).run()) {
            *sum = (sum.0 + count.0, sum.1 + count.1);
        }
    }
    for (route, (count, cancelled)) in Route::ALL.into_iter().zip(counts) {
        println!("{route}: {count}, of which {cancelled} cancelled");
        assert!(count > 100 && cancelled > 10, "{route} is tried");
    }
}
