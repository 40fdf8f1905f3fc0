//! Transfers on the host's own memory.

use aquifer::{CancelToken, CopyDesc, ErrorKind, HostMemoryManager, MemoryOptions, Route};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn pattern(bytes: usize, seed: u32) -> Vec<u32> {
    (0..bytes as u32 / 4).map(|index| index.wrapping_mul(2_654_435_761) ^ seed).collect()
}

#[test]
fn what_is_uploaded_is_downloaded() {
    let manager = HostMemoryManager::new().unwrap();
    let transfers = manager.transfers();
    for bytes in [4, 4096, 1 << 20, (1 << 20) + 4, 9 << 20] {
        let values = pattern(bytes, bytes as u32);
        let mut buffer = manager.allocate(bytes as u64 + 256).unwrap();
        transfers.upload(&values, &mut buffer, 256).unwrap();
        let mut back = vec![0_u32; values.len()];
        transfers.download(&buffer, 256, &mut back).unwrap();
        assert!(back == values, "{bytes}");
    }
    let up = transfers.statistics().route(Route::HostToDevice);
    assert_eq!((up.count, up.cancelled, up.failed), (5, 0, 0));
    assert_eq!(up.bytes, 4 + 4096 + (1 << 20) + (1 << 20) + 4 + (9 << 20));
}

#[test]
fn owned_ends_come_back() {
    let manager = HostMemoryManager::new().unwrap();
    let told = Arc::new(AtomicU64::new(0));
    let transfers = manager.transfers().on_progress({
        let told = Arc::clone(&told);
        move |progress| {
            told.fetch_max(progress.done_bytes, Ordering::Relaxed);
        }
    });
    let values = pattern(8 << 20, 1);
    let buffer = manager.allocate(8 << 20).unwrap();
    let transfer = transfers.upload_async(values.clone(), buffer, 0).unwrap();
    let (buffer, given) = transfer.wait().unwrap();
    assert!(given == values);
    assert_eq!(told.load(Ordering::Relaxed), 8 << 20);
    let (low, high) = buffer.into_view().split_at(4 << 20).unwrap();
    let desc = CopyDesc { source_offset: 0, destination_offset: 0, bytes: 4 << 20 };
    let (low, high) = transfers.copy_async(low, high, desc).unwrap().wait().unwrap();
    let pinned = manager.pinned().allocate(4 << 20).unwrap();
    let (high, pinned) = transfers.download_async(high, 0, pinned).unwrap().wait().unwrap();
    assert!(pinned.as_slice::<u32>().unwrap() == &values[..1 << 20]);
    let low = transfers.fill_async(low, 0..4 << 20, 7).unwrap().wait().unwrap();
    assert!(low.as_slice::<u8>().unwrap().iter().all(|&byte| byte == 7));
    drop(high);
}

#[test]
fn a_cancelled_token_stops_at_once() {
    let manager = HostMemoryManager::new().unwrap();
    let token = CancelToken::new();
    token.cancel();
    let mut buffer = manager.allocate_with(1 << 20, MemoryOptions::ZEROED).unwrap();
    let refused =
        manager.transfers().cancel_token(&token).upload(&[1_u8; 1 << 20], &mut buffer, 0).unwrap_err();
    assert_eq!((refused.error().kind(), refused.done_bytes()), (ErrorKind::Cancelled, 0));
    assert!(buffer.as_slice::<u8>().unwrap().iter().all(|&byte| byte == 0));
}
