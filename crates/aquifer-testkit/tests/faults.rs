//! Every driver call failing in turn: once, and from then on; for want of memory, and for any other reason.

#![cfg(any(target_os = "linux", target_os = "macos"))]

use aquifer_core::{Buffer, Capabilities, Clock, Config, Error, ErrorKind, MemoryManager, MemoryOptions};
use aquifer_host::Host;
use aquifer_testkit::{DriverCall, FaultMode, Faults, Faulty, Pattern, assert_balanced};
use std::time::Duration;

type Device = Faulty<Host>;

/// A program in progress: its buffers, and the patterns that they must hold.
struct Program {
    manager: MemoryManager<Device>,
    faults: Faults,
    clock: Clock,
    buffers: Vec<(Pattern, Buffer<Device>)>,
    seed: u64,
    error_count: u64,
}

fn device() -> Device {
    let host = Host::new().expect("the system says how much memory it has");
    Faulty::with_properties(host, |properties| {
        properties.capabilities = properties.capabilities | Capabilities::PURGEABLE;
    })
}

fn config(budget_bytes: Option<u64>, clock: &Clock) -> Config {
    let mut config = Config::default();
    config.budget_bytes = budget_bytes;
    config.idle_decay = Some(Duration::from_secs(1));
    config.clock = clock.clone();
    config
}

impl Program {
    /// Counts an error, which must be one that a driver's failure explains.
    fn expect<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let kind = error.kind();
                assert!(matches!(kind, ErrorKind::Driver | ErrorKind::OutOfMemory), "{error}");
                assert_eq!(kind == ErrorKind::OutOfMemory, error.out_of_memory().is_some(), "{error}");
                assert!(self.faults.failed_count() > 0, "nothing has failed: {error}");
                self.error_count += 1;
                None
            }
        }
    }

    fn allocate(&mut self, bytes: u64, options: MemoryOptions) {
        let result = self.manager.allocate_with(bytes, options);
        if let Some(mut buffer) = self.expect(result) {
            if options == MemoryOptions::ZEROED {
                let mut start = [1_u8; 100];
                buffer.read(0, &mut start[..bytes.min(100) as usize]).expect("in bounds");
                assert!(start[..bytes.min(100) as usize].iter().all(|&byte| byte == 0), "not zeroed");
            }
            let pattern = Pattern::new(self.seed);
            self.seed += 1;
            pattern.write(&mut buffer);
            self.buffers.push((pattern, buffer));
        }
        self.check();
    }

    /// Copies one buffer over another, or fills one, and makes its pattern good again: a failed call leaves anything.
    fn overwrite(&mut self, is_copy: bool) {
        if self.buffers.len() < 2 {
            return;
        }
        let (pattern, mut target) = self.buffers.swap_remove(0);
        let source = &self.buffers[0].1;
        let bytes = target.size_bytes().min(source.size_bytes()).min(5000);
        let result =
            if is_copy { target.copy_from(0, source, 0, bytes) } else { target.fill_range(0..bytes, 7) };
        if self.expect(result).is_some() {
            let mut found = vec![0_u8; bytes as usize];
            target.read(0, &mut found).expect("in bounds");
            let mut expected = vec![7_u8; bytes as usize];
            if is_copy {
                self.buffers[0].1.read(0, &mut expected).expect("in bounds");
            }
            assert!(found == expected, "the call succeeded and did not do its work");
        }
        pattern.write(&mut target);
        self.buffers.push((pattern, target));
        self.check();
    }

    fn free(&mut self, keep_every: usize) {
        let mut index = 0;
        self.buffers.retain(|_| {
            index += 1;
            index % keep_every == 0
        });
        self.check();
    }

    fn give_back(&mut self, call: impl FnOnce(&MemoryManager<Device>) -> u64) {
        let before = self.manager.statistics().reserved.current;
        let released = call(&self.manager);
        assert_eq!(before - self.manager.statistics().reserved.current, released);
        self.check();
    }

    fn mark_purgeable(&self) {
        let before = self.manager.statistics();
        let marked = self.manager.mark_idle_purgeable();
        let after = self.manager.statistics();
        assert_eq!(after.purgeable_bytes - before.purgeable_bytes, marked);
        assert_eq!(after.reserved.current, before.reserved.current);
        self.check();
    }

    /// Books balance, the ledger is what the driver gave, and no buffer has changed.
    fn check(&self) {
        let statistics = self.manager.statistics();
        assert_balanced(&statistics);
        assert_eq!(statistics.reserved.current, self.faults.live_bytes());
        assert_eq!(statistics.reserved.peak, self.faults.live_bytes_peak());
        assert_eq!(statistics.block_count, self.faults.live_blocks());
        assert_eq!(statistics.live_count(), self.buffers.len() as u64);
        assert_eq!(statistics.purgeable_bytes > 0, self.faults.purgeable_blocks() > 0);
        for (pattern, buffer) in &self.buffers {
            pattern.check(buffer);
        }
    }

    /// The script. It grows, shrinks, evicts, decays and runs into its budget.
    fn run(&mut self) {
        let plain = MemoryOptions::DEFAULT;
        for bytes in [100, 5000, 5000, 70_000, 3 << 20, 9 << 20] {
            self.allocate(bytes, plain);
        }
        self.allocate(1000, MemoryOptions::ZEROED);
        self.overwrite(true);
        self.overwrite(false);
        self.free(4);
        for bytes in [9 << 20, 300, 5 << 20] {
            self.allocate(bytes, MemoryOptions::ZEROED);
        }
        self.allocate(20_000, plain.alignment(4096));
        self.give_back(|manager| manager.trim_to(4 << 20));
        self.free(4);
        self.allocate(16 << 20, plain);
        self.free(3);
        self.clock.advance(Duration::from_secs(2));
        self.give_back(MemoryManager::release_idle);
        self.allocate(12 << 20, plain);
        self.allocate(2 << 20, MemoryOptions::ZEROED);
        self.overwrite(true);
        self.free(usize::MAX);
        self.allocate(26 << 20, plain);
        self.free(usize::MAX);
        self.give_back(MemoryManager::trim);
        self.allocate(2000, plain);
        self.give_back(MemoryManager::trim);
    }

    /// The same for purgeable blocks: small ones, since every byte is looked at after each step.
    fn run_purgeable(&mut self) {
        let plain = MemoryOptions::DEFAULT;
        for bytes in [1 << 20, 300, 3 << 20, 3 << 20] {
            self.allocate(bytes, plain);
        }
        // What is left keeps one block in use.
        self.free(4);
        self.mark_purgeable();
        self.allocate(3 << 20, MemoryOptions::ZEROED);
        self.allocate(2 << 20, MemoryOptions::ZEROED);
        self.overwrite(true);
        self.free(usize::MAX);
        self.mark_purgeable();
        // Nothing fits, and the budget holds no block more.
        let large = self.manager.allocate(30 << 20);
        drop(self.expect(large));
        self.check();
        self.mark_purgeable();
        self.allocate(70_000, MemoryOptions::ZEROED);
        self.mark_purgeable();
        self.clock.advance(Duration::from_secs(2));
        self.give_back(MemoryManager::release_idle);
        self.free(usize::MAX);
        self.mark_purgeable();
        self.give_back(MemoryManager::trim);
        self.allocate(3 << 20, plain);
        self.free(usize::MAX);
        // Goes with the manager.
        self.mark_purgeable();
    }
}

/// Runs the script with one plan of failure; how many calls it made.
fn run(call_number: u64, mode: FaultMode, create_kind: ErrorKind) -> u64 {
    let clock = Clock::manual();
    let device = device();
    let faults = device.faults();
    faults.fail(call_number, mode, create_kind);
    // A budget that the script needs nearly all of. Asking the driver for one first makes that a call that can fail.
    let with_own_budget = MemoryManager::with_config(device, config(None, &clock));
    let failed_early = with_own_budget.is_err();
    if let Err(error) = with_own_budget {
        assert_eq!((error.kind(), call_number), (ErrorKind::Driver, 0), "{error}");
    }
    assert_eq!((failed_early, faults.live_blocks()), (call_number == 0, 0));

    let device = self::device();
    let faults = device.faults();
    let manager =
        MemoryManager::with_config(device, config(Some(34 << 20), &clock)).expect("a budget is given");
    faults.fail(call_number, mode, create_kind);
    let mut program =
        Program { manager, faults: faults.clone(), clock, buffers: Vec::new(), seed: 0, error_count: 0 };
    program.run();
    program.run();
    program.run_purgeable();
    if mode == FaultMode::Once {
        assert!(program.error_count <= 1, "one failure became {} errors", program.error_count);
    }
    let calls = faults.calls();
    let Program { manager, mut buffers, .. } = program;
    let statistics = manager.statistics();
    if call_number == u64::MAX {
        assert!(statistics.recovered_block_count > statistics.purged_block_count);
        assert!(statistics.purged_block_count > 0, "no content is lost: {statistics:#?}");
    }
    let driver_calls = statistics.driver_calls;
    assert_eq!(driver_calls.count(), {
        use DriverCall::{Create, Destroy, MakeNonpurgeable, MakePurgeable, Release};
        let calls = [Create, Destroy, Release, MakePurgeable, MakeNonpurgeable];
        calls.map(|call| faults.calls_of(call)).iter().sum::<u64>()
    });
    let last = buffers.pop();
    drop(buffers);
    drop(manager);
    if let Some((pattern, buffer)) = last {
        pattern.check(&buffer);
    }
    // Nothing is live but what the driver would not take back, and that is known.
    assert_eq!(faults.live_blocks(), faults.refused_blocks());
    if mode == FaultMode::Once {
        // Only the very last chance to give a block back is lost when it fails.
        assert!(faults.live_blocks() <= 1);
    }
    calls
}

fn fail_every_call(mode: FaultMode, create_kind: ErrorKind) {
    let mut call_number = 0;
    let calls_without_failure = run(u64::MAX, mode, create_kind);
    assert!(calls_without_failure > 30, "the script makes only {calls_without_failure} calls");
    while run(call_number, mode, create_kind) > call_number {
        call_number += 1;
    }
    assert!(call_number + 10 >= calls_without_failure, "the sweep ended at call {call_number}");
}

#[test]
fn one_call_fails_with_out_of_memory() {
    fail_every_call(FaultMode::Once, ErrorKind::OutOfMemory);
}

#[test]
fn one_call_fails_with_a_driver_error() {
    fail_every_call(FaultMode::Once, ErrorKind::Driver);
}

#[test]
fn all_calls_fail_with_out_of_memory() {
    fail_every_call(FaultMode::FromThenOn, ErrorKind::OutOfMemory);
}

#[test]
fn all_calls_fail_with_a_driver_error() {
    fail_every_call(FaultMode::FromThenOn, ErrorKind::Driver);
}

#[test]
fn after_a_failure_the_driver_is_good_again() {
    let device = device();
    let faults = device.faults();
    let manager =
        MemoryManager::with_config(device, config(Some(64 << 20), &Clock::manual())).expect("a budget");
    faults.fail(0, FaultMode::FromThenOn, ErrorKind::Driver);
    assert_eq!(manager.allocate(1000).expect_err("the driver is down").kind(), ErrorKind::Driver);
    faults.stop();
    let buffer = manager.allocate(10 << 20).expect("the driver is up");
    drop(buffer);
    faults.fail(0, FaultMode::FromThenOn, ErrorKind::Driver);
    assert_eq!(manager.trim(), 0);
    let buffer = manager.allocate(10 << 20).expect("the block that was refused serves again");
    faults.stop();
    drop(buffer);
    assert!(manager.trim() >= 10 << 20);
    assert_eq!((faults.live_blocks(), faults.refused_blocks()), (0, 0));
}
