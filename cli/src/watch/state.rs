//! What is shown, at one moment: numbers and words alone, so that what draws them is a function of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aquifer::{
    BudgetGroup, PressureDetail, PressureEvent, PressureLevel, PressureReading, PressureStatistics,
    SourceState, SourceStatistics,
};

use crate::output::{bytes_in_words, percent_in_words};

/// The manager's own books, which are a source too. Nothing is allocated, so they say nothing.
const OWN_BOOKS: &str = "ledger ";

/// Everything there is to show.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    /// Since the start.
    pub(crate) at: Duration,
    pub(crate) level: PressureLevel,
    pub(crate) level_for: Duration,
    /// For how long it was at each level, lowest first.
    pub(crate) time_at: [Duration; 5],
    pub(crate) sources: Vec<Source>,
    pub(crate) groups: Vec<Group>,
    /// Oldest first.
    pub(crate) history: Vec<Past>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) state: SourceState,
    pub(crate) level: PressureLevel,
    pub(crate) reading: Option<PressureReading>,
}

/// A budget group.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group {
    pub(crate) path: PathBuf,
    /// Or why it cannot be looked at.
    pub(crate) seen: Result<Seen, String>,
}

/// What a group's members have.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) budget_bytes: u64,
    pub(crate) leased_bytes: u64,
    pub(crate) members: Vec<Member>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Member {
    pub(crate) pid: u32,
    pub(crate) leased_bytes: u64,
    pub(crate) wanted_bytes: u64,
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Past {
    pub(crate) at: Duration,
    /// The level after it, if it is about a level.
    pub(crate) level: Option<PressureLevel>,
    pub(crate) source: String,
    pub(crate) what: String,
}

impl State {
    pub(crate) fn new(
        at: Duration,
        level_since: Duration,
        statistics: &PressureStatistics,
        absent: &[Source],
        groups: &[PathBuf],
    ) -> Self {
        let present = statistics.sources.iter().filter(|source| !source.name.starts_with(OWN_BOOKS));
        Self {
            at,
            level: statistics.level,
            level_for: at.saturating_sub(level_since),
            time_at: statistics.time_at,
            sources: present.map(Source::from).chain(absent.iter().cloned()).collect(),
            groups: groups.iter().map(|path| Group::look(path)).collect(),
            history: statistics.history.iter().map(Past::from).collect(),
        }
    }
}

impl Source {
    pub(crate) fn absent(name: &str, reason: &str) -> Self {
        Self {
            name: printable(name),
            state: SourceState::Absent(printable(reason)),
            level: PressureLevel::Normal,
            reading: None,
        }
    }

    /// Why it does not work, if it does not.
    pub(crate) fn reason(&self) -> Option<&str> {
        match &self.state {
            SourceState::Failed(reason) | SourceState::Absent(reason) => Some(reason),
            _ => None,
        }
    }

    /// How much of how much is used, if it says so.
    pub(crate) fn usage(&self) -> Option<(u64, u64)> {
        usage(self.reading?)
    }

    /// How its news come.
    pub(crate) fn how_in_words(&self) -> String {
        match &self.state {
            SourceState::Listening => "listening".into(),
            SourceState::Polled(interval) => format!("every {} s", interval.as_secs_f64()),
            SourceState::Failed(_) => "failed".into(),
            SourceState::Absent(_) => "absent".into(),
            _ => String::new(),
        }
    }
}

impl From<&SourceStatistics> for Source {
    fn from(source: &SourceStatistics) -> Self {
        let state = match &source.state {
            SourceState::Failed(reason) => SourceState::Failed(printable(reason)),
            SourceState::Absent(reason) => SourceState::Absent(printable(reason)),
            state => state.clone(),
        };
        Self { name: printable(&source.name), state, level: source.level, reading: source.reading }
    }
}

impl Group {
    fn look(path: &Path) -> Self {
        let seen = BudgetGroup::look(path).map_err(|error| printable(error.message()));
        let seen = seen.map(|status| Seen {
            budget_bytes: status.budget_bytes,
            leased_bytes: status.leased_bytes(),
            members: status
                .members
                .iter()
                .map(|member| Member {
                    pid: member.pid,
                    leased_bytes: member.leased_bytes,
                    wanted_bytes: member.wanted_bytes,
                })
                .collect(),
        });
        Self { path: path.to_owned(), seen }
    }
}

impl From<&PressureEvent> for Past {
    fn from(event: &PressureEvent) -> Self {
        let what = match &event.detail {
            PressureDetail::Rose { from, to, reading, .. } => {
                format!("{from} -> {to}{}", reading_in_words(*reading))
            }
            PressureDetail::Lasted { level, reading, .. } => {
                format!("still {level}{}", reading_in_words(*reading))
            }
            PressureDetail::Fell { from, to, resolved_after: None } => format!("{from} -> {to}"),
            PressureDetail::Fell { from, to, resolved_after: Some(after) } => {
                format!("{from} -> {to} after {}", time_in_words(*after))
            }
            PressureDetail::SourceFailed { is_absent: true, message } => format!("is not there: {message}"),
            PressureDetail::SourceFailed { message, .. } => format!("failed: {message}"),
            PressureDetail::SourceWorks => "works again".into(),
            _ => event.to_string(),
        };
        Self { at: event.at, level: event.level(), source: printable(&event.source), what: printable(&what) }
    }
}

/// How much of how much is used, if a reading says so.
pub(crate) fn usage(reading: PressureReading) -> Option<(u64, u64)> {
    match reading {
        PressureReading::Usage { used_bytes, limit_bytes } => Some((used_bytes, limit_bytes)),
        PressureReading::Level(_) => None,
    }
}

/// The share of a limit that is used; of no limit at all everything is.
pub(crate) fn share(used_bytes: u64, limit_bytes: u64) -> f64 {
    if limit_bytes == 0 { 1.0 } else { used_bytes as f64 / limit_bytes as f64 }
}

fn reading_in_words(reading: PressureReading) -> String {
    let Some((used, limit)) = usage(reading) else { return String::new() };
    format!(": {} of {}", percent_in_words(share(used, limit)), bytes_in_words(limit))
}

/// Seconds as people read them: `12.3 s`, `4 min 10 s`, `2 h 5 min`.
pub(crate) fn time_in_words(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1} s", time.as_millis() as f64 / 1000.0),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Text in one line, in which nothing can move a cursor.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_shares_and_texts_are_readable() {
        let times = [(0, "0.0 s"), (59_940, "59.9 s"), (60_000, "1 min 0 s"), (7_500_000, "2 h 5 min")];
        for (ms, expected) in times {
            assert_eq!(time_in_words(Duration::from_millis(ms)), expected);
        }
        assert_eq!((share(1, 4), share(0, 0)), (0.25, 1.0));
        assert_eq!(printable("one\ntwo\u{1b}[2J"), "one two [2J");
        let reading = PressureReading::Usage { used_bytes: 960, limit_bytes: 1000 };
        assert_eq!(reading_in_words(reading), ": 96.00 % of 1000 B");
        assert_eq!(reading_in_words(PressureReading::Level(PressureLevel::Warning)), "");
    }
}
