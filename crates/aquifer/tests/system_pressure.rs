//! The sources that this system has for a monitor.

use aquifer::pressure::{PressureOptions, system_sources};
use aquifer::system_pressure_sources;

#[test]
fn sources_that_work_come_first_and_those_that_do_not_say_why() {
    let found = system_sources(&PressureOptions::default());
    assert!(found.absent.iter().all(|absent| !absent.reason.message().is_empty()));
    let absent = found.absent.iter().map(|absent| absent.name.clone());
    let names = found.sources.iter().map(|source| source.name()).chain(absent).collect::<Vec<_>>();
    assert!(names.iter().any(|name| name.starts_with("machine memory")), "{names:?}");
    let all = system_pressure_sources();
    assert_eq!(all.iter().map(|source| source.name()).collect::<Vec<_>>(), names);
}

#[cfg(any(target_vendor = "apple", feature = "software-metal"))]
mod metal {
    use aquifer::{
        Clock, Config, DefaultDevice as _, Metal, MetalMemoryManager, MetalMemoryPressureMonitor,
        PressureSource as _, SourceState, SystemPressureSource, system_pressure_sources,
    };

    // The device in software comes with the program that links it.
    #[cfg(not(target_vendor = "apple"))]
    use software_metal as _;

    /// Whatever else there is here, the system's own judgement comes first, and a monitor listens to it.
    #[test]
    fn the_systems_notices_are_among_them() {
        let name = SystemPressureSource::new().name();
        let sources = system_pressure_sources();
        assert_eq!(sources[0].name(), name);

        let clock = Clock::manual();
        let mut config = Config::default();
        config.budget_bytes = Some(64 << 20);
        config.clock = clock.clone();
        config.pressure.thread = false;
        let metal = Metal::default_device().expect("Metal is there");
        let manager = MetalMemoryManager::with_config(metal, config).expect("a budget");
        let monitor = MetalMemoryPressureMonitor::new(&manager, sources).expect("it is the first");
        let listening = || {
            let sources = manager.statistics().pressure.sources;
            let source = sources.into_iter().find(|source| *source.name == *name).expect("it is watched");
            assert_eq!(source.state, SourceState::Listening);
            source
        };
        monitor.poll();
        assert!(listening().reading.is_some());
        #[cfg(not(target_vendor = "apple"))]
        {
            use aquifer::PressureLevel;
            use software_objc::dispatch::{MemoryPressure, raise_memory_pressure, wait_until_idle};
            assert_eq!(listening().level, PressureLevel::Normal);
            raise_memory_pressure(MemoryPressure::Warn);
            wait_until_idle();
            clock.advance(std::time::Duration::from_secs(1));
            monitor.poll();
            assert_eq!(listening().level, PressureLevel::Warning);
            assert!(monitor.level() >= PressureLevel::Warning);
        }
        drop(monitor);
    }
}

/// A group whose limit is lifted for a while is watched again when it has one.
#[test]
#[cfg(target_os = "linux")]
fn a_limit_that_is_lifted_for_a_while_is_watched_again() {
    use aquifer::pressure::CgroupV2Source;
    use aquifer::{Clock, Config, Host, HostMemoryManager, PressureLevel, PressureMonitor};
    use std::time::Duration;

    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 900 kB\n");
    write("proc/self/cgroup", "0::/app\n");
    write("sys/fs/cgroup/cgroup.controllers", "memory\n");
    write("sys/fs/cgroup/app/memory.max", "100000\n");
    write("sys/fs/cgroup/app/memory.current", "1000\n");
    let options = PressureOptions { root: root.path().into(), ..PressureOptions::default() };
    let source = CgroupV2Source::new(&options).unwrap();

    let clock = Clock::manual();
    let mut config = Config::default();
    config.budget_bytes = Some(64 << 20);
    config.clock = clock.clone();
    config.pressure.thread = false;
    let manager = HostMemoryManager::with_config(Host::new().unwrap(), config).unwrap();
    let monitor = PressureMonitor::new(&manager, vec![Box::new(source)]).unwrap();
    let after_a_while = || {
        clock.advance(Duration::from_secs(10));
        monitor.poll();
        manager.statistics().pressure.sources.pop().expect("the group's is the last").level
    };
    assert_eq!(after_a_while(), PressureLevel::Normal);
    write("sys/fs/cgroup/app/memory.max", "max\n");
    assert_eq!((after_a_while(), after_a_while()), (PressureLevel::Normal, PressureLevel::Normal));
    write("sys/fs/cgroup/app/memory.max", "100000\n");
    write("sys/fs/cgroup/app/memory.current", "96000\n");
    assert_eq!(after_a_while(), PressureLevel::Critical);
}
