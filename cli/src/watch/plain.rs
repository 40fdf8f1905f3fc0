//! What goes where no terminal is: lines.

use std::fmt::Write;

use aquifer::SourceState;

use super::state::{Group, Past, Source, State, share, time_in_words};
use crate::output::{bytes_in_words, percent_in_words};

/// The block at the beginning.
pub(super) fn sources(state: &State) -> String {
    let mut text = format!("memory pressure: {}\nsources:", state.level);
    for source in &state.sources {
        // A text takes all that is written.
        let _ = write!(text, "\n  {}", source_in_words(source));
    }
    for group in &state.groups {
        let _ = write!(text, "\n{}", group_in_words(group));
    }
    text
}

/// One event.
pub(super) fn event(past: &Past) -> String {
    format!("{:>10}  {}: {}", time_in_words(past.at), past.source, past.what)
}

fn source_in_words(source: &Source) -> String {
    let Source { name, level, .. } = source;
    match (&source.state, source.usage()) {
        (SourceState::Absent(reason), _) => format!("absent: {name} ({reason})"),
        (SourceState::Failed(reason), _) => format!("failed: {name} ({reason})"),
        (_, None) => format!("{level}: {name}, {}", source.how_in_words()),
        (_, Some((used, limit))) => {
            let share = percent_in_words(share(used, limit));
            let (used, limit) = (bytes_in_words(used), bytes_in_words(limit));
            format!("{level}: {name}, {used} of {limit} ({share}), {}", source.how_in_words())
        }
    }
}

fn group_in_words(group: &Group) -> String {
    let path = group.path.display().to_string();
    let path = super::state::printable(&path);
    match &group.seen {
        Err(error) => format!("budget group {path}: {error}"),
        Ok(seen) => {
            let (leased, budget) = (bytes_in_words(seen.leased_bytes), bytes_in_words(seen.budget_bytes));
            let mut text = format!("budget group {path}: {leased} of {budget} leased");
            for member in &seen.members {
                let leased = bytes_in_words(member.leased_bytes);
                let share = percent_in_words(share(member.leased_bytes, seen.budget_bytes));
                let _ = write!(text, "\n  process {}: {leased} ({share})", member.pid);
                if member.wanted_bytes > 0 {
                    let _ = write!(text, ", waits for {}", bytes_in_words(member.wanted_bytes));
                }
            }
            text
        }
    }
}
