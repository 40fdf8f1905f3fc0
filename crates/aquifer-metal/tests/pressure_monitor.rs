//! A manager's monitor on Metal: what it hears from the system and from the device, and what it does about it. The system is in
//! software, since no program can make Apple's tell of pressure. Its notices go to the whole process, so tests that raise some take
//! turns.
#![cfg(not(target_vendor = "apple"))]

mod common;

use PressureLevel::{Critical, Emergency, Moderate, Normal, Warning};
use aquifer_core::{
    Buffer, Clock, Config, GivenBack, MemoryManager, PressureDetail, PressureEvent, PressureLevel,
    PressureListener, PressureMonitor, PressureSource,
};
use aquifer_metal::{Metal, SystemPressureSource};
use aquifer_testkit::{Pattern, config_with_budget};
use common::{assert_nothing_is_left, blocks::LONG};
use parking_lot::{Mutex, MutexGuard};
use software_metal::{DeviceDesc, SoftwareDevice};
use software_objc::dispatch::{MemoryPressure, raise_memory_pressure, wait_until_idle};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// What tests leave idle, and how much that is.
const IDLE_SIZES: [u64; 3] = [300 * MIB, 40 * MIB, 64 * MIB];
const IDLE_BYTES: u64 = 404 * MIB;

/// Held by a test that listens to the system's notices.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock()
}

fn system() -> Vec<Box<dyn PressureSource>> {
    vec![Box::new(SystemPressureSource::new())]
}

/// A manager whose monitor has no thread, and whose time stands still.
struct Watched {
    device: SoftwareDevice,
    clock: Clock,
    manager: MemoryManager<Metal>,
    monitor: PressureMonitor<Metal>,
    events: Arc<Mutex<Vec<PressureEvent>>>,
    _listener: PressureListener,
}

impl Watched {
    fn new(desc: DeviceDesc, mut config: Config, sources: Vec<Box<dyn PressureSource>>) -> Self {
        let device = common::device(desc);
        let clock = Clock::manual();
        config.clock = clock.clone();
        config.pressure.thread = false;
        let manager = MemoryManager::with_config(common::metal_on(&device), config).expect("a budget");
        let monitor = PressureMonitor::new(&manager, sources).expect("it is the first");
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&events);
        let listener = monitor.on_event(move |event| told.lock().push(event.clone()));
        let watched = Self { device, clock, manager, monitor, events, _listener: listener };
        watched.monitor.poll();
        watched
    }

    /// Lets as much time pass as lies between two readings of a source, has the monitor look, and answers what it told.
    fn poll(&self) -> Vec<PressureEvent> {
        self.clock.advance(Duration::from_millis(20));
        self.monitor.poll();
        std::mem::take(&mut *self.events.lock())
    }

    fn raise(&self, level: MemoryPressure) -> Vec<PressureEvent> {
        raise_memory_pressure(level);
        wait_until_idle();
        self.poll()
    }

    /// The same when the device's budget is due to be read.
    fn poll_device(&self) -> Vec<PressureEvent> {
        self.clock.advance(Duration::from_secs(1));
        self.poll()
    }

    /// A buffer that is in use, and `IDLE_BYTES` in blocks that hold nothing: of many requests, and of one each.
    fn leave_idle(&self) -> Buffer<Metal> {
        let mut live = self.manager.allocate(20 * MIB).expect("there is room");
        Pattern::new(7).write(&mut live);
        drop(IDLE_SIZES.map(|bytes| self.manager.allocate(bytes).expect("there is room")));
        self.manager.release_idle();
        live
    }
}

/// The level that began, who told, and what was given back.
#[track_caller]
fn rise(events: &[PressureEvent]) -> (PressureLevel, &str, GivenBack) {
    match events {
        [PressureEvent { source, detail: PressureDetail::Rose { to, given_back, .. }, .. }] => {
            (*to, source, *given_back)
        }
        _ => panic!("not one rise: {events:#?}"),
    }
}

/// The levels between which it fell, and whether memory is no longer short.
#[track_caller]
fn fall(events: &[PressureEvent]) -> (PressureLevel, PressureLevel, bool) {
    match events {
        [PressureEvent { detail: PressureDetail::Fell { from, to, resolved_after }, .. }] => {
            (*from, *to, resolved_after.is_some())
        }
        _ => panic!("not one fall: {events:#?}"),
    }
}

/// What the process has in pages that were written. The device in software writes the ends of fresh memory only.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is always there");
    let kib = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
    kib << 10
}

/// As Apple asks: what is kept is not walked through and dropped, but left to the system, which takes it when it wants.
#[test]
fn at_a_warning_idle_heaps_become_purgeable_and_none_is_touched() {
    let _turn = turn();
    {
        let watched = Watched::new(DeviceDesc::default(), config_with_budget(1024 * MIB), system());
        let live = watched.leave_idle();
        let (before, made) = (watched.manager.statistics(), watched.device.made_objects());
        let (allocated_bytes, written_bytes) = (watched.device.allocated_bytes(), resident_bytes());
        assert_eq!((watched.monitor.level(), before.purgeable_bytes), (Normal, 0));

        let events = watched.raise(MemoryPressure::Warn);
        let (level, source, given_back) = rise(&events);
        let after = watched.manager.statistics();
        assert_eq!((level, watched.monitor.level()), (Warning, Warning));
        assert_eq!(source, SystemPressureSource::new().name());
        assert!(given_back.purgeable_bytes >= IDLE_BYTES, "{given_back:?}");
        assert_eq!(after.purgeable_bytes, given_back.purgeable_bytes);
        assert_eq!(watched.manager.mark_idle_purgeable(), 0, "all that was idle is purgeable");
        // No heap or buffer went, and none was made.
        assert_eq!(after.driver_calls.destroy, before.driver_calls.destroy);
        assert_eq!((given_back.released_bytes(), given_back.bytes()), (0, 0));
        assert_eq!(watched.device.allocated_bytes(), allocated_bytes);
        // The device was given no work, and the host wrote nothing; what other tests write meanwhile is far less.
        assert_eq!(watched.device.made_objects(), made);
        assert!(resident_bytes() < written_bytes + IDLE_BYTES / 2);

        // The system takes it, and nothing that is live.
        watched.device.faults().purge_volatile();
        Pattern::new(7).check(&live);
        let served = watched.manager.allocate(IDLE_SIZES[0]).expect("a purged block serves again");
        let statistics = watched.manager.statistics();
        assert_eq!(statistics.driver_calls.create, before.driver_calls.create);
        assert_eq!(statistics.purged_block_count, 1);
        drop((live, served));
    }
    assert_nothing_is_left();
}

#[test]
fn what_is_kept_purgeable_goes_when_its_time_is_over() {
    let _turn = turn();
    {
        let watched = Watched::new(DeviceDesc::default(), config_with_budget(1024 * MIB), system());
        let live = watched.leave_idle();
        let (_, _, given_back) = rise(&watched.raise(MemoryPressure::Warn));
        let reserved_bytes = watched.manager.statistics().reserved.current;
        watched.poll_device();
        let statistics = watched.manager.statistics();
        assert_eq!(statistics.reserved.current, reserved_bytes - given_back.purgeable_bytes);
        assert_eq!((statistics.purgeable_bytes, watched.monitor.level()), (0, Warning));
        drop(live);
    }
    assert_nothing_is_left();
}

#[test]
fn at_the_critical_level_they_are_released_and_the_device_counts_it() {
    let _turn = turn();
    for is_warned in [false, true] {
        {
            let watched = Watched::new(DeviceDesc::default(), config_with_budget(1024 * MIB), system());
            let live = watched.leave_idle();
            let (allocated_bytes, written_bytes) = (watched.device.allocated_bytes(), resident_bytes());
            if is_warned {
                rise(&watched.raise(MemoryPressure::Warn));
            }
            let (level, _, given_back) = rise(&watched.raise(MemoryPressure::Critical));
            assert_eq!((level, given_back.purgeable_bytes), (Critical, 0));
            let released_bytes = allocated_bytes - watched.device.allocated_bytes();
            assert!(released_bytes >= IDLE_BYTES);
            // By `currentAllocatedSize`, and by the manager.
            assert_eq!(given_back.process_before_bytes, Some(allocated_bytes));
            assert_eq!((given_back.bytes(), given_back.released_bytes()), (released_bytes, released_bytes));
            assert_eq!(watched.manager.statistics().pressure.given_back_bytes, released_bytes);
            assert_eq!(watched.manager.trim(), 0, "nothing is left that nobody uses");
            assert!(resident_bytes() < written_bytes + IDLE_BYTES / 2);
            Pattern::new(7).check(&live);

            // It lasts until the system says that it is over, and for as long as levels last.
            assert_eq!(watched.poll_device(), []);
            assert_eq!(watched.raise(MemoryPressure::Normal), []);
            assert_eq!(watched.monitor.level(), Critical);
            watched.clock.advance(Duration::from_secs(2));
            assert_eq!(fall(&watched.poll()), (Critical, Normal, true));
            drop(live);
        }
        assert_nothing_is_left();
    }
}

#[test]
fn each_monitor_hears_the_system() {
    let _turn = turn();
    {
        let make = || Watched::new(DeviceDesc::default(), config_with_budget(64 * MIB), system());
        let (first, second) = (make(), make());
        assert_eq!(rise(&first.raise(MemoryPressure::Critical)).0, Critical);
        assert_eq!(rise(&second.poll()).0, Critical);
        drop(first);
        assert_eq!(second.raise(MemoryPressure::Normal), []);
        second.clock.advance(Duration::from_secs(2));
        assert_eq!(fall(&second.poll()), (Critical, Normal, true));
    }
    assert_nothing_is_left();
}

/// Of the working set, which Metal recommends, all that the process has allocated is used, by whichever of its parts.
#[test]
fn a_full_working_set_is_pressure() {
    {
        let desc = DeviceDesc { working_set_bytes: 2000 * MIB, ..DeviceDesc::default() };
        let watched = Watched::new(desc, config_with_budget(2000 * MIB), Vec::new());
        let live = watched.manager.allocate(300 * MIB).expect("there is room");
        drop(watched.manager.allocate(40 * MIB).expect("there is room"));
        watched.manager.release_idle();
        let live_bytes = watched.manager.statistics().allocated.current;
        let idle_bytes = watched.device.allocated_bytes() - live_bytes;
        assert!((40 * MIB..80 * MIB).contains(&idle_bytes), "{idle_bytes}");

        // What the manager holds for nobody is its reserve, not pressure: 84.5 % are used without it.
        let faults = watched.device.faults();
        faults.set_foreign_bytes(1690 * MIB - live_bytes);
        assert_eq!(watched.poll_device(), []);
        // Others have allocated more.
        faults.set_foreign_bytes(1910 * MIB - live_bytes);
        let events = watched.poll_device();
        let (level, source, given_back) = rise(&events);
        assert_eq!((level, source), (Critical, "device heap 0"));
        assert_eq!(given_back.asked_bytes, Some(1910 * MIB - (2000 * MIB) * 82 / 100));
        assert_eq!((given_back.bytes(), given_back.released_bytes()), (idle_bytes, idle_bytes));
        assert_eq!(watched.device.allocated_bytes(), live_bytes);

        // They give it back; then the system lets this process have less.
        faults.set_foreign_bytes(0);
        assert_eq!(watched.poll_device(), []);
        assert_eq!(fall(&[watched.poll_device(), watched.poll_device()].concat()).1, Normal);
        faults.set_working_set(watched.device.allocated_bytes());
        let events = watched.poll_device();
        assert_eq!((rise(&events).0, rise(&events).1), (Emergency, "device heap 0"));
        drop(live);
    }
    assert_nothing_is_left();
}

#[test]
fn live_bytes_near_to_the_budget_are_pressure() {
    {
        let watched = Watched::new(DeviceDesc::default(), config_with_budget(1000 * MIB), Vec::new());
        let mut live = Vec::new();
        for (bytes, expected) in [(860, Moderate), (50, Warning), (50, Critical), (25, Emergency)] {
            live.push(watched.manager.allocate(bytes * MIB).expect("it is within the budget"));
            let events = watched.poll_device();
            assert_eq!((rise(&events).0, rise(&events).1), (expected, "ledger heap 0"));
        }
        drop(live);
        assert_eq!(watched.poll_device(), []);
        watched.clock.advance(Duration::from_secs(2));
        assert_eq!(fall(&watched.poll()), (Emergency, Normal, true));
    }
    assert_nothing_is_left();
}

/// All of it, by the monitor's own thread: the system tells, memory comes back, listeners are told, and it ends.
#[test]
fn a_monitor_responds_to_the_system_by_itself() {
    let _turn = turn();
    {
        let device = common::device(DeviceDesc::default());
        let mut config = config_with_budget(1024 * MIB);
        config.pressure.fall_after = Duration::from_millis(50);
        // Without pressure nothing goes, however slow this machine is.
        config.pressure.responses[0].idle_decay = None;
        let manager = MemoryManager::with_config(common::metal_on(&device), config).expect("a budget");
        let live = manager.allocate(20 * MIB).expect("there is room");
        drop(manager.allocate(IDLE_BYTES).expect("there is room"));
        let allocated_bytes = device.allocated_bytes();

        let monitor = PressureMonitor::new(&manager, system()).expect("it is the first");
        let (sender, told) = channel();
        let listener = monitor.on_event(move |event| {
            // The test may be over.
            let _ = sender.send(event.clone());
        });
        // What is done again while a level lasts depends on the time that it takes.
        let next = || loop {
            let event = told.recv_timeout(LONG).expect("the monitor tells");
            if !matches!(event.detail, PressureDetail::Lasted { .. }) {
                return [event];
            }
        };
        raise_memory_pressure(MemoryPressure::Warn);
        let (level, _, given_back) = rise(&next());
        assert_eq!(level, Warning);
        assert!(given_back.purgeable_bytes >= IDLE_BYTES, "{given_back:?}");
        raise_memory_pressure(MemoryPressure::Critical);
        assert_eq!(rise(&next()).0, Critical);
        assert!(device.allocated_bytes() <= allocated_bytes - IDLE_BYTES);
        assert_eq!(monitor.level(), Critical);
        raise_memory_pressure(MemoryPressure::Normal);
        assert_eq!(fall(&next()), (Critical, Normal, true));
        assert_eq!(monitor.level(), Normal);

        let statistics = manager.statistics().pressure;
        assert_eq!((statistics.rise_count, statistics.fall_count), (2, 1));
        drop((listener, monitor, live));
    }
    assert_nothing_is_left();
}
