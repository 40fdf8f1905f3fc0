//! Recording what a manager does, and reading it back.

use aquifer::trace::{Trace, TraceCompression, TraceErrorKind, TraceOp, TraceWriter};
use aquifer::{Config, ErrorKind, Host, HostMemoryManager};
use std::io::{self, Write};

fn manager(config: Config) -> Result<HostMemoryManager, aquifer::Error> {
    HostMemoryManager::with_config(Host::new()?, config)
}

#[test]
fn a_recording_holds_what_happened_while_it_lasted() -> Result<(), Box<dyn std::error::Error>> {
    let manager = manager(Config::default())?;
    let early = manager.allocate(100)?;
    let recorder = manager.record(TraceWriter::new("memory", Vec::new(), TraceCompression::Gzip)?);
    let second = manager.record(TraceWriter::new("second", Vec::new(), TraceCompression::None)?);
    let kept = manager.allocate(5000)?;
    drop(manager.allocate(200 << 20)?);
    drop(early);
    let (event_count, bytes) = recorder.finish()?;
    drop(kept);

    let trace = Trace::read("memory", bytes.as_slice())?;
    let events: Vec<_> = trace.events().iter().map(|event| (event.op, event.id, event.bytes)).collect();
    assert_eq!(
        events,
        [(TraceOp::Allocate, 1, 5000), (TraceOp::Allocate, 2, 200 << 20), (TraceOp::Free, 2, 200 << 20)]
    );
    assert_eq!(event_count, 3);
    assert_eq!(second.finish()?.0, 4, "the other one lasted longer");
    Ok(())
}

#[test]
fn threads_give_one_trace_in_which_every_free_follows_its_allocation()
-> Result<(), Box<dyn std::error::Error>> {
    let manager = manager(Config::default())?;
    let recorder = manager.record(TraceWriter::new("memory", Vec::new(), TraceCompression::None)?);
    let (send, receive) = std::sync::mpsc::channel();
    let other = {
        let manager = manager.clone();
        std::thread::spawn(move || {
            for size in 1..500 {
                send.send(manager.allocate(size * 7).expect("there is room")).expect("the receiver waits");
            }
        })
    };
    // Freed here, and the place is taken again there.
    receive.into_iter().for_each(drop);
    other.join().expect("the other thread is well");
    let (event_count, bytes) = recorder.finish()?;
    // Reading checks the order.
    let summary = Trace::read("memory", bytes.as_slice())?.summary();
    assert_eq!((event_count, summary.allocation_count, summary.free_count), (998, 499, 499));
    Ok(())
}

#[test]
fn the_configuration_can_record_everything_to_a_file() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("run.csv.gz");
    let mut config = Config::default();
    config.record_to = Some(path.clone());
    let manager = manager(config)?;
    let outlives = manager.allocate(77)?;
    drop(manager);
    drop(outlives);
    let summary = Trace::open(&path)?.summary();
    assert_eq!((summary.allocation_count, summary.free_count, summary.live_bytes_peak), (1, 1, 77));
    Ok(())
}

#[test]
fn a_file_that_exists_is_not_overwritten() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("run.csv");
    for bytes in [1, 22, 333] {
        let mut config = Config::default();
        config.record_to = Some(path.clone());
        drop(manager(config)?.allocate(bytes)?);
    }
    let mut peaks = Vec::new();
    for entry in std::fs::read_dir(folder.path())? {
        peaks.push(Trace::open(entry?.path())?.summary().live_bytes_peak);
    }
    peaks.sort_unstable();
    assert_eq!(peaks, [1, 22, 333]);
    Ok(())
}

#[test]
fn a_writer_may_use_the_manager_that_it_records() {
    struct Allocates(HostMemoryManager);
    impl Write for Allocates {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Large enough to make the pool grow.
            drop(self.0.allocate(64 << 20).map_err(io::Error::other)?);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let manager = manager(Config::default()).expect("host memory can be had");
    let writer =
        TraceWriter::new("itself", Allocates(manager.clone()), TraceCompression::None).expect("it writes");
    let recorder = manager.record(writer);
    for _ in 0..2_000 {
        drop(manager.allocate(1000).expect("there is room"));
    }
    let (event_count, _) = recorder.finish().expect("it writes");
    assert_eq!(event_count, 4_000);
    assert_eq!(manager.statistics().live_count(), 0);
}

#[test]
fn a_writer_that_panics_loses_no_memory() {
    struct Panics(u32);
    impl Write for Panics {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(1).expect("the writer has had enough");
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for writes in 1..6 {
        let manager = manager(Config::default()).expect("host memory can be had");
        let writer = TraceWriter::new("panics", Panics(writes), TraceCompression::None).expect("it writes");
        let recorder = manager.record(writer);
        let mut panics = 0;
        for size in (1..4_000).chain(1..777) {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                drop(manager.allocate(size).expect("there is room"));
            }));
            panics += u32::from(outcome.is_err());
        }
        assert_eq!(panics, 1, "it is not asked again");
        assert_eq!(manager.statistics().live_count(), 0);
        assert!(recorder.finish().is_err());
    }
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_at_once() {
    let mut config = Config::default();
    config.record_to = Some("/dev/null/run.csv".into());
    assert_eq!(manager(config).unwrap_err().kind(), ErrorKind::Configuration);
}

/// Takes so many bytes and no more.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_fails_does_not_disturb_the_manager_and_is_told_at_the_end() {
    let manager = manager(Config::default()).expect("host memory can be had");
    let writer =
        TraceWriter::new("full disk", Full(100_000), TraceCompression::None).expect("the header fits");
    let recorder = manager.record(writer);
    for _ in 0..20_000 {
        drop(manager.allocate(1000).expect("recording has no say in it"));
    }
    let error = recorder.finish().map(drop).unwrap_err();
    assert!(matches!(error.kind(), TraceErrorKind::Unwritable(io::ErrorKind::StorageFull)), "{error}");
    assert_eq!(manager.statistics().live_count(), 0);
}
