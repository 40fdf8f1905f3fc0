//! What progress callbacks are told and when, and what they may do.

mod simulated;

use aquifer::sim::{Sim, SimDesc};
use aquifer::{Buffer, HostMemoryManager, MemoryManager, MemoryOptions, Progress, Route, Transfers};
use simulated::{close, content, discrete, pattern, run, zeroed};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

/// Long enough for whatever does come.
const LONG: Duration = Duration::from_secs(60);

type Told = Arc<Mutex<Vec<Progress>>>;

fn telling(transfers: Transfers<Sim>) -> (Transfers<Sim>, Told) {
    let told = Told::default();
    let transfers = transfers.on_progress({
        let told = Arc::clone(&told);
        move |progress| told.lock().unwrap().push(progress)
    });
    (transfers, told)
}

fn check_told(told: &Told, bytes: u64) {
    let told = std::mem::take(&mut *told.lock().unwrap());
    assert!(told.iter().all(|progress| progress.bytes == bytes));
    assert!(told.is_sorted_by_key(|progress| progress.done_bytes), "{told:?}");
    assert_eq!(told.last().map(|progress| progress.done_bytes), Some(bytes));
}

#[test]
fn progress_never_falls_and_ends_with_all() {
    let (sim, manager) = discrete();
    let (transfers, told) = telling(manager.transfers());
    let bytes = 1_000_003;
    let (mut buffer, mut back) = (zeroed(&manager, bytes), vec![0_u8; bytes]);
    transfers.upload(&pattern(bytes, 1), &mut buffer, 0).unwrap();
    check_told(&told, bytes as u64);
    transfers.download(&buffer, 0, &mut back).unwrap();
    check_told(&told, bytes as u64);
    let mut copy = zeroed(&manager, bytes);
    transfers.copy(&buffer, &mut copy).unwrap();
    check_told(&told, bytes as u64);
    transfers.fill(&mut copy, 0..17, 1).unwrap();
    check_told(&told, 17);
    let transfer = transfers.upload_async(pattern(bytes, 2), buffer, 0).unwrap();
    run(&sim, &transfers, || transfer.is_over());
    check_told(&told, bytes as u64);
    drop((transfer.wait().unwrap(), copy, transfers));
    close(&sim, manager);
}

#[test]
fn all_has_been_told_when_wait_returns() {
    let manager = HostMemoryManager::new().unwrap();
    for round in 0..200 {
        let told = Told::default();
        let transfers = manager.transfers().on_progress({
            let told = Arc::clone(&told);
            move |progress| {
                if progress.done_bytes == progress.bytes {
                    std::thread::yield_now();
                }
                told.lock().unwrap().push(progress);
            }
        });
        let buffer = manager.allocate(600_000).unwrap();
        let transfer = transfers.upload_async(vec![round as u8; 600_000], buffer, 0).unwrap();
        drop(transfer.wait().unwrap());
        check_told(&told, 600_000);
    }
}

/// While a callback runs that is told of the end, on another thread, its transfer is not over.
#[test]
fn who_waits_waits_for_the_callback_too() {
    let manager = HostMemoryManager::new().unwrap();
    let ((begun, has_begun), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel::<()>());
    let may_go_on = Mutex::new(may_go_on);
    let transfers = manager.transfers().on_progress(move |progress| {
        if progress.done_bytes == progress.bytes {
            begun.send(()).unwrap();
            may_go_on.lock().unwrap().recv_timeout(LONG).unwrap();
        }
    });
    let buffer = manager.allocate(600_000).unwrap();
    let transfer = transfers.upload_async(vec![1_u8; 600_000], buffer, 0).unwrap();
    has_begun.recv_timeout(LONG).unwrap();
    assert!(!transfer.is_over());
    assert_eq!(transfer.done_bytes(), 600_000);
    go_on.send(()).unwrap();
    let (buffer, _) = transfer.wait().unwrap();
    // Nobody names its block any more.
    drop(buffer);
    manager.trim();
    assert_eq!(manager.statistics().reserved.current, 0);
}

#[test]
fn a_callback_that_panics_is_called_again() {
    let (sim, manager) = discrete();
    let told = Told::default();
    let transfers = manager.transfers().on_progress({
        let told = Arc::clone(&told);
        move |progress| {
            told.lock().unwrap().push(progress);
            panic!("this callback panics, as it should");
        }
    });
    let mut buffer = zeroed(&manager, 600_000);
    let values = pattern(600_000, 4);
    transfers.upload(&values, &mut buffer, 0).unwrap();
    assert!(told.lock().unwrap().len() > 1);
    check_told(&told, 600_000);
    assert!(content(&manager.transfers(), &buffer) == values);
    drop((buffer, transfers));
    close(&sim, manager);
}

#[test]
fn a_callback_may_begin_other_transfers() {
    let (sim, manager) = discrete();
    let other = Arc::new(Mutex::new(Some(zeroed(&manager, 500_000))));
    let plain = manager.transfers();
    let transfers = manager.transfers().on_progress({
        let other = Arc::clone(&other);
        move |_| {
            if let Some(buffer) = other.lock().unwrap().as_mut() {
                plain.upload(&pattern(500_000, 9), &mut *buffer, 0).unwrap();
                plain.fill(&mut *buffer, 0..1, 77).unwrap();
            }
        }
    });
    let mut buffer = zeroed(&manager, 500_000);
    let values = pattern(500_000, 8);
    transfers.upload(&values, &mut buffer, 0).unwrap();
    let transfer = transfers.download_async(buffer, 0, vec![0_u8; 500_000]).unwrap();
    let (buffer, back) = transfer.wait().unwrap();
    assert!(back == values);
    let other = other.lock().unwrap().take().unwrap();
    let found = content(&manager.transfers(), &other);
    assert!(found[0] == 77 && found[1..] == pattern(500_000, 9)[1..]);
    drop((buffer, other, transfers));
    close(&sim, manager);
}

/// The one copy thread is in a callback that waits for another transfer, which needs the staging chunks of the first.
#[test]
fn a_callback_on_the_only_copy_thread_may_wait_for_another_transfer() {
    let sim = Sim::new(SimDesc::discrete());
    let mut config = simulated::config(&sim);
    config.transfers.copy_threads = 1;
    config.transfers.staging_bytes = simulated::CHUNK_BYTES;
    let manager = MemoryManager::with_config(sim.clone(), config).unwrap();
    let values = pattern(1 << 20, 8);
    let mut source = zeroed(&manager, 1 << 20);
    manager.transfers().upload(&values, &mut source, 0).unwrap();
    let (done, is_done) = mpsc::channel();
    let (plain, other) = (manager.transfers(), Mutex::new(Some(zeroed(&manager, 400_000))));
    let transfers = manager.transfers().on_progress(move |_| {
        if let Some(mut buffer) = other.lock().unwrap().take() {
            plain.upload(&pattern(400_000, 9), &mut buffer, 0).unwrap();
            done.send(buffer).unwrap();
        }
    });
    let transfer = transfers.download_async(source, 0, vec![0_u8; 1 << 20]).unwrap();
    let other = is_done.recv_timeout(LONG).unwrap();
    let (source, back) = transfer.wait().unwrap();
    assert!(back == values && content(&manager.transfers(), &other) == pattern(400_000, 9));
    drop((source, other, transfers));
    drop(manager);
    sim.assert_no_violations();
}

/// What a callback owns goes with its transfer, and may use the manager when it does.
#[test]
fn what_a_callback_owns_may_use_the_manager_when_it_goes() {
    struct Nosy(Transfers<Sim>, mpsc::Sender<u64>);
    impl Drop for Nosy {
        fn drop(&mut self) {
            self.1.send(self.0.statistics().route(Route::HostToDevice).count).unwrap();
        }
    }
    let (sim, manager) = discrete();
    let (sender, told) = mpsc::channel();
    let nosy = Nosy(manager.transfers(), sender);
    let transfers = manager.transfers().on_progress(move |_| assert!(nosy.0.statistics().staging_bytes > 0));
    let transfer = transfers.upload_async(pattern(500_000, 1), zeroed(&manager, 500_000), 0).unwrap();
    drop(transfers);
    run(&sim, &manager.transfers(), || transfer.is_over());
    assert_eq!(told.try_recv(), Ok(1));
    drop(transfer);
    close(&sim, manager);
}

#[test]
fn a_callback_may_drop_the_last_other_handle() {
    let sim = Sim::new(SimDesc::discrete());
    let manager = simulated::manager(&sim);
    let kept = Arc::new(Mutex::new(None::<(MemoryManager<Sim>, Buffer<Sim>)>));
    let is_told = Arc::new(OnceLock::new());
    let transfers = manager.transfers().on_progress({
        let (kept, is_told) = (Arc::clone(&kept), Arc::clone(&is_told));
        move |progress| {
            drop(kept.lock().unwrap().take());
            if progress.done_bytes == progress.bytes {
                is_told.set(()).unwrap();
            }
        }
    });
    let mut buffer = manager.allocate_with(500_000, MemoryOptions::ZEROED).unwrap();
    *kept.lock().unwrap() = Some((manager.clone(), manager.allocate(100).unwrap()));
    drop(manager);
    transfers.upload(&pattern(500_000, 1), &mut buffer, 0).unwrap();
    assert!(is_told.get().is_some());
    drop(transfers);
    drop(buffer);
    sim.assert_no_violations();
    assert_eq!(sim.books().live_blocks, 0);
}
