//! Pinned and unified memory, and transfers, of managers of Metal memory (docs/mission.md).

mod common;

use aquifer_core::{CancelToken, DeviceAccess, ErrorKind, MemoryManager, MemoryOptions, PinnedConfig, Route};
use aquifer_metal::Metal;
use aquifer_testkit::config_with_budget;
use common::blocks::pattern;
use common::{assert_nothing_is_left, metal, on_all_kinds};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn manager_of(metal: &Metal) -> MemoryManager<Metal> {
    let mut config = config_with_budget(1024 * MIB);
    config.transfers.copy_threads = 2;
    MemoryManager::with_config(metal.clone(), config).expect("a budget")
}

#[test]
fn pinned_memory_is_limited_counted_and_seen_by_the_device() {
    {
        let mut config = config_with_budget(1024 * MIB);
        assert_eq!((config.pinned.count_max, config.pinned.bytes_max), (64, 256 * MIB));
        config.pinned = PinnedConfig::DEFAULT.count_max(2);
        let manager = MemoryManager::with_config(metal(), config).expect("a budget");
        let pinned = manager.pinned();
        let mut first = pinned.allocate(MIB).expect("within the limits");
        let second = pinned.allocate(4 * KIB).expect("within the limits");
        assert!(pinned.allocate(4 * KIB).unwrap_err().message().contains("Config::pinned.count_max"));
        drop(second);
        assert!(pinned.allocate(257 * MIB).unwrap_err().message().contains("Config::pinned.bytes_max"));
        let statistics = pinned.statistics();
        assert_eq!((statistics.live_count, statistics.live_bytes), (1, MIB));
        assert_eq!((statistics.peak_count, statistics.peak_bytes), (2, MIB + 4 * KIB));
        assert_eq!(statistics.refused_count(), 2);
        let content = pattern(3, MIB);
        first.copy_from_slice(&content);
        let queue = manager.queue().expect("a queue");
        let buffer = manager.allocate(MIB).expect("there is room");
        let desc = aquifer_core::CopyDesc { source_offset: 0, destination_offset: 0, bytes: MIB };
        let (_, buffer) =
            queue.copy(first.into_buffer(), buffer, desc).expect("begun").wait().expect("copied");
        let mut found = vec![0_u8; MIB as usize];
        manager.transfers().download(&buffer, 0, &mut found).expect("downloaded");
        assert!(found == content);
    }
    assert_nothing_is_left();
}

#[test]
fn collections_live_in_pinned_memory() {
    {
        let manager = MemoryManager::with_config(metal(), config_with_budget(64 * MIB)).expect("a budget");
        let mut values = aquifer_core::allocator_api2::vec::Vec::new_in(manager.pinned());
        values.extend((0..100_000).map(|value| value as f32));
        let mut buffer = manager.allocate(400_000).expect("there is room");
        manager.transfers().upload(&values, &mut buffer, 0).expect("uploaded");
        let mut back = vec![0_f32; 100_000];
        manager.transfers().download(&buffer, 0, &mut back).expect("downloaded");
        assert!(values.as_slice() == back);
    }
    assert_nothing_is_left();
}

#[test]
fn unified_buffers_are_zero_copy_where_memory_is_unified_and_never_stale() {
    on_all_kinds(|name, metal| {
        let manager = manager_of(metal);
        let mut unified = manager.unified(64 * KIB).expect("there is room");
        let is_unified = manager.allocate_with(KIB, MemoryOptions::UNIFIED).is_ok();
        assert_eq!(unified.is_zero_copy(), is_unified, "{name}");
        let content = pattern(5, 64 * KIB);
        unified.write().expect("the host's turn").copy_from_slice(&content);
        let queue = manager.queue().expect("a queue");
        for round in 0..3_u8 {
            // The device's turn: it fills the first half of the buffer, by a blit.
            let turn = unified.on_device(&queue, DeviceAccess::ReadWrite).expect("the device's turn");
            turn.with_block(|block, offset| {
                common::submit_fill(queue.raw(), block.buffer(), offset..offset + 32 * KIB, round);
            });
            drop(turn);
            let found = unified.read().expect("the host's turn");
            assert!(found[..32 * 1024].iter().all(|&byte| byte == round), "{name}");
            assert!(found[32 * 1024..] == content[32 * 1024..], "{name}");
        }
        unified.synchronize().expect("both agree");
    });
}

#[test]
fn transfers_move_the_bytes_on_every_kind_of_device() {
    on_all_kinds(|name, metal| {
        let manager = manager_of(metal);
        let transfers = manager.transfers();
        for (bytes, offset) in [(1, 1), (4 * KIB, 0), (3 * MIB + 1, 3), (9 * MIB, 4096)] {
            let content = pattern(bytes, bytes);
            let mut buffer = manager.allocate(bytes + offset).expect("there is room");
            transfers.upload(&content, &mut buffer, offset).expect("uploaded");
            let mut copy = manager.allocate(bytes + offset).expect("there is room");
            transfers.copy(&buffer, &mut copy).expect("copied");
            let mut found = vec![0_u8; bytes as usize];
            transfers.download(&copy, offset, &mut found).expect("downloaded");
            assert!(found == content, "{name}: {bytes} bytes from {offset}");
        }
        let statistics = manager.statistics().transfers;
        assert_eq!(statistics.route(Route::HostToDevice).count, 4);
        assert_eq!(statistics.route(Route::DeviceToDevice).count, 4);
    });
}

#[test]
fn a_cancelled_transfer_ends_and_gives_all_back() {
    on_all_kinds(|name, metal| {
        let manager = manager_of(metal);
        let token = CancelToken::new();
        let transfers = manager.transfers().cancel_token(&token).on_progress({
            let token = token.clone();
            move |_| token.cancel()
        });
        let values = pattern(7, 32 * MIB);
        let buffer = manager.allocate(32 * MIB).expect("there is room");
        let transfer = transfers.upload_async(values, buffer, 0).expect("begun");
        let refused = transfer.wait().expect_err("it is cancelled by its first progress");
        assert_eq!(refused.error().kind(), ErrorKind::Cancelled, "{name}");
        let done_bytes = refused.done_bytes();
        assert!(done_bytes > 0 && done_bytes < 32 * MIB, "{name}: {done_bytes}");
        let (buffer, values) = refused.into_parts().expect("all comes back");
        manager.transfers().upload_async(values, buffer, 0).expect("begun").wait().expect("it goes on");
    });
}

/// Copies between two managers' buffers, and answers the route that was counted.
#[cfg(not(target_vendor = "apple"))]
fn copied_between(from: &MemoryManager<Metal>, to: &MemoryManager<Metal>) -> Route {
    let content = pattern(11, 5 * MIB);
    let mut source = from.allocate(5 * MIB).expect("there is room");
    from.transfers().upload(&content, &mut source, 0).expect("uploaded");
    let mut destination = to.allocate(5 * MIB).expect("there is room");
    to.transfers().copy(&source, &mut destination).expect("copied");
    let mut found = vec![0_u8; 5 << 20];
    to.transfers().download(&destination, 0, &mut found).expect("downloaded");
    assert!(found == content);
    let statistics = to.statistics().transfers;
    *[Route::PeerDirect, Route::PeerStaged]
        .iter()
        .find(|&&route| statistics.route(route).count == 1)
        .expect("one")
}

#[cfg(not(target_vendor = "apple"))]
#[test]
fn peers_copy_directly_in_one_group_and_staged_elsewhere() {
    use software_metal::DeviceDesc;
    for (group, expected) in [(3, Route::PeerDirect), (0, Route::PeerStaged)] {
        {
            let device = |index| {
                let desc = DeviceDesc {
                    registry_id: 7 + u64::from(index),
                    peer_group_id: group,
                    peer_index: index,
                    peer_count: if group == 0 { 0 } else { 2 },
                    ..common::discrete()
                };
                manager_of(&common::metal_on(&common::device(desc)))
            };
            assert_eq!(copied_between(&device(0), &device(1)), expected);
        }
        assert_nothing_is_left();
    }
}
