//! The pinned chunks that transfers are staged through: their bound, who gets them, and what becomes of them.

mod simulated;

use aquifer::sim::{Call, Fault, FaultPlan, Recurrence};
use aquifer::sim::{Sim, SimDesc};
use aquifer::{CopyDesc, ErrorKind, MemoryManager, Priority, Route, Transfer};
use simulated::{CHUNK_BYTES, close, content, discrete, pattern, run, zeroed};
use std::sync::{Arc, Mutex};

#[test]
fn a_short_upload_stays_in_its_chunks() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    // Neighbours of the staging chunk, on both sides.
    let pinned = manager.pinned();
    let neighbour = || {
        let mut buffer = pinned.allocate(CHUNK_BYTES).unwrap();
        buffer.fill(0xaa);
        buffer
    };
    let before: Vec<_> = (0..8).map(|_| neighbour()).collect();
    let mut buffer = zeroed(&manager, 250_000);
    transfers.upload(&[1_u8], &mut buffer, 0).unwrap();
    let after: Vec<_> = (0..8).map(|_| neighbour()).collect();
    let values = pattern(250_000, 3);
    transfers.upload(&values, &mut buffer, 0).unwrap();
    assert!(content(&transfers, &buffer) == values);
    assert!(before.iter().chain(&after).all(|one| one.iter().all(|&byte| byte == 0xaa)));
    drop((buffer, before, after, pinned, transfers));
    close(&sim, manager);
}

#[test]
fn trim_leaves_transfers_what_they_need() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    let values = pattern(1 << 20, 1);
    let buffer = zeroed(&manager, 1 << 20);
    let transfer = transfers.upload_async(values.clone(), buffer, 0).unwrap();
    manager.trim();
    assert!(manager.statistics().transfers.staging_bytes >= CHUNK_BYTES);
    let (buffer, _) = transfer.wait().unwrap();
    assert!(content(&transfers, &buffer) == values);

    let transfer = transfers.download_async(buffer, 0, vec![0_u8; 1 << 20]).unwrap();
    run(&sim, &transfers, || {
        manager.trim();
        transfer.is_over()
    });
    let (buffer, back) = transfer.wait().unwrap();
    assert!(back == values);
    drop((buffer, transfers));
    close(&sim, manager);
}

#[test]
fn without_staging_memory_nothing_is_begun() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    let buffer = zeroed(&manager, 1 << 20);
    let refuse =
        |recurrence| FaultPlan { call: Some(Call::Create), number: 0, recurrence, fault: Fault::NoMemory };
    sim.plan_fault(refuse(Recurrence::FromThenOn));
    let refused = transfers.upload_async(pattern(1 << 20, 1), buffer, 0).unwrap_err();
    assert_eq!((refused.error().kind(), refused.done_bytes()), (ErrorKind::OutOfMemory, 0));
    let (mut buffer, values) = refused.into_parts().unwrap();
    let error = transfers.upload(&values, &mut buffer, 0).unwrap_err();
    assert_eq!(error.error().kind(), ErrorKind::OutOfMemory);
    let mut back = [1_u8; 100];
    let error = transfers.download(&buffer, 0, &mut back).unwrap_err();
    assert_eq!((error.error().kind(), back), (ErrorKind::OutOfMemory, [1; 100]));
    assert_eq!(transfers.statistics().staging_bytes, 0);
    // What needs none goes on.
    transfers.fill(&mut buffer, 0..1 << 20, 7).unwrap();
    sim.clear_faults();
    assert!(content(&transfers, &buffer).iter().all(|&byte| byte == 7));
    drop((buffer, transfers));
    close(&sim, manager);
}

/// A callback is asked for memory while the first staging chunk is made, and wants to save what it gives up by a transfer.
#[test]
fn who_gives_memory_back_for_staging_cannot_stage() {
    let sim = Sim::new(SimDesc::discrete());
    let mut config = simulated::config(&sim);
    config.budget_bytes = Some(4 << 20);
    let manager = MemoryManager::with_config(sim.clone(), config).unwrap();
    let mut buffer = zeroed(&manager, 1000);
    let saved = Mutex::new(Some((zeroed(&manager, 1000), manager.pinned().allocate(4 << 20).unwrap())));
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let hook = manager.on_reclaim(0, {
        let (transfers, kinds) = (manager.transfers(), Arc::clone(&kinds));
        move |_| {
            if let Some((buffer, pinned)) = saved.lock().unwrap().take() {
                let answer = transfers.download(&buffer, 0, &mut [0_u8; 1000]);
                kinds.lock().unwrap().push(answer.map_err(|error| error.error().kind()));
                drop(pinned);
            }
        }
    });
    let transfers = manager.transfers();
    transfers.upload(&[7_u8; 1000], &mut buffer, 0).unwrap();
    assert_eq!(*kinds.lock().unwrap(), [Err(ErrorKind::OutOfMemory)]);
    assert!(content(&transfers, &buffer) == [7; 1000]);
    drop((hook, buffer, transfers));
    close(&sim, manager);
}

type Upload = Transfer<Sim, (aquifer::Buffer<Sim>, Vec<u8>)>;
type Begin = fn(&MemoryManager<Sim>, Priority, usize) -> Upload;

fn upload(manager: &MemoryManager<Sim>, priority: Priority, bytes: usize) -> Upload {
    let buffer = zeroed(manager, bytes);
    manager.transfers().priority(priority).upload_async(pattern(bytes, 1), buffer, 0).unwrap()
}

fn download(manager: &MemoryManager<Sim>, priority: Priority, bytes: usize) -> Upload {
    let buffer = zeroed(manager, bytes);
    manager.transfers().priority(priority).download_async(buffer, 0, vec![1; bytes]).unwrap()
}

/// Runs transfers to their ends: when each was over, in nanoseconds from now on.
fn ends(sim: &Sim, manager: &MemoryManager<Sim>, transfers: &[Upload]) -> Vec<u64> {
    let start_ns = sim.now_ns();
    let mut ends = vec![None; transfers.len()];
    run(sim, &manager.transfers(), || {
        for (transfer, end) in transfers.iter().zip(&mut ends) {
            if transfer.is_over() && end.is_none() {
                *end = Some(sim.now_ns() - start_ns);
            }
        }
        let staging_bytes = manager.statistics().transfers.staging_bytes;
        assert!(staging_bytes <= 6 * CHUNK_BYTES, "{staging_bytes} bytes of staging memory");
        ends.iter().all(Option::is_some)
    });
    ends.into_iter().map(|end| end.expect("all come to an end")).collect()
}

#[test]
fn who_is_more_urgent_goes_first() {
    for begin in [upload, download] {
        let (sim, manager) = discrete();
        let priorities = [Priority::Low, Priority::High, Priority::Normal];
        let transfers = priorities.map(|priority| begin(&manager, priority, 8 << 20));
        let ends = ends(&sim, &manager, &transfers);
        assert!(ends[1] < ends[2] && ends[2] < ends[0], "{ends:?}");
        assert!(ends[1] < ends[0] / 2, "{ends:?}: not much was done for others meanwhile");
        drop(transfers);
        close(&sim, manager);
    }
}

#[test]
fn what_goes_one_way_is_not_kept_waiting_by_what_goes_the_other() {
    for (urgent, other) in [(upload as Begin, download as Begin), (download, upload)] {
        let (sim, manager) = discrete();
        let alone = ends(&sim, &manager, &[urgent(&manager, Priority::High, 8 << 20)])[0];
        let transfers = [other(&manager, Priority::Low, 8 << 20), urgent(&manager, Priority::High, 8 << 20)];
        let ends = ends(&sim, &manager, &transfers);
        assert!(ends[1] < alone * 3 / 2 && ends[1] < ends[0] * 3 / 4, "alone {alone}, together {ends:?}");
        drop(transfers);
        close(&sim, manager);
    }
}

/// How many bytes each had moved when the first was over.
fn shares(begin: &[Begin]) -> Vec<u64> {
    let (sim, manager) = discrete();
    let transfers: Vec<_> = begin.iter().map(|begin| begin(&manager, Priority::Normal, 8 << 20)).collect();
    let mut shares = Vec::new();
    run(&sim, &manager.transfers(), || {
        if transfers.iter().any(Transfer::is_over) && shares.is_empty() {
            shares = transfers.iter().map(Transfer::done_bytes).collect();
        }
        transfers.iter().all(Transfer::is_over)
    });
    drop(transfers);
    close(&sim, manager);
    shares
}

#[test]
fn equals_share_alike() {
    for begin in [upload, download] {
        for count in [2, 3, 4, 5, 6, 9] {
            let shares = shares(&vec![begin as _; count]);
            let least = shares.iter().min().unwrap();
            assert!(*least >= (8 << 20) * 8 / 10, "{shares:?}");
        }
    }
    let shares = shares(&[upload, download, download, upload]);
    assert!(*shares.iter().min().unwrap() >= (8 << 20) * 8 / 10, "{shares:?}");
}

#[test]
fn many_at_once_keep_to_the_bound() {
    let (sim, manager) = discrete();
    let transfers: Vec<_> = (0..20)
        .map(|index| [upload, download][index % 2](&manager, Priority::Normal, 400_000 + 1000 * index))
        .collect();
    ends(&sim, &manager, &transfers);
    let staging_bytes = manager.statistics().transfers.staging_bytes;
    assert_eq!(staging_bytes, 6 * CHUNK_BYTES, "as much as is allowed is worth keeping");
    drop(transfers);
    manager.trim();
    assert_eq!(manager.statistics().transfers.staging_bytes, 0);
    close(&sim, manager);
}

#[test]
fn peers_stage_within_the_bound_too() {
    let first = Sim::new(SimDesc::discrete());
    let second = first.peer(SimDesc::discrete());
    let (manager, peer) = (simulated::manager(&first), simulated::manager(&second));
    let transfers = manager.transfers();
    let values = pattern(2 << 20, 5);
    let mut source = zeroed(&manager, 2 << 20);
    transfers.upload(&values, &mut source, 0).unwrap();
    let desc = CopyDesc { source_offset: 0, destination_offset: 0, bytes: 2 << 20 };
    let transfer = transfers.copy_async(source, zeroed(&peer, 2 << 20), desc).unwrap();
    run(&first, &transfers, || transfer.is_over());
    let (source, destination) = transfer.wait().unwrap();
    assert!(content(&peer.transfers(), &destination) == values);
    assert_eq!(transfers.statistics().route(Route::PeerStaged).bytes, 2 << 20);
    assert!(transfers.statistics().staging_bytes <= 6 * CHUNK_BYTES);
    drop((source, destination, transfers));
    close(&first, manager);
    close(&second, peer);
}
