//! The lines of `--json`.

use std::time::Duration;

use aquifer::{PressureDetail, PressureEvent, SourceState};
use serde::Serialize;

use super::state::{Group, Member, Source, State, share, usage};

/// One line.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Line {
    Sources {
        started_unix_s: f64,
        sources: Vec<SourceLine>,
        groups: Vec<GroupLine>,
    },
    Rose {
        #[serde(flatten)]
        head: Head,
        from: &'static str,
        to: &'static str,
        used_bytes: Option<u64>,
        limit_bytes: Option<u64>,
        given_back_bytes: u64,
    },
    Lasted {
        #[serde(flatten)]
        head: Head,
        level: &'static str,
        used_bytes: Option<u64>,
        limit_bytes: Option<u64>,
        given_back_bytes: u64,
    },
    Fell {
        #[serde(flatten)]
        head: Head,
        from: &'static str,
        to: &'static str,
        resolved_after_s: Option<f64>,
    },
    SourceFailed {
        #[serde(flatten)]
        head: Head,
        is_absent: bool,
        reason: String,
    },
    SourceWorks {
        #[serde(flatten)]
        head: Head,
    },
    Status {
        at_s: f64,
        level: &'static str,
        level_for_s: f64,
        time_at_s: Times,
        sources: Vec<SourceLine>,
        groups: Vec<GroupLine>,
    },
}

/// What all events have.
#[derive(Debug, Serialize)]
pub(super) struct Head {
    at_s: f64,
    number: u64,
    source: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Times {
    normal: f64,
    moderate: f64,
    warning: f64,
    critical: f64,
    emergency: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct SourceLine {
    name: String,
    state: &'static str,
    /// `None`: it is not read at an interval.
    interval_s: Option<f64>,
    /// Why it does not work.
    reason: Option<String>,
    level: &'static str,
    used_bytes: Option<u64>,
    limit_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct GroupLine {
    path: String,
    budget_bytes: Option<u64>,
    leased_bytes: Option<u64>,
    members: Vec<MemberLine>,
    /// Why it cannot be looked at.
    error: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct MemberLine {
    pid: u32,
    leased_bytes: u64,
    wanted_bytes: u64,
    share: f64,
}

impl Line {
    pub(super) fn sources(state: &State, started_unix: Duration) -> Self {
        Self::Sources {
            started_unix_s: started_unix.as_secs_f64(),
            sources: state.sources.iter().map(SourceLine::from).collect(),
            groups: state.groups.iter().map(GroupLine::from).collect(),
        }
    }

    pub(super) fn status(state: &State) -> Self {
        let [normal, moderate, warning, critical, emergency] = state.time_at.map(|time| time.as_secs_f64());
        let is_present = |source: &&Source| !matches!(source.state, SourceState::Absent(_));
        Self::Status {
            at_s: state.at.as_secs_f64(),
            level: state.level.as_str(),
            level_for_s: state.level_for.as_secs_f64(),
            time_at_s: Times { normal, moderate, warning, critical, emergency },
            sources: state.sources.iter().filter(is_present).map(SourceLine::from).collect(),
            groups: state.groups.iter().map(GroupLine::from).collect(),
        }
    }

    /// `None` for what a later library may tell of.
    pub(super) fn event(event: &PressureEvent) -> Option<Self> {
        let head =
            Head { at_s: event.at.as_secs_f64(), number: event.number, source: event.source.to_string() };
        Some(match &event.detail {
            PressureDetail::Rose { from, to, reading, given_back } => {
                let (used_bytes, limit_bytes) = usage(*reading).unzip();
                let given_back_bytes = given_back.bytes();
                let (from, to) = (from.as_str(), to.as_str());
                Self::Rose { head, from, to, used_bytes, limit_bytes, given_back_bytes }
            }
            PressureDetail::Lasted { level, reading, given_back } => {
                let (used_bytes, limit_bytes) = usage(*reading).unzip();
                let given_back_bytes = given_back.bytes();
                Self::Lasted { head, level: level.as_str(), used_bytes, limit_bytes, given_back_bytes }
            }
            PressureDetail::Fell { from, to, resolved_after } => {
                let resolved_after_s = resolved_after.map(|after| after.as_secs_f64());
                Self::Fell { head, from: from.as_str(), to: to.as_str(), resolved_after_s }
            }
            PressureDetail::SourceFailed { is_absent, message } => {
                Self::SourceFailed { head, is_absent: *is_absent, reason: message.clone() }
            }
            PressureDetail::SourceWorks => Self::SourceWorks { head },
            _ => return None,
        })
    }
}

impl From<&Source> for SourceLine {
    fn from(source: &Source) -> Self {
        let (used_bytes, limit_bytes) = source.usage().unzip();
        let (state, interval) = match &source.state {
            SourceState::Listening => ("listening", None),
            SourceState::Polled(interval) => ("polled", Some(interval.as_secs_f64())),
            SourceState::Absent(_) => ("absent", None),
            _ => ("failed", None),
        };
        Self {
            name: source.name.clone(),
            state,
            interval_s: interval,
            reason: source.reason().map(str::to_owned),
            level: source.level.as_str(),
            used_bytes,
            limit_bytes,
        }
    }
}

impl From<&Group> for GroupLine {
    fn from(group: &Group) -> Self {
        let seen = group.seen.as_ref();
        let member = |budget_bytes: u64| {
            move |&Member { pid, leased_bytes, wanted_bytes }: &Member| MemberLine {
                pid,
                leased_bytes,
                wanted_bytes,
                share: share(leased_bytes, budget_bytes),
            }
        };
        Self {
            path: group.path.to_string_lossy().into_owned(),
            budget_bytes: seen.map(|seen| seen.budget_bytes).ok(),
            leased_bytes: seen.map(|seen| seen.leased_bytes).ok(),
            members: seen
                .map(|seen| seen.members.iter().map(member(seen.budget_bytes)).collect())
                .unwrap_or_default(),
            error: seen.err().cloned(),
        }
    }
}
