//! What transfers refuse, and what they make of senseless settings.

mod simulated;

use aquifer::sim::{Sim, SimDesc};
use aquifer::{CopyDesc, ErrorKind, MemoryManager, OperationError, Route};
use simulated::{close, content, discrete, pattern, zeroed};

const BYTES: u64 = 500_000;

fn desc(source_offset: u64, destination_offset: u64, bytes: u64) -> CopyDesc {
    CopyDesc { source_offset, destination_offset, bytes }
}

/// What a refusal says; nothing has been begun, and what was given comes back.
fn refused<U, T>(answer: Result<U, OperationError<T>>) -> (ErrorKind, T) {
    let Err(error) = answer else { panic!("it is refused") };
    assert_eq!(error.done_bytes(), 0);
    let kind = error.error().kind();
    (kind, error.into_parts().expect("what was given comes back"))
}

#[test]
fn what_does_not_fit_is_refused() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    let mut buffer = zeroed(&manager, BYTES as usize);
    let mut bytes = [1_u8; 100];
    for offset in [BYTES - 99, BYTES, BYTES + 1, u64::MAX - 99, u64::MAX] {
        assert_eq!(refused(transfers.upload(&bytes, &mut buffer, offset)).0, ErrorKind::OutOfBounds);
        assert_eq!(refused(transfers.download(&buffer, offset, &mut bytes)).0, ErrorKind::OutOfBounds);
        let kind;
        (kind, (buffer, _)) = refused(transfers.upload_async(vec![1_u8; 100], buffer, offset));
        assert_eq!(kind, ErrorKind::OutOfBounds);
        let kind;
        (kind, (buffer, _)) = refused(transfers.download_async(buffer, offset, vec![1_u8; 100]));
        assert_eq!(kind, ErrorKind::OutOfBounds);
    }
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    for range in [0..BYTES + 1, BYTES..BYTES + 1, 5..4, u64::MAX..u64::MAX, u64::MAX..0, 0..u64::MAX] {
        assert_eq!(refused(transfers.fill(&mut buffer, range.clone(), 1)).0, ErrorKind::OutOfBounds);
        let kind;
        (kind, buffer) = refused(transfers.fill_async(buffer, range, 1));
        assert_eq!(kind, ErrorKind::OutOfBounds);
    }
    let mut other = zeroed(&manager, BYTES as usize);
    let descs = [(0, 0, BYTES + 1), (1, 0, BYTES), (0, 1, BYTES), (u64::MAX, 0, 2), (0, u64::MAX, u64::MAX)];
    for (source, destination, bytes) in descs {
        let kind;
        (kind, (buffer, other)) =
            refused(transfers.copy_async(buffer, other, desc(source, destination, bytes)));
        assert_eq!(kind, ErrorKind::OutOfBounds);
    }
    let shorter = zeroed(&manager, 10);
    assert_eq!(refused(transfers.copy(&shorter, &mut other)).0, ErrorKind::InvalidArgument);
    assert!(content(&transfers, &buffer).iter().chain(&bytes[..0]).all(|&byte| byte == 0));
    assert_eq!(bytes, [1; 100]);
    let statistics = transfers.statistics();
    assert_eq!(statistics.route(Route::HostToDevice).count + statistics.route(Route::Fill).count, 0);
    drop((buffer, other, shorter, transfers));
    close(&sim, manager);
}

#[test]
fn ends_that_overlap_are_refused() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    let view = zeroed(&manager, BYTES as usize).into_view();
    let low = view.view(0..1000).unwrap();
    let high = view.view(999..1999).unwrap();
    assert_eq!(refused(transfers.copy(&low, &high)).0, ErrorKind::InvalidArgument);
    assert_eq!(refused(transfers.copy(&view, &view)).0, ErrorKind::InvalidArgument);
    let (kind, (low, high)) = refused(transfers.copy_async(low, high, desc(0, 0, 1000)));
    assert_eq!(kind, ErrorKind::InvalidArgument);
    // Parts of them do not.
    let (low, high) = transfers.copy_async(low, high, desc(0, 1, 999)).unwrap().wait().unwrap();
    let (low, high) = transfers.copy_async(low, high, desc(999, 999, 0)).unwrap().wait().unwrap();
    // Nobody holds anything.
    transfers.fill(&view, 0..BYTES, 1).unwrap();
    drop((low, high));
    assert!(content(&transfers, &view.try_into_buffer().unwrap()).iter().all(|&byte| byte == 1));
    drop(transfers);
    close(&sim, manager);
}

#[test]
fn buffers_of_other_managers_alone_are_refused() {
    let (sim, manager) = discrete();
    let (other, foreign) = discrete();
    let transfers = manager.transfers();
    let (mut buffer, mut bytes) = (zeroed(&foreign, 1000), [0_u8; 10]);
    assert_eq!(refused(transfers.upload(&bytes, &mut buffer, 0)).0, ErrorKind::InvalidArgument);
    assert_eq!(refused(transfers.download(&buffer, 0, &mut bytes)).0, ErrorKind::InvalidArgument);
    assert_eq!(refused(transfers.fill(&mut buffer, 0..10, 1)).0, ErrorKind::InvalidArgument);
    let mut second = zeroed(&foreign, 1000);
    assert_eq!(refused(transfers.copy(&second, &mut buffer)).0, ErrorKind::InvalidArgument);
    let kind;
    (kind, (buffer, second)) = refused(transfers.copy_async(buffer, second, desc(0, 0, 1000)));
    assert_eq!(kind, ErrorKind::InvalidArgument);
    let (kind, buffer) = refused(transfers.fill_async(buffer, 0..1000, 1));
    assert_eq!(kind, ErrorKind::InvalidArgument);
    drop((buffer, second, transfers));
    close(&sim, manager);
    close(&other, foreign);
}

#[test]
fn nothing_is_soon_brought() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers().on_progress(|_| panic!("there is nothing to tell"));
    let (mut buffer, other) = (zeroed(&manager, 100), zeroed(&manager, 100));
    transfers.upload::<u64>(&[], &mut buffer, 100).unwrap();
    transfers.download::<u64>(&buffer, 0, &mut []).unwrap();
    transfers.fill(&mut buffer, 50..50, 1).unwrap();
    let (buffer, _) = transfers.upload_async(Vec::<u32>::new(), buffer, 100).unwrap().wait().unwrap();
    let (buffer, other) = transfers.copy_async(buffer, other, desc(100, 0, 0)).unwrap().wait().unwrap();
    let transfer = transfers.fill_async(buffer, 7..7, 1).unwrap();
    assert!(transfer.is_over());
    assert_eq!((transfer.bytes(), transfer.done_bytes()), (0, 0));
    let view = transfer.wait().unwrap().into_view();
    let none = view.view(3..3).unwrap();
    transfers.copy(&none, &view.view(5..5).unwrap()).unwrap();
    drop((other, none, view, transfers));
    close(&sim, manager);
}

#[test]
fn without_pinned_memory_the_driver_copies() {
    let sim = Sim::new(SimDesc::default());
    let manager = simulated::manager(&sim);
    let transfers = manager.transfers();
    let mut buffer = manager.allocate(BYTES).unwrap();
    transfers.upload(&[1_u8; 100], &mut buffer, 0).unwrap();
    let (buffer, mut back) =
        transfers.download_async(buffer, 0, vec![1_u8; BYTES as usize]).unwrap().wait().unwrap();
    let (mut buffer, _) = transfers.upload_async(back.clone(), buffer, 0).unwrap().wait().unwrap();
    transfers.download(&buffer, 0, &mut back).unwrap();
    transfers.fill(&mut buffer, 0..BYTES, 1).unwrap();
    let statistics = transfers.statistics();
    assert_eq!(statistics.staging_bytes, 0);
    assert_eq!(statistics.route(Route::HostToDevice).bytes, BYTES + 100);
    assert_eq!(statistics.route(Route::DeviceToHost).bytes, 2 * BYTES);
    drop((buffer, transfers));
    close(&sim, manager);

    // Two such devices have no way between them.
    let other = sim.peer(SimDesc::default());
    let (manager, peer) = (simulated::manager(&sim), simulated::manager(&other));
    let source = manager.allocate(BYTES).unwrap();
    let mut destination = peer.allocate(BYTES).unwrap();
    let answer = manager.transfers().copy(&source, &mut destination);
    assert_eq!(refused(answer).0, ErrorKind::Unsupported);
    drop((source, destination));
    close(&sim, manager);
    close(&other, peer);
}

#[test]
fn senseless_settings_are_made_the_best_of() {
    for (chunk_bytes, staging_bytes) in [(0, 0), (1, u64::MAX), (70_001, 0), (64 << 20, 1)] {
        let sim = Sim::new(SimDesc::discrete());
        let mut config = simulated::config(&sim);
        config.transfers.chunk_bytes = chunk_bytes;
        config.transfers.staging_bytes = staging_bytes;
        let manager = MemoryManager::with_config(sim.clone(), config).unwrap();
        let (transfers, values) = (manager.transfers(), pattern(BYTES as usize, 3));
        let mut buffer = zeroed(&manager, BYTES as usize);
        transfers.upload(&values, &mut buffer, 0).unwrap();
        let (buffer, _) = transfers.upload_async(values.clone(), buffer, 0).unwrap().wait().unwrap();
        assert!(content(&transfers, &buffer) == values);
        drop((buffer, transfers));
        close(&sim, manager);
    }
    // A chunk that is too large for the device.
    let sim = Sim::new(SimDesc::discrete());
    let mut config = simulated::config(&sim);
    config.transfers.chunk_bytes = u64::MAX;
    let manager = MemoryManager::with_config(sim.clone(), config).unwrap();
    let mut buffer = zeroed(&manager, 1000);
    let kind = refused(manager.transfers().upload(&[1_u8; 1000], &mut buffer, 0)).0;
    assert_eq!(kind, ErrorKind::CanNeverFit);
    drop(buffer);
    close(&sim, manager);
}
