//! A process forked while a monitor watches has the monitor's memory, but not its thread.

use crate::child::{Child, do_part, say};
use crate::groups::LONG;
use crate::kernel::thread_status;
use crate::scripted::{Scripted, until};
use aquifer::pressure::{PsiOptions, PsiRule, PsiSource, PsiStall};
use aquifer::{
    Config, ErrorKind, Host, HostMemoryManager, PressureDetail, PressureLevel, PressureMonitor,
    PressureSource, SourceState,
};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Whoever waits for a thread that is not there waits longer.
const DROP_MAX: Duration = Duration::from_millis(90);

/// Forks; the forked process does `work` with what is given, and ends well if that does not panic.
fn in_fork<T>(kept: T, work: impl FnOnce(T)) -> T {
    // SAFETY: this process has one other thread, the monitor's, which sleeps in the kernel without a lock, as the caller has made
    // sure.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let outcome = catch_unwind(AssertUnwindSafe(|| work(kept)));
            std::process::exit(i32::from(outcome.is_err()));
        }
        ForkResult::Parent { child } => {
            let start = Instant::now();
            until("the forked process ends", || {
                let status = waitpid(child, Some(WaitPidFlag::WNOHANG)).unwrap();
                if status != WaitStatus::StillAlive {
                    assert_eq!(status, WaitStatus::Exited(child, 0), "the forked process fails");
                    return true;
                }
                if start.elapsed() > LONG / 2 {
                    let _ = kill(child, Signal::SIGKILL);
                }
                false
            });
            kept
        }
    }
}

/// Nothing wakes such a monitor but news.
fn news_only() -> Config {
    let mut config = Config::default();
    config.pressure.device_interval = Duration::from_secs(3600);
    config.pressure.tick = Duration::from_secs(3600);
    config.pressure.debounce = Duration::ZERO;
    config.pressure.responses[0].idle_decay = None;
    config
}

/// A trigger of the kernel's that both processes have, and that never fires.
fn silent_trigger() -> Box<dyn PressureSource> {
    let rule = PsiRule { stall: PsiStall::Some, percent: 100, level: PressureLevel::Moderate };
    let options = PsiOptions { rules: vec![rule], ..PsiOptions::default() };
    Box::new(PsiSource::new(PsiSource::SYSTEM_FILE, options).unwrap())
}

fn states(manager: &HostMemoryManager) -> Vec<SourceState> {
    manager.statistics().pressure.sources.into_iter().map(|source| source.state).collect()
}

fn quickly(what: &str, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    assert!(start.elapsed() < DROP_MAX, "{what} took {:?}", start.elapsed());
}

fn fork_twice(_part: &str) {
    let manager = HostMemoryManager::with_config(Host::new().unwrap(), news_only()).unwrap();
    let (source, hand) = Scripted::with_hand();
    let monitor = PressureMonitor::new(&manager, vec![source, silent_trigger()]).unwrap();
    let mut events = monitor.events();
    let buffer = manager.allocate(1 << 20).unwrap();
    drop(manager.allocate(9 << 20).unwrap());
    let states_before = states(&manager);
    // Not listening where the kernel refuses triggers.
    say(format!("a trigger in two processes: {:?}", states_before.last()));
    // It is told of what begins to be reserved.
    hand.tell(PressureLevel::Normal);
    let thread = hand.sleeping_reader();
    let wakes = || thread_status(thread, "voluntary_ctxt_switches");
    let wakes_before = wakes();

    // All of it, so that the forked process drops the last handle.
    let mut kept = (manager, monitor, buffer);
    for is_manager_first in [false, true] {
        kept = in_fork(kept, |(manager, monitor, buffer)| {
            monitor.poll();
            assert_eq!(monitor.level(), PressureLevel::Normal);
            assert!(monitor.events().next_within(Duration::ZERO).is_none());
            drop(monitor.on_event(|_| unreachable!()));
            let error = PressureMonitor::new(&manager, Vec::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Forked, "{error}");
            assert_eq!(manager.trim(), 0);
            if is_manager_first {
                quickly("dropping the manager", || drop((buffer, manager)));
                quickly("dropping the monitor", || drop(monitor));
            } else {
                quickly("dropping the monitor", || drop(monitor));
                quickly("dropping the manager", || drop((buffer, manager)));
            }
        });
        assert_eq!(wakes(), wakes_before, "the forked process has woken this one's monitor");
    }

    let (manager, monitor, mut buffer) = kept;
    hand.tell(PressureLevel::Critical);
    let event = events.next_within(LONG).expect("this process is still told");
    assert!(matches!(event.detail, PressureDetail::Rose { to: PressureLevel::Critical, .. }), "{event}");
    assert_eq!(states(&manager), states_before);
    buffer.fill(1).unwrap();
    drop(monitor);
    until("the thread ends", || crate::kernel::monitor_threads().is_empty());
}

#[test]
fn a_forked_process_leaves_the_monitor_alone() {
    do_part(fork_twice);
    let child = Child::start("fork::a_forked_process_leaves_the_monitor_alone", "it", &[]).unwrap();
    assert!(child.wait().success());
}
