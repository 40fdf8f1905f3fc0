//! Transfers: what they bring arrives, whatever the way, and nothing else is touched.

use crate::{Pattern, assert_balanced, config_with_budget};
use aquifer_backend::SyncBackend;
use aquifer_core::{
    Buffer, CancelToken, CopyDesc, ErrorKind, MemoryManager, MemoryOptions, OperationError, Priority, Route,
    Transfers,
};

const BUFFER_BYTES: usize = 700_000;
/// Offsets and sizes: nothing, what is short, and what takes several chunks; odd ones, and multiples of pages.
const PARTS: [(usize, usize); 8] = [
    (0, 1),
    (3, 5),
    (4095, 2),
    (4096, 4096),
    (65_537, 262_144),
    (1, 262_147),
    (0, BUFFER_BYTES),
    (BUFFER_BYTES - 300_001, 300_001),
];

/// A manager with small chunks: with threads that copy, or without.
fn manager<B: SyncBackend>(backend: B, copy_threads: usize) -> MemoryManager<B> {
    let mut config = config_with_budget(1 << 30);
    config.transfers.copy_threads = copy_threads;
    config.transfers.chunk_bytes = 64 << 10;
    config.transfers.staging_bytes = 256 << 10;
    MemoryManager::with_config(backend, config).expect("the budget is given")
}

/// Runs a case with managers of both kinds, and checks that it leaves nothing.
fn with_managers<B: SyncBackend>(make: impl Fn() -> B, case: impl Fn(&MemoryManager<B>)) {
    for copy_threads in [0, 2] {
        let manager = manager(make(), copy_threads);
        case(&manager);
        manager.settle();
        // A copy thread may have to let go of what a transfer had that nobody waited for.
        for _ in 0..10_000 {
            manager.trim();
            if manager.statistics().reserved.current == 0 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let statistics = manager.statistics();
        assert_balanced(&statistics);
        assert_eq!(statistics.transfers.staging_bytes, 0);
        assert_eq!((statistics.live_count(), statistics.reserved.current), (0, 0), "{}", manager.report());
    }
}

fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    Pattern::new(seed).bytes(0, &mut bytes);
    bytes
}

fn zeroed<B: SyncBackend>(manager: &MemoryManager<B>) -> Buffer<B> {
    manager.allocate_with(BUFFER_BYTES as u64, MemoryOptions::ZEROED).expect("there is room")
}

fn content<B: SyncBackend>(transfers: &Transfers<B>, buffer: &Buffer<B>) -> Vec<u8> {
    let mut found = vec![0xee; buffer.size_bytes() as usize];
    transfers.download(buffer, 0, &mut found).expect("a download");
    found
}

/// What is uploaded arrives where it should, and comes back.
pub fn uploads_and_downloads_arrive<B: SyncBackend>(make: impl Fn() -> B) {
    with_managers(make, |manager| {
        let transfers = manager.transfers();
        let mut buffer = zeroed(manager);
        let mut expected = vec![0; BUFFER_BYTES];
        for (seed, (offset, count)) in PARTS.into_iter().enumerate() {
            let values = bytes(seed as u64, count);
            transfers.upload(&values, &mut buffer, offset as u64).expect("an upload");
            expected[offset..offset + count].copy_from_slice(&values);
            assert!(content(&transfers, &buffer) == expected, "{count} bytes at {offset}");
            let mut back = vec![0; count];
            transfers.download(&buffer, offset as u64, &mut back).expect("a download");
            assert!(back == values, "{count} bytes at {offset}");
        }
        if buffer.as_slice::<u8>().is_ok() {
            assert!(buffer.as_slice::<u8>().expect("it is visible") == expected);
        }
    });
}

/// Within a device bytes arrive where they should, and no others change.
pub fn transfers_copy_and_fill<B: SyncBackend>(make: impl Fn() -> B) {
    with_managers(make, |manager| {
        let transfers = manager.transfers();
        let values = bytes(1, BUFFER_BYTES);
        let mut source = zeroed(manager);
        transfers.upload(&values, &mut source, 0).expect("an upload");
        let mut expected = vec![0; BUFFER_BYTES];
        let (mut source, mut destination) = (source, zeroed(manager));
        for (seed, (offset, count)) in PARTS.into_iter().enumerate() {
            let source_offset = (offset + 7 * seed) % (BUFFER_BYTES - count + 1);
            let desc = CopyDesc {
                source_offset: source_offset as u64,
                destination_offset: offset as u64,
                bytes: count as u64,
            };
            let transfer = transfers.copy_async(source, destination, desc).expect("a copy");
            (source, destination) = transfer.wait().expect("a copy");
            expected[offset..offset + count].copy_from_slice(&values[source_offset..source_offset + count]);
            assert!(content(&transfers, &destination) == expected, "{desc:?}");
            let filled = offset + count / 3..offset + count / 2;
            transfers
                .fill(&mut destination, filled.start as u64..filled.end as u64, seed as u8)
                .expect("a fill");
            expected[filled.clone()].fill(seed as u8);
            assert!(content(&transfers, &destination) == expected, "{filled:?}");
        }
        transfers.copy(&source, &mut destination).expect("a copy");
        assert!(content(&transfers, &destination) == values);
    });
}

/// Pinned memory, where there is any, is an end like any other.
pub fn pinned_memory_is_transferred<B: SyncBackend>(make: impl Fn() -> B) {
    with_managers(make, |manager| {
        let mut pinned = match manager.pinned().allocate(BUFFER_BYTES as u64) {
            Ok(pinned) => pinned,
            Err(error) => return assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
        };
        let (transfers, values) = (manager.transfers(), bytes(5, BUFFER_BYTES));
        pinned.copy_from_slice(&values);
        let mut buffer = zeroed(manager);
        transfers.upload(&pinned[1..], &mut buffer, 1).expect("an upload");
        transfers.upload(&pinned[..1], &mut buffer, 0).expect("an upload");
        assert!(content(&transfers, &buffer) == values);
        pinned.fill(0);
        let transfer = transfers.download_async(buffer, 0, pinned).expect("a download");
        let (mut buffer, pinned) = transfer.wait().expect("a download");
        assert!(pinned[..] == values);
        let pinned = pinned.into_buffer();
        transfers.fill(&mut buffer, 0..BUFFER_BYTES as u64, 0).expect("a fill");
        transfers.copy(&pinned, &mut buffer).expect("a copy");
        assert!(content(&transfers, &buffer) == values);
    });
}

/// Parts of one buffer are ends, alone and several at the same time.
pub fn views_are_transferred<B: SyncBackend>(make: impl Fn() -> B) {
    with_managers(make, |manager| {
        let transfers = manager.transfers();
        let view = zeroed(manager).into_view();
        let (low, high) = view.view(100..600_100).expect("it is a part").split_at(300_000).expect("a part");
        let values = bytes(2, 300_000);
        let both = [(low, 1), (high, 2)]
            .map(|(part, seed)| transfers.upload_async(bytes(seed, 300_000), part, 0).expect("an upload"));
        let [(low, _), (high, _)] = both.map(|transfer| transfer.wait().expect("an upload"));
        let mut expected = vec![0; BUFFER_BYTES];
        expected[100..300_100].copy_from_slice(&bytes(1, 300_000));
        expected[300_100..600_100].copy_from_slice(&values);
        let mut found = vec![0xee; BUFFER_BYTES];
        transfers.download(&view, 0, &mut found).expect("a download");
        assert!(found == expected);
        // Each waits for the one before it, whoever is asked first.
        let filled = transfers.fill_async(low.clone(), 0..200_001, 3).expect("a fill");
        let desc = CopyDesc { source_offset: 0, destination_offset: 0, bytes: 300_000 };
        let copied = transfers.copy_async(low, high, desc).expect("a copy");
        let back = transfers.download_async(view, 0, vec![0_u8; BUFFER_BYTES]).expect("a download");
        let (_, found) = back.wait().expect("a download");
        expected[100..200_101].fill(3);
        expected.copy_within(100..300_100, 300_100);
        assert!(found == expected);
        drop((copied.wait().expect("a copy"), filled.wait().expect("a fill")));
    });
}

/// What is cancelled says what has arrived, gives back what it used, and leaves nothing; and so does what is dropped.
pub fn cancelled_transfers_leave_nothing<B: SyncBackend>(make: impl Fn() -> B) {
    with_managers(make, |manager| {
        // No byte is 0.
        let values: Vec<u8> = (0..BUFFER_BYTES).map(|index| (index % 255) as u8 + 1).collect();
        for round in 0..12_u64 {
            let token = CancelToken::new();
            let stops_at = round * BUFFER_BYTES as u64 / 8;
            let transfers = manager.transfers().priority(Priority::High).cancel_token(&token).on_progress({
                let token = token.clone();
                move |progress| {
                    if progress.done_bytes >= stops_at {
                        token.cancel();
                    }
                }
            });
            let transfer = transfers.upload_async(values.clone(), zeroed(manager), 0).expect("an upload");
            if round == 11 {
                transfer.cancel();
            }
            let (done_bytes, (buffer, given)) = outcome(transfer.wait(), BUFFER_BYTES as u64);
            assert!(given == values);
            let found = content(&manager.transfers(), &buffer);
            assert!(found.iter().zip(&values).all(|(&found, &value)| found == 0 || found == value));
            assert_eq!(found.iter().filter(|&&found| found != 0).count() as u64, done_bytes);
            // Cancelled already, or not at all.
            drop(transfers.download_async(buffer, 0, vec![0_u8; 1000]).expect("a download"));
            drop(manager.transfers().upload_async(given, zeroed(manager), 0).expect("an upload"));
        }
        // What was dropped goes on by itself, or with who waits for something.
        let routes = [Route::HostToDevice, Route::DeviceToHost];
        let over =
            || routes.map(|route| manager.statistics().transfers.route(route).count).iter().sum::<u64>();
        let mut buffer = zeroed(manager);
        for _ in 0..100_000 {
            // Of each twice 12: half of the downloads were to look.
            if over() == 48 {
                break;
            }
            manager.transfers().poll();
            if let Some(copy) = manager.transfers().take_copy() {
                copy.run();
            }
            // Where time is virtual it passes.
            manager.transfers().fill(&mut buffer, 0..BUFFER_BYTES as u64, 0).expect("a fill");
        }
        assert_eq!(over(), 48);
    });
}

/// How much has arrived, and what was used.
fn outcome<T>(answer: Result<T, OperationError<T>>, bytes: u64) -> (u64, T) {
    match answer {
        Ok(parts) => (bytes, parts),
        Err(error) => {
            assert_eq!(error.error().kind(), ErrorKind::Cancelled, "{error}");
            (error.done_bytes(), error.into_parts().expect("what was used comes back"))
        }
    }
}

/// Each transfer is counted once, with what has arrived.
pub fn transfers_are_counted<B: SyncBackend>(make: impl Fn() -> B) {
    with_managers(make, |manager| {
        let transfers = manager.transfers();
        let token = CancelToken::new();
        token.cancel();
        let mut buffer = zeroed(manager);
        for (offset, count) in PARTS {
            transfers.upload(&bytes(1, count), &mut buffer, offset as u64).expect("an upload");
            let mut back = vec![0_u8; count];
            transfers.download(&buffer, offset as u64, &mut back).expect("a download");
            let range = offset as u64..(offset + count) as u64;
            buffer = transfers.fill_async(buffer, range, 1).expect("a fill").wait().expect("a fill");
        }
        transfers.clone().cancel_token(&token).fill(&mut buffer, 0..100, 1).expect_err("it is cancelled");
        transfers.copy(&buffer, &mut zeroed(manager)).expect("a copy");
        transfers.upload(&[1_u8], &mut buffer, BUFFER_BYTES as u64).expect_err("it does not fit");
        let statistics = manager.statistics().transfers;
        assert_eq!(statistics.staging_bytes, transfers.statistics().staging_bytes);
        let bytes: u64 = PARTS.iter().map(|&(_, count)| count as u64).sum();
        for route in Route::ALL {
            let found = statistics.route(route);
            let expected = match route {
                Route::HostToDevice | Route::DeviceToHost => (8, 0, bytes),
                Route::Fill => (9, 1, bytes),
                Route::DeviceToDevice => (1, 0, BUFFER_BYTES as u64),
                _ => (0, 0, 0),
            };
            assert_eq!((found.count, found.cancelled, found.bytes), expected, "{route}");
            assert_eq!(found.failed, 0, "{route}");
        }
    });
}
