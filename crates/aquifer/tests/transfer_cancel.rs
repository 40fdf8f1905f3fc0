//! Transfers that are cancelled: when they stop, and what has arrived by then.

mod simulated;

use aquifer::sim::{Sim, SimDesc};
use aquifer::{
    CancelToken, CopyDesc, ErrorKind, HostMemoryManager, MemoryOptions, OperationError, Route, Transfers,
};
use simulated::{CHUNK_BYTES, arrived, busy, close, content, discrete, nonzero, run, zeroed};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

const BYTES: usize = 2_000_000;
const LONG: Duration = Duration::from_secs(60);

/// What one that was cancelled answers: what had arrived, and its parts.
fn cancelled<T>(outcome: Result<T, OperationError<T>>) -> (u64, T) {
    let Err(error) = outcome else { panic!("it has succeeded") };
    assert_eq!(error.error().kind(), ErrorKind::Cancelled, "{error}");
    let done_bytes = error.done_bytes();
    (done_bytes, error.into_parts().expect("what was used comes back"))
}

/// Cancels from the callback once so much has arrived; sends how much that was.
fn stopping_at(transfers: Transfers<Sim>, bytes: u64) -> (Transfers<Sim>, mpsc::Receiver<u64>) {
    let (token, (sender, told)) = (CancelToken::new(), mpsc::channel());
    let transfers = transfers.cancel_token(&token).on_progress(move |progress| {
        if progress.done_bytes >= bytes && !token.is_cancelled() {
            token.cancel();
            sender.send(progress.done_bytes).unwrap();
        }
    });
    (transfers, told)
}

#[test]
fn a_token_that_was_cancelled_before_stops_every_way() {
    let (sim, manager) = discrete();
    let token = CancelToken::new();
    token.cancel();
    let transfers = manager.transfers().cancel_token(&token);
    let mut buffer = zeroed(&manager, BYTES);
    let other = zeroed(&manager, BYTES);
    let mut back = vec![0_u8; 100];
    let kinds = [
        transfers.upload(&nonzero(BYTES), &mut buffer, 0),
        transfers.upload(&nonzero(1), &mut buffer, 0),
        transfers.download(&other, 0, &mut back),
        transfers.copy(&other, &mut buffer),
        transfers.fill(&mut buffer, 3..70, 1),
    ]
    .map(|answer| answer.map_err(|error| (error.error().kind(), error.done_bytes())));
    assert_eq!(kinds, [Err((ErrorKind::Cancelled, 0)); 5]);
    let (done_bytes, (buffer, _)) =
        cancelled(transfers.upload_async(nonzero(BYTES), buffer, 0).unwrap().wait());
    assert_eq!(done_bytes, 0);
    assert!(content(&manager.transfers(), &buffer).iter().all(|&byte| byte == 0));
    let statistics = transfers.statistics();
    assert_eq!(statistics.route(Route::HostToDevice).cancelled, 3);
    assert_eq!(statistics.route(Route::HostToDevice).bytes, 0);
    drop((buffer, other, transfers));
    close(&sim, manager);
}

#[test]
fn a_callback_that_cancels_stops_its_upload() {
    let (sim, manager) = discrete();
    for bytes in [1, 300_000, 1_500_000] {
        let (transfers, told) = stopping_at(manager.transfers(), bytes);
        let mut buffer = zeroed(&manager, BYTES);
        let values = nonzero(BYTES);
        let error = transfers.upload(&values, &mut buffer, 0).unwrap_err();
        assert_eq!(error.error().kind(), ErrorKind::Cancelled);
        let before_bytes = told.recv().unwrap();
        assert!(error.done_bytes() - before_bytes <= CHUNK_BYTES, "{} {before_bytes}", error.done_bytes());
        assert_eq!(arrived(&content(&manager.transfers(), &buffer), &values), error.done_bytes());
    }
    close(&sim, manager);
}

#[test]
fn a_callback_that_cancels_stops_every_way() {
    let first = Sim::new(SimDesc::discrete());
    let second = first.peer(SimDesc::discrete());
    let (manager, peer) = (simulated::manager(&first), simulated::manager(&second));
    let values = nonzero(BYTES);
    let mut source = zeroed(&manager, BYTES);
    manager.transfers().upload(&values, &mut source, 0).unwrap();

    let (transfers, told) = stopping_at(manager.transfers(), 500_000);
    let mut back = vec![0_u8; BYTES];
    let error = transfers.download(&source, 0, &mut back).unwrap_err();
    assert_eq!(arrived(&back, &values), error.done_bytes());
    assert!(error.done_bytes() - told.recv().unwrap() <= CHUNK_BYTES);

    let (transfers, told) = stopping_at(manager.transfers(), 500_000);
    let desc = CopyDesc { source_offset: 0, destination_offset: 0, bytes: BYTES as u64 };
    let transfer = transfers.copy_async(source, zeroed(&peer, BYTES), desc).unwrap();
    let (done_bytes, (source, destination)) = cancelled(transfer.wait());
    assert_eq!(arrived(&content(&peer.transfers(), &destination), &values), done_bytes);
    assert!(done_bytes - told.recv().unwrap() <= CHUNK_BYTES);
    drop((source, destination, transfers));
    close(&first, manager);
    close(&second, peer);
}

#[test]
fn what_is_cancelled_in_the_middle_says_what_has_arrived() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    let values = nonzero(BYTES);
    let mut stopped_early = 0;
    for after_ns in (0..300_000).step_by(23_456) {
        let buffer = zeroed(&manager, BYTES);
        let transfer = transfers.upload_async(values.clone(), buffer, 0).unwrap();
        let until_ns = sim.now_ns() + after_ns;
        run(&sim, &transfers, || sim.now_ns() >= until_ns || transfer.is_over());
        transfer.cancel();
        transfer.cancel();
        run(&sim, &transfers, || transfer.is_over());
        let told_bytes = transfer.done_bytes();
        let buffer = match transfer.wait() {
            Ok((buffer, _)) => buffer,
            outcome => {
                let (done_bytes, (buffer, _)) = cancelled(outcome);
                assert_eq!(told_bytes, done_bytes, "also when it is over");
                assert_eq!(arrived(&content(&transfers, &buffer), &values), done_bytes);
                stopped_early += u32::from(done_bytes > 0);
                buffer
            }
        };
        drop(buffer);
    }
    assert!(stopped_early > 3, "{stopped_early}");
    drop(transfers);
    close(&sim, manager);
}

#[test]
fn dropped_transfers_go_on() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    drop(transfers.upload_async(nonzero(BYTES), zeroed(&manager, BYTES), 0).unwrap());
    drop(transfers.fill_async(zeroed(&manager, BYTES), 0..5, 1).unwrap());
    run(&sim, &transfers, || false);
    let statistics = transfers.statistics();
    let up = statistics.route(Route::HostToDevice);
    assert_eq!((up.count, up.cancelled, up.bytes), (1, 0, BYTES as u64));
    assert_eq!(statistics.route(Route::Fill).bytes, 5);
    drop(transfers);
    close(&sim, manager);
}

/// One that waits for a queue, or for another's view, has nothing to finish when it is cancelled.
#[test]
fn what_waits_for_others_ends_at_once() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    let queue = manager.queue().unwrap();
    let buffer = queue.allocate(BYTES as u64).unwrap();
    busy(&sim, &queue, 1_000_000_000);
    let start_ns = sim.now_ns();
    let token = CancelToken::new();
    let transfer = transfers.clone().cancel_token(&token).upload_async(nonzero(BYTES), buffer, 0).unwrap();
    transfers.poll();
    token.cancel();
    assert!(transfer.is_over());
    let (done_bytes, parts) = cancelled(transfer.wait());
    assert_eq!(done_bytes, 0);

    let view = zeroed(&manager, BYTES).into_view();
    let first = transfers.upload_async(nonzero(BYTES), view.clone(), 0).unwrap();
    let second = transfers.fill_async(view.clone(), 0..10, 7).unwrap();
    let third = transfers.fill_async(view.clone(), 5..15, 8).unwrap();
    second.cancel();
    assert!(second.is_over() && !first.is_over() && !third.is_over());
    assert_eq!(cancelled(second.wait()).0, 0);
    assert!(sim.now_ns() - start_ns < 500_000_000, "nothing was waited for");
    drop(third.wait().unwrap());
    drop(first.wait().unwrap());
    let found = content(&transfers, &view.try_into_buffer().unwrap());
    let mut expected = nonzero(BYTES);
    expected[5..15].fill(8);
    assert!(found == expected, "each in its turn");
    drop((parts, queue, transfers));
    close(&sim, manager);
}

#[test]
fn another_thread_cancels_what_copy_threads_do() {
    let manager = HostMemoryManager::new().unwrap();
    for is_blocking in [false, true] {
        let (token, values) = (CancelToken::new(), nonzero(16 << 20));
        let ((begun, has_begun), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel::<()>());
        let may_go_on = Mutex::new(may_go_on);
        let transfers = manager.transfers().cancel_token(&token).on_progress(move |_| {
            if begun.send(()).is_ok() {
                let _ = may_go_on.lock().unwrap().recv_timeout(LONG);
            }
        });
        let canceller = std::thread::spawn(move || {
            has_begun.recv_timeout(LONG).unwrap();
            token.cancel();
            drop((has_begun, go_on));
        });
        let mut buffer = manager.allocate_with(16 << 20, MemoryOptions::ZEROED).unwrap();
        let (done_bytes, buffer) = if is_blocking {
            match transfers.upload(&values, &mut buffer, 0) {
                Ok(()) => (16 << 20, buffer),
                Err(error) => (error.done_bytes(), buffer),
            }
        } else {
            match transfers.upload_async(values.clone(), buffer, 0).unwrap().wait() {
                Ok((buffer, _)) => (16 << 20, buffer),
                outcome => {
                    let (done_bytes, (buffer, _)) = cancelled(outcome);
                    (done_bytes, buffer)
                }
            }
        };
        canceller.join().unwrap();
        assert_eq!(arrived(buffer.as_slice().unwrap(), &values), done_bytes);
    }
}
