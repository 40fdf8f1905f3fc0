//! The view: a function of the state, and of nothing else.

use std::time::Duration;

use aquifer::{PressureLevel, SourceState};
use ratatui::Frame;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::state::{Group, Past, Source, State, printable, share, time_in_words};
use crate::output::{bytes_in_words, percent_in_words};

/// How many cells a bar has.
const BAR_CELLS: usize = 16;
/// How wide what stands between a source's level and how its news come is.
const USAGE_CELLS: usize = BAR_CELLS + 12 + BYTES_CELLS;
/// `1023.99 GiB of 1023.99 GiB`, and a gap.
const BYTES_CELLS: usize = 28;
const KEYS: &str = "q, Esc or Ctrl-C ends";

/// Draws all of the frame. Where it is too small, the history is shortened first.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, is_plain: bool) {
    let paint = Paint { is_plain };
    let height = usize::from(frame.area().height);
    let mut lines = paint.now(state);
    // The title, and the keys below.
    let room = height.saturating_sub(lines.len() + 2);
    if room > 0 {
        lines.push(paint.title("history"));
        let skipped = state.history.len().saturating_sub(room);
        lines.extend(state.history[skipped..].iter().map(|past| paint.past(past)));
    }
    lines.resize_with(lines.len().max(height.saturating_sub(1)), Line::default);
    lines.push(Line::styled(KEYS, paint.quiet()));
    frame.render_widget(Paragraph::new(lines), frame.area());
}

/// How things look.
#[derive(Debug, Clone, Copy)]
struct Paint {
    /// Neither colours nor bold type.
    is_plain: bool,
}

impl Paint {
    fn style(self, style: Style) -> Style {
        if self.is_plain { Style::default() } else { style }
    }

    fn quiet(self) -> Style {
        self.style(Style::default().add_modifier(Modifier::DIM))
    }

    fn level(self, level: PressureLevel) -> Style {
        let style = Style::default();
        self.style(match level {
            PressureLevel::Normal => style.fg(Color::Green),
            PressureLevel::Moderate => style.fg(Color::Cyan),
            PressureLevel::Warning => style.fg(Color::Yellow),
            PressureLevel::Critical => style.fg(Color::Red).add_modifier(Modifier::BOLD),
            PressureLevel::Emergency => style.fg(Color::White).bg(Color::Red).add_modifier(Modifier::BOLD),
        })
    }

    fn title(self, text: impl Into<String>) -> Line<'static> {
        Line::styled(text.into(), self.style(Style::default().add_modifier(Modifier::BOLD)))
    }

    /// Everything but the history.
    fn now(self, state: &State) -> Vec<Line<'static>> {
        let mut lines = vec![self.head(state), self.times(&state.time_at), self.title("sources")];
        lines.extend(state.sources.iter().map(|source| self.source(source)));
        for group in &state.groups {
            self.group(group, &mut lines);
        }
        lines
    }

    fn head(self, state: &State) -> Line<'static> {
        let (level_for, at) = (time_in_words(state.level_for), time_in_words(state.at));
        Line::from(vec![
            Span::raw("memory pressure: "),
            Span::styled(state.level.as_str(), self.level(state.level)),
            Span::raw(format!(" for {level_for}, watched for {at}")),
        ])
    }

    fn times(self, time_at: &[Duration; 5]) -> Line<'static> {
        let mut spans = vec![Span::raw("so far")];
        for (level, time) in PressureLevel::ALL.into_iter().zip(time_at) {
            spans.push(Span::styled(format!("  {level}"), self.level_if(level, !time.is_zero())));
            spans.push(Span::raw(format!(" {}", time_in_words(*time))));
        }
        Line::from(spans)
    }

    fn level_if(self, level: PressureLevel, is_loud: bool) -> Style {
        if is_loud { self.level(level) } else { self.quiet() }
    }

    fn bar(self, used_bytes: u64, limit_bytes: u64, style: Style) -> [Span<'static>; 2] {
        let share = share(used_bytes, limit_bytes);
        let full = (share.clamp(0.0, 1.0) * BAR_CELLS as f64).round() as usize;
        let bar = format!("{}{}", "█".repeat(full), "░".repeat(BAR_CELLS - full));
        [Span::styled(bar, style), Span::raw(format!(" {:>9}  ", percent_in_words(share)))]
    }

    fn source(self, source: &Source) -> Line<'static> {
        if let Some(reason) = source.reason() {
            let text = format!("  {:<9}  {}: {reason}", source.how_in_words(), source.name);
            let is_absent = matches!(source.state, SourceState::Absent(_));
            return Line::styled(text, self.level_if(PressureLevel::Warning, !is_absent));
        }
        let style = self.level(source.level);
        let mut spans =
            vec![Span::raw("  "), Span::styled(format!("{:<9}", source.level), style), Span::raw("  ")];
        if let Some((used, limit)) = source.usage() {
            spans.extend(self.bar(used, limit, style));
            let bytes = format!("{} of {}", bytes_in_words(used), bytes_in_words(limit));
            spans.push(Span::raw(format!("{bytes:<BYTES_CELLS$}")));
        } else {
            spans.push(Span::raw(" ".repeat(USAGE_CELLS)));
        }
        spans.push(Span::raw(format!("{:<12}  {}", source.how_in_words(), source.name)));
        Line::from(spans)
    }

    fn group(self, group: &Group, lines: &mut Vec<Line<'static>>) {
        let path = printable(&group.path.display().to_string());
        let seen = match &group.seen {
            Ok(seen) => seen,
            Err(error) => {
                lines.push(self.title(format!("budget group {path}")));
                lines.push(Line::styled(format!("  {error}"), self.level(PressureLevel::Warning)));
                return;
            }
        };
        let (leased, budget) = (bytes_in_words(seen.leased_bytes), bytes_in_words(seen.budget_bytes));
        lines.push(self.title(format!("budget group {path}: {leased} of {budget} leased")));
        for member in &seen.members {
            let mut spans = vec![Span::raw(format!("  {:>9}  ", member.pid))];
            spans.extend(self.bar(member.leased_bytes, seen.budget_bytes, Style::default()));
            spans.push(Span::raw(bytes_in_words(member.leased_bytes)));
            if member.wanted_bytes > 0 {
                let wanted = format!(", waits for {}", bytes_in_words(member.wanted_bytes));
                spans.push(Span::styled(wanted, self.level(PressureLevel::Warning)));
            }
            lines.push(Line::from(spans));
        }
    }

    fn past(self, past: &Past) -> Line<'static> {
        let what = past.level.map_or_else(|| self.quiet(), |level| self.level(level));
        Line::from(vec![
            Span::raw(format!("  {:>9}  ", time_in_words(past.at))),
            Span::styled(past.what.clone(), what),
            Span::raw(format!("  {}", past.source)),
        ])
    }
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
