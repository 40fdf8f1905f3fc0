//! Which way transfers go, and that what they bring arrives on each.

mod simulated;

use aquifer::allocator_api2::vec::Vec as PinnedVec;
use aquifer::sim::{Sim, SimDesc};
use aquifer::{BufferView, CopyDesc, MemoryManager, MemoryOptions, Route};
use simulated::{CHUNK_BYTES, close, content, discrete, pattern, zeroed};

const BYTES: usize = 500_001;
const ALL: CopyDesc = CopyDesc { source_offset: 0, destination_offset: 0, bytes: BYTES as u64 };

/// How many transfers went each route, and how many bytes in all.
fn counts(manager: &MemoryManager<Sim>) -> ([u64; Route::ALL.len()], u64) {
    let statistics = manager.statistics().transfers;
    let bytes = Route::ALL.iter().map(|&route| statistics.route(route).bytes).sum();
    (Route::ALL.map(|route| statistics.route(route).count), bytes)
}

#[test]
fn pinned_memory_is_not_staged() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    let values = pattern(BYTES, 1);
    let mut pinned = manager.pinned().allocate(BYTES as u64).unwrap();
    pinned.copy_from_slice(&values);
    let mut buffer = zeroed(&manager, BYTES);
    transfers.upload(&pinned[1..], &mut buffer, 1).unwrap();
    transfers.upload(&pinned[..1], &mut buffer, 0).unwrap();
    let mut back = PinnedVec::new_in(manager.pinned());
    back.resize(BYTES, 0_u8);
    transfers.download(&buffer, 0, &mut back).unwrap();
    assert!(back[..] == values);
    pinned.fill(0);
    let (buffer, pinned) = transfers.download_async(buffer, 0, pinned).unwrap().wait().unwrap();
    assert!(pinned[..] == values);
    let (buffer, pinned) = transfers.upload_async(pinned, buffer, 0).unwrap().wait().unwrap();
    // As a buffer too.
    let mut pinned = pinned.into_buffer();
    transfers.copy(&buffer, &mut pinned).unwrap();
    let (pinned, buffer) = transfers.copy_async(pinned, buffer, ALL).unwrap().wait().unwrap();
    assert!(pinned.as_slice::<u8>().unwrap() == values);
    assert_eq!(transfers.statistics().staging_bytes, 0);
    assert_eq!(counts(&manager), ([4, 3, 0, 0, 0, 0], 6 * BYTES as u64));
    assert!(content(&transfers, &buffer) == values);
    drop((pinned, buffer, back, transfers));
    close(&sim, manager);
}

#[test]
fn plain_memory_is_staged() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    for bytes in [1, 4095, 4096, CHUNK_BYTES as usize, CHUNK_BYTES as usize + 1, 256 << 10, BYTES] {
        let values = pattern(bytes, 2);
        let mut buffer = zeroed(&manager, bytes + 7);
        transfers.upload(&values, &mut buffer, 3).unwrap();
        let found = content(&transfers, &buffer);
        assert!(found[3..bytes + 3] == values && found[..3] == [0; 3] && found[bytes + 3..] == [0; 4]);
        let boxed = vec![0_u16; bytes / 2].into_boxed_slice();
        let (_, boxed) = transfers.download_async(buffer, 3, boxed).unwrap().wait().unwrap();
        let even = bytes / 2 * 2;
        assert!(boxed.iter().flat_map(|value| value.to_ne_bytes()).eq(values[..even].iter().copied()));
    }
    assert!(transfers.statistics().staging_bytes > 0);
    drop(transfers);
    close(&sim, manager);
}

#[test]
fn a_device_copies_and_fills_by_itself() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    let (mut one, mut other) = (zeroed(&manager, BYTES), zeroed(&manager, BYTES));
    transfers.fill(&mut one, 100..BYTES as u64, 3).unwrap();
    transfers.copy(&one, &mut other).unwrap();
    let other = transfers.fill_async(other, 5..6, 9).unwrap().wait().unwrap();
    let desc = CopyDesc { source_offset: 5, destination_offset: 50, bytes: 200 };
    let (other, one) = transfers.copy_async(other, one, desc).unwrap().wait().unwrap();
    assert_eq!(transfers.statistics().staging_bytes, 0);
    assert_eq!(counts(&manager).0, [0, 0, 2, 0, 0, 2]);
    let found = content(&transfers, &one);
    let mut expected = vec![3_u8; BYTES];
    expected[..100].fill(0);
    expected[50] = 9;
    expected[51..145].fill(0);
    assert!(found == expected);
    drop((one, other, transfers));
    close(&sim, manager);
}

#[test]
fn what_the_host_sees_is_not_staged() {
    let sim = Sim::new(SimDesc::integrated());
    let manager = simulated::manager(&sim);
    let transfers = manager.transfers();
    let values = pattern(BYTES, 6);
    let mut buffer = zeroed(&manager, BYTES);
    transfers.upload(&values, &mut buffer, 0).unwrap();
    assert!(buffer.as_slice::<u8>().unwrap() == values && content(&transfers, &buffer) == values);
    let copy = transfers.copy_async(buffer, zeroed(&manager, BYTES), ALL).unwrap().wait().unwrap().1;
    assert!(content(&transfers, &copy) == values);
    assert_eq!(transfers.statistics().staging_bytes, 0);
    assert_eq!(counts(&manager).0, [1, 2, 1, 0, 0, 0]);
    drop((copy, transfers));
    close(&sim, manager);
}

/// Parts of parts of a view.
fn nested(view: &BufferView<Sim>) -> [BufferView<Sim>; 2] {
    let inner = view.view(10..BYTES as u64 - 7).unwrap().view(3..200_003).unwrap();
    let (low, high) = inner.split_at(100_000).unwrap();
    [low, high]
}

#[test]
fn views_of_views_are_ends() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    let view = zeroed(&manager, BYTES).into_view();
    let [low, high] = nested(&view);
    let values = pattern(100_000, 1);
    transfers.upload(&values, &low, 0).unwrap();
    transfers.copy(&low, &high).unwrap();
    transfers.fill(&high, 1..2, 200).unwrap();
    let mut buffer = zeroed(&manager, 100_000);
    transfers.copy(&high, &mut buffer).unwrap();
    let mut expected = values.clone();
    expected[1] = 200;
    assert!(content(&transfers, &buffer) == expected);
    transfers.copy(&buffer, &low).unwrap();

    let (low, _) = transfers.upload_async(vec![5_u8; 10], low, 20).unwrap().wait().unwrap();
    let desc = CopyDesc { source_offset: 20, destination_offset: 99_990, bytes: 10 };
    let (low, high) = transfers.copy_async(low, high, desc).unwrap().wait().unwrap();
    let high = transfers.fill_async(high, 0..1, 77).unwrap().wait().unwrap();
    let (high, back) = transfers.download_async(high, 0, vec![0_u8; 100_000]).unwrap().wait().unwrap();
    let mut found = vec![0_u8; BYTES];
    transfers.download(&view, 0, &mut found).unwrap();
    expected[99_990..].fill(5);
    expected[0] = 77;
    assert!(back == expected && found[100_013..200_013] == expected);
    assert!(found[..13] == [0; 13] && found[200_013..].iter().all(|&byte| byte == 0));
    drop((low, high, view, buffer, transfers));
    close(&sim, manager);
}

fn peers(reads_peers: bool) -> [(Sim, MemoryManager<Sim>); 2] {
    let desc = SimDesc { reads_peers, ..SimDesc::discrete() };
    let first = Sim::new(desc.clone());
    let second = first.peer(desc);
    [first, second].map(|sim| (sim.clone(), simulated::manager(&sim)))
}

#[test]
fn peers_read_each_other_or_stage() {
    for reads_peers in [true, false] {
        let [(sim, manager), (other, peer)] = peers(reads_peers);
        let values = pattern(BYTES, 3);
        let (mut source, mut destination) = (zeroed(&manager, BYTES), zeroed(&peer, BYTES));
        manager.transfers().upload(&values, &mut source, 0).unwrap();
        manager.trim();
        // Either one's manager does it.
        manager.transfers().copy(&source, &mut destination).unwrap();
        assert!(content(&peer.transfers(), &destination) == values);
        drop(destination);
        let (source, destination) =
            (source.into_view(), zeroed(&peer, BYTES).into_view().view(1..BYTES as u64).unwrap());
        let desc = CopyDesc { source_offset: 1, destination_offset: 2, bytes: 300_000 };
        let (source, destination) =
            peer.transfers().copy_async(source, destination, desc).unwrap().wait().unwrap();
        let mut back = vec![0_u8; 300_000];
        peer.transfers().download(&destination.view(2..300_002).unwrap(), 0, &mut back).unwrap();
        assert!(back == values[1..300_001]);
        let route = if reads_peers { Route::PeerDirect } else { Route::PeerStaged };
        for manager in [&manager, &peer] {
            assert_eq!(manager.statistics().transfers.route(route).count, 1);
        }
        assert_eq!(manager.statistics().transfers.staging_bytes == 0, reads_peers);
        drop((source, destination));
        close(&sim, manager);
        close(&other, peer);
    }
}

#[test]
fn what_one_device_shares_with_the_host_the_other_takes_directly() {
    let [(sim, manager), (other, peer)] = peers(false);
    let values = pattern(BYTES, 4);
    let mut pinned = manager.allocate_with(BYTES as u64, MemoryOptions::PINNED).unwrap();
    pinned.write(0, &values).unwrap();
    let mut buffer = zeroed(&peer, BYTES);
    manager.transfers().copy(&pinned, &mut buffer).unwrap();
    assert!(content(&peer.transfers(), &buffer) == values);
    pinned.fill(0).unwrap();
    peer.transfers().copy(&buffer, &mut pinned).unwrap();
    assert!(pinned.as_slice::<u8>().unwrap() == values);
    assert_eq!(counts(&manager).0, [0, 0, 0, 1, 0, 0]);
    drop((pinned, buffer));
    close(&sim, manager);
    close(&other, peer);
}

#[test]
fn a_buffer_whose_manager_has_gone_is_an_end() {
    for reads_peers in [true, false] {
        let [(sim, manager), (other, peer)] = peers(reads_peers);
        let values = pattern(BYTES, 5);
        let mut source = zeroed(&peer, BYTES);
        peer.transfers().upload(&values, &mut source, 0).unwrap();
        drop(peer);
        let mut destination = zeroed(&manager, BYTES);
        manager.transfers().copy(&source, &mut destination).unwrap();
        assert!(content(&manager.transfers(), &destination) == values);
        let transfer = manager.transfers().copy_async(destination, source, ALL).unwrap();
        let (destination, source) = transfer.wait().unwrap();
        drop((source, destination));
        assert_eq!(other.books().live_blocks, 0, "with its last buffer it is gone");
        close(&sim, manager);
    }
}
