//! The manager and the monitor that see what is shown.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use aquifer::pressure::{PressureOptions, system_sources};
use aquifer::{
    BudgetGroup, Clock, Config, Host, HostMemoryManager, HostOptions, MemoryManager, PressureDetail,
    PressureEvent, PressureListener, PressureMonitor, SourceState, SourceStatistics,
};

use super::arguments::WatchArguments;
use super::state::{Source, State};
use crate::error::CliError;

/// How often at least is read what nobody tells, in whatever interval is shown.
const READ_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// How long the first readings are waited for.
const FIRST_READINGS_WITHIN: Duration = Duration::from_millis(250);

/// What ends a wait.
#[derive(Debug)]
pub(super) enum Signal {
    Event(PressureEvent),
    Key(ratatui::crossterm::event::KeyEvent),
    /// The terminal has another size.
    Resized,
}

/// A monitor over everything that this machine tells.
pub(super) struct Watch {
    pub(super) started: Instant,
    pub(super) started_at: SystemTime,
    groups: Vec<PathBuf>,
    absent: Vec<Source>,
    level_since: Duration,
    /// Events from before anybody listened.
    early: VecDeque<PressureEvent>,
    next_number: u64,
    signals: Receiver<Signal>,
    sender: Sender<Signal>,
    _listener: PressureListener,
    // It goes before its manager.
    _monitor: PressureMonitor<Host>,
    manager: HostMemoryManager,
}

impl Watch {
    /// Begins to watch, and waits a moment until all sources have been read.
    pub(super) fn start(arguments: &WatchArguments) -> Result<Self, CliError> {
        // A folder without a group is likely a slip of the pen. Later it is shown.
        for path in &arguments.groups {
            BudgetGroup::look(path)?;
        }
        let interval = arguments.interval.min(READ_INTERVAL_MAX);
        let (started, started_at) = (Instant::now(), SystemTime::now());
        // The environment's settings are for programs that allocate: one would join a budget group.
        let mut config = Config::default();
        config.clock = Clock::from_fn(move || started.elapsed());
        config.pressure.device_interval = interval;
        let host =
            Host::with_options(HostOptions { root: arguments.root.clone(), ..HostOptions::default() })?;
        let manager = MemoryManager::with_config(host, config)?;
        let root = arguments.root.clone();
        let found = system_sources(&PressureOptions { root, interval, ..PressureOptions::default() });
        let absent = found.absent.iter().map(|absent| Source::absent(&absent.name, absent.reason.message()));
        let absent = absent.collect();
        let monitor = PressureMonitor::new(&manager, found.sources)?;
        let (sender, signals) = channel();
        let to_main = sender.clone();
        let listener = monitor.on_event(move |event| {
            // When the other end has gone, so will this.
            let _ = to_main.send(Signal::Event(event.clone()));
        });
        let mut watch = Self {
            started,
            started_at,
            groups: arguments.groups.clone(),
            absent,
            level_since: Duration::ZERO,
            early: VecDeque::new(),
            next_number: 0,
            signals,
            sender,
            _listener: listener,
            _monitor: monitor,
            manager,
        };
        watch.await_first_readings();
        Ok(watch)
    }

    fn await_first_readings(&mut self) {
        let is_read = |source: &SourceStatistics| {
            let is_working = matches!(source.state, SourceState::Listening | SourceState::Polled(_));
            !is_working || source.reading_count > 0
        };
        // Nobody tells of readings that change nothing.
        while !self.manager.statistics().pressure.sources.iter().all(is_read)
            && self.started.elapsed() < FIRST_READINGS_WITHIN
        {
            thread::sleep(Duration::from_millis(1));
        }
        self.early = self.manager.statistics().pressure.history.into();
    }

    /// Where others put signals.
    pub(super) fn sender(&self) -> Sender<Signal> {
        self.sender.clone()
    }

    /// The next signal, each event once and in order; `None` if there is none until `deadline`.
    pub(super) fn next_until(&mut self, deadline: Instant) -> Option<Signal> {
        loop {
            let signal = match self.early.pop_front() {
                Some(event) => Signal::Event(event),
                None => {
                    let within = deadline.saturating_duration_since(Instant::now());
                    match self.signals.recv_timeout(within) {
                        Ok(signal) => signal,
                        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
                    }
                }
            };
            match signal {
                Signal::Event(event) if event.number < self.next_number => {}
                Signal::Event(event) => {
                    self.next_number = event.number + 1;
                    if matches!(event.detail, PressureDetail::Rose { .. } | PressureDetail::Fell { .. }) {
                        self.level_since = event.at;
                    }
                    return Some(Signal::Event(event));
                }
                signal => return Some(signal),
            }
        }
    }

    /// What there is to show now.
    pub(super) fn state(&self) -> State {
        let statistics = self.manager.statistics().pressure;
        State::new(self.started.elapsed(), self.level_since, &statistics, &self.absent, &self.groups)
    }
}
