//! A monitor whose thread gets signals all the time.

use crate::child::{Child, do_part, say};
use crate::kernel::{cpu_time, monitor_threads, thread_status};
use crate::scripted::{Scripted, until};
use aquifer::{Config, HostMemoryManager, PressureLevel, PressureMonitor};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const FLOOD: Duration = Duration::from_secs(1);
/// More often than any system's news; so seldom that most of the time is left.
const BETWEEN_SIGNALS: Duration = Duration::from_micros(100);
/// For how long it is watched after the flood.
const AFTER: Duration = Duration::from_millis(300);

static HANDLED: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_signal: i32) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

/// Calls that wait are interrupted by such signals, and not begun anew by the kernel.
fn handle_signals() {
    let action = SigAction::new(SigHandler::Handler(count), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing but add to an atomic number, which is safe at any moment.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
}

fn send_signal(thread: i32) {
    // SAFETY: the call has numbers only. A thread that has gone gets nothing, since its number is not used anew so soon.
    unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, libc::SIGUSR1) };
}

/// Sends signals to the thread until `work` is over.
fn under_signals<R>(thread: i32, work: impl FnOnce() -> R) -> R {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                send_signal(thread);
                thread::sleep(BETWEEN_SIGNALS);
            }
        });
        // Also if it panics the other thread is to end.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        is_over.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Only news wake such a monitor, no timer.
fn news_only() -> Config {
    let mut config = Config::default();
    let never = Duration::from_secs(3600);
    (config.pressure.tick, config.pressure.device_interval) = (never, never);
    config
}

fn live_through_signals(_part: &str) {
    handle_signals();
    let manager = HostMemoryManager::with_config(aquifer::Host::new().unwrap(), news_only()).unwrap();
    let (source, hand) = Scripted::with_hand();
    let monitor = PressureMonitor::new(&manager, vec![source]).unwrap();
    let mut events = monitor.events();
    let thread = hand.sleeping_reader();

    let (cpu_before, start) = (cpu_time(thread), Instant::now());
    let (mut news, mut slowest) = (0, Duration::ZERO);
    under_signals(thread, || {
        while start.elapsed() < FLOOD {
            // Each level for a fifth of the time.
            let fifth = (5.0 * start.elapsed().div_duration_f64(FLOOD)) as usize;
            slowest = slowest.max(hand.tell(PressureLevel::ALL[fifth.min(4)]));
            news += 1;
        }
    });
    slowest = slowest.max(hand.tell(PressureLevel::Emergency));
    let flood_cpu = cpu_time(thread) - cpu_before;
    let handled = HANDLED.load(Ordering::Relaxed);
    assert!(handled > 10, "{handled} signals");
    say(format!("{handled} signals, {news} news, read within {slowest:.1?}; processor time {flood_cpu:?}"));
    assert!(flood_cpu < start.elapsed() / 2, "{flood_cpu:?} for {handled} signals");
    let mut levels = Vec::new();
    while levels.last() != Some(&PressureLevel::Emergency) {
        levels.extend(events.next_within(crate::groups::LONG).expect("every rise is told").level());
    }
    assert!(levels.is_sorted(), "{levels:?}");

    let switches = || thread_status(thread, "voluntary_ctxt_switches");
    let (cpu_before, switches_before) = (cpu_time(thread), switches());
    thread::sleep(AFTER);
    let (cpu, switches) = (cpu_time(thread) - cpu_before, switches() - switches_before);
    assert!(cpu < AFTER / 3 && switches < 20, "{cpu:?}, {switches} switches while nothing happens");

    let (took, gone) = under_signals(thread, || {
        let start = Instant::now();
        drop(monitor);
        let took = start.elapsed();
        until("the thread ends", || monitor_threads().is_empty());
        (took, start.elapsed())
    });
    say(format!("dropped under signals in {took:.1?}; its thread has ended after {gone:.1?}"));
    assert!(took < Duration::from_secs(1) && gone < Duration::from_secs(5), "{took:?}, {gone:?}");
    assert!(!manager.statistics().pressure.is_monitored);
}

#[test]
fn neither_lose_news_nor_keep_it_busy() {
    do_part(live_through_signals);
    let child = Child::start("signals::neither_lose_news_nor_keep_it_busy", "it", &[]).unwrap();
    assert!(child.wait().success());
}
