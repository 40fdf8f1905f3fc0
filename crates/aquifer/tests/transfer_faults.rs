//! What becomes of transfers when the device fails.

mod simulated;

use aquifer::sim::{Call, Costs, Fault, FaultPlan, Recurrence, Sim, SimDesc};
use aquifer::{Buffer, CopyDesc, ErrorKind, MemoryManager, OperationError, Route, Transfer};
use simulated::{CHUNK_BYTES, arrived, busy, close, content, discrete, nonzero, pattern, run, zeroed};

const BYTES: usize = 1_000_000;
const ALL: CopyDesc = CopyDesc { source_offset: 0, destination_offset: 0, bytes: BYTES as u64 };

fn fault(call: Call, number: u64, fault: Fault) -> FaultPlan {
    FaultPlan { call: Some(call), number, recurrence: Recurrence::Once, fault }
}

/// What a transfer that failed answers: the kind, what had arrived, and its parts.
fn failed<T>(outcome: Result<T, OperationError<T>>) -> (ErrorKind, u64, T) {
    let Err(error) = outcome else { panic!("it has succeeded") };
    let (kind, done_bytes) = (error.error().kind(), error.done_bytes());
    (kind, done_bytes, error.into_parts().expect("what was used comes back"))
}

/// Begins one transfer of each way, and lets a little time pass.
struct Each {
    up: Transfer<Sim, (Buffer<Sim>, Vec<u8>)>,
    down: Transfer<Sim, (Buffer<Sim>, Vec<u8>)>,
    copy: Transfer<Sim, (Buffer<Sim>, Buffer<Sim>)>,
    fill: Transfer<Sim, Buffer<Sim>>,
    peer: Transfer<Sim, (Buffer<Sim>, Buffer<Sim>)>,
    pinned: Transfer<Sim, (Buffer<Sim>, aquifer::PinnedBuffer<Sim>)>,
}

impl Each {
    fn begin(manager: &MemoryManager<Sim>, peer: &MemoryManager<Sim>) -> Self {
        let (transfers, buffer) = (manager.transfers(), || zeroed(manager, BYTES));
        let pinned = manager.pinned().allocate(BYTES as u64).unwrap();
        Self {
            up: transfers.upload_async(pattern(BYTES, 1), buffer(), 0).unwrap(),
            down: transfers.download_async(buffer(), 0, vec![1; BYTES]).unwrap(),
            copy: transfers.copy_async(buffer(), buffer(), ALL).unwrap(),
            fill: transfers.fill_async(buffer(), 0..BYTES as u64, 9).unwrap(),
            peer: transfers.copy_async(buffer(), zeroed(peer, BYTES), ALL).unwrap(),
            pinned: transfers.upload_async(pinned, buffer(), 0).unwrap(),
        }
    }

    /// Those that were not over give back what they used; answers how many.
    fn failed(self, kind: ErrorKind) -> u64 {
        let values = match self.up.wait() {
            Ok(_) => panic!("it takes longer"),
            Err(error) => error.into_parts().expect("what was used comes back").1,
        };
        assert!(values == pattern(BYTES, 1));
        let failures = [
            failure(self.down.wait()),
            failure(self.copy.wait()),
            failure(self.fill.wait()),
            failure(self.peer.wait()),
            failure(self.pinned.wait()),
        ];
        assert!(failures.iter().flatten().all(|&found| found == kind), "{failures:?}");
        1 + failures.iter().flatten().count() as u64
    }
}

fn failure<T>(outcome: Result<T, OperationError<T>>) -> Option<ErrorKind> {
    let error = outcome.err()?;
    let kind = error.error().kind();
    assert!(error.into_parts().is_some(), "what was used comes back");
    Some(kind)
}

fn pair(desc: &SimDesc) -> [(Sim, MemoryManager<Sim>); 2] {
    let first = Sim::new(desc.clone());
    let second = first.peer(desc.clone());
    [first, second].map(|sim| (sim.clone(), simulated::manager(&sim)))
}

#[test]
fn a_lost_device_ends_every_transfer() {
    for after_ns in [0, 5_000, 20_000, 60_000] {
        let [(sim, manager), (other, peer)] = pair(&SimDesc::discrete());
        let each = Each::begin(&manager, &peer);
        let until_ns = sim.now_ns() + after_ns;
        run(&sim, &manager.transfers(), || sim.now_ns() >= until_ns);
        sim.lose_device();
        let count = each.failed(ErrorKind::DeviceLost);
        assert!(count >= 2, "{count}");
        let error = manager.transfers().upload(&[1], &mut zeroed(&peer, 100), 0).unwrap_err();
        assert_eq!(error.error().kind(), ErrorKind::InvalidArgument);
        let statistics = manager.transfers().statistics();
        let failed: u64 = Route::ALL.iter().map(|&route| statistics.route(route).failed).sum();
        assert_eq!(failed, count);
        drop(manager);
        close(&other, peer);
        sim.assert_no_violations();
        assert_eq!(sim.books().live_blocks, 0);
    }
}

#[test]
fn detached_transfers_go_with_a_lost_device() {
    let [(sim, manager), (other, peer)] = pair(&SimDesc::discrete());
    drop(Each::begin(&manager, &peer));
    manager.transfers().poll();
    sim.lose_device();
    run(&sim, &manager.transfers(), || false);
    let statistics = manager.statistics().transfers;
    assert!(statistics.route(Route::HostToDevice).failed >= 1);
    let under_way: u64 = Route::ALL.iter().map(|&route| statistics.route(route).count).sum();
    assert_eq!(under_way, 6, "all have ended");
    drop(manager);
    assert_eq!(sim.books().live_blocks, 0);
    close(&other, peer);
}

/// The device that reads is lost; the one that is read goes on, and with what it had been given. Nobody else gets the staging chunks
/// that it still writes.
#[test]
fn a_lost_peer_leaves_the_other_device_sound() {
    let slow = Costs { host_copy_bytes_per_second: 1_000_000_000, ..SimDesc::discrete().costs };
    let [(sim, manager), (other, peer)] = pair(&SimDesc { costs: slow, ..SimDesc::discrete() });
    let transfers = manager.transfers();
    let source = zeroed(&manager, BYTES);
    let transfer = transfers.copy_async(source, zeroed(&peer, BYTES), ALL).unwrap();
    // All chunks are given to the queue, which is slow at them.
    transfers.poll();
    other.lose_device();
    let mut found = None;
    for _ in 0..50 {
        if transfer.is_over() {
            found = Some(transfers.statistics().route(Route::PeerStaged));
            break;
        }
        assert!(sim.advance_to_next(1_000_000));
    }
    assert_eq!(found.expect("it comes to an end").failed, 1);
    let (kind, _, (source, destination)) = failed(transfer.wait());
    assert_eq!(kind, ErrorKind::DeviceLost);
    // If the device were still at those chunks, what is uploaded through them would be spoilt.
    let values = pattern(BYTES, 7);
    let mut buffer = zeroed(&manager, BYTES);
    transfers.upload(&values, &mut buffer, 0).unwrap();
    assert!(content(&transfers, &buffer) == values);
    drop((source, destination, buffer, transfers, peer));
    close(&sim, manager);
    assert_eq!(other.books().live_blocks, 0);
}

#[test]
fn a_command_that_is_refused_ends_its_transfer_alone() {
    for number in [0, 1, 5] {
        let (sim, manager) = discrete();
        let transfers = manager.transfers();
        let (buffer, mut other) = (zeroed(&manager, BYTES), zeroed(&manager, BYTES));
        sim.plan_fault(fault(Call::Enqueue, number, Fault::Refuse));
        let transfer = transfers.upload_async(nonzero(BYTES), buffer, 0).unwrap();
        let (kind, done_bytes, (mut buffer, values)) = failed(transfer.wait());
        assert_eq!(kind, ErrorKind::Driver);
        assert!(done_bytes < BYTES as u64);
        assert_eq!(arrived(&content(&transfers, &buffer), &values), done_bytes);
        transfers.upload(&values, &mut buffer, 0).unwrap();
        transfers.copy(&buffer, &mut other).unwrap();
        assert!(content(&transfers, &other) == values);
        let route = transfers.statistics().route(Route::HostToDevice);
        assert_eq!((route.count, route.failed, route.cancelled), (2, 1, 0));
        assert_eq!(route.bytes, done_bytes + BYTES as u64);
        drop((buffer, other, transfers));
        close(&sim, manager);
    }
}

#[test]
fn a_command_that_fails_ends_its_transfer() {
    for number in [0, 3] {
        let [(sim, manager), (other, peer)] = pair(&SimDesc::discrete());
        let transfers = manager.transfers();
        for round in 0..5 {
            let (buffer, second) = (zeroed(&manager, BYTES), zeroed(&manager, BYTES));
            let remote = zeroed(&peer, BYTES);
            let number = if round == 2 || round == 3 { 0 } else { number };
            sim.plan_command_fault(number, Recurrence::Once);
            let kind = match round {
                0 => failed(transfers.upload_async(pattern(BYTES, 1), buffer, 0).unwrap().wait()).0,
                1 => failed(transfers.download_async(buffer, 0, vec![1_u8; BYTES]).unwrap().wait()).0,
                2 => failed(transfers.copy_async(buffer, second, ALL).unwrap().wait()).0,
                3 => failed(transfers.fill_async(buffer, 0..BYTES as u64, 3).unwrap().wait()).0,
                _ => failed(transfers.copy_async(buffer, remote, ALL).unwrap().wait()).0,
            };
            assert_eq!(kind, ErrorKind::Driver, "{round}");
            sim.clear_faults();
        }
        drop(transfers);
        close(&sim, manager);
        close(&other, peer);
    }
}

#[test]
fn a_marker_that_is_refused_comes_later() {
    for number in [0, 2] {
        let (sim, manager) = discrete();
        let transfers = manager.transfers();
        let mut buffer = zeroed(&manager, BYTES);
        let values = pattern(BYTES, 1);
        sim.plan_fault(fault(Call::Signal, number, Fault::Refuse));
        transfers.upload(&values, &mut buffer, 0).unwrap();
        sim.plan_fault(fault(Call::Signal, number, Fault::Refuse));
        assert!(content(&transfers, &buffer) == values);
        drop((buffer, transfers));
        close(&sim, manager);
    }
}

#[test]
fn without_queues_nothing_is_begun() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    sim.plan_fault(fault(Call::CreateQueue, 0, Fault::Refuse));
    let refused = transfers.upload_async(pattern(BYTES, 1), zeroed(&manager, BYTES), 0);
    let Err(refused) = refused else { panic!("there is no queue") };
    assert_eq!((refused.error().kind(), refused.done_bytes()), (ErrorKind::Driver, 0));
    let (mut buffer, values) = refused.into_parts().unwrap();
    assert_eq!(transfers.statistics().staging_bytes, 0);
    transfers.upload(&values, &mut buffer, 0).unwrap();
    assert!(content(&transfers, &buffer) == values);
    drop((buffer, transfers));
    close(&sim, manager);
}

/// More queues hang than are asked at a time how far they are; what needs none of them goes on.
#[test]
fn queues_that_hang_keep_no_other_transfer_waiting() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    let queues: Vec<_> = (0..12).map(|_| manager.queue().unwrap()).collect();
    let stuck: Vec<_> = queues
        .iter()
        .map(|queue| {
            busy(&sim, queue, 1_000_000_000);
            let buffer = queue.allocate(CHUNK_BYTES).unwrap();
            transfers.fill_async(buffer, 0..CHUNK_BYTES, 1).unwrap()
        })
        .collect();
    let transfer = transfers.upload_async(pattern(BYTES, 1), zeroed(&manager, BYTES), 0).unwrap();
    let start_ns = sim.now_ns();
    run(&sim, &transfers, || transfer.is_over());
    assert!(sim.now_ns() - start_ns < 500_000_000, "it did not wait for the queues");
    drop(transfer.wait().unwrap());
    assert!(stuck.iter().all(|transfer| transfer.done_bytes() == 0));
    stuck.into_iter().for_each(|transfer| drop(transfer.wait().unwrap()));
    drop((queues, transfers));
    close(&sim, manager);
}
