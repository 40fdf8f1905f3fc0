//! What the view looks like.

use super::*;
use crate::watch::state::{Member, Seen};
use aquifer::PressureReading;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

fn source(name: &str, state: SourceState, level: PressureLevel, used_bytes: Option<u64>) -> Source {
    let usage = |used_bytes| PressureReading::Usage { used_bytes: used_bytes << 20, limit_bytes: 1000 << 20 };
    Source { name: name.into(), state, level, reading: used_bytes.map(usage) }
}

fn state() -> State {
    let seconds = Duration::from_secs;
    let past =
        |at, level, what: &str| Past { at: seconds(at), level, source: "cgroup".into(), what: what.into() };
    State {
        at: seconds(75),
        level: PressureLevel::Critical,
        level_for: Duration::from_millis(12_340),
        time_at: [62, 0, 1, 12, 0].map(seconds),
        sources: vec![
            source(
                "cgroup",
                SourceState::Polled(Duration::from_millis(500)),
                PressureLevel::Critical,
                Some(960),
            ),
            source("psi", SourceState::Listening, PressureLevel::Normal, None),
            source("old", SourceState::Failed("gone".into()), PressureLevel::Normal, None),
            source("none", SourceState::Absent("not here".into()), PressureLevel::Normal, None),
        ],
        groups: vec![
            Group {
                path: "/dev/shm/a".into(),
                seen: Ok(Seen {
                    budget_bytes: 1000,
                    leased_bytes: 750,
                    members: vec![
                        Member { pid: 4711, leased_bytes: 500, wanted_bytes: 0 },
                        Member { pid: 5, leased_bytes: 250, wanted_bytes: 2048 },
                    ],
                }),
            },
            Group { path: "/dev/shm/b".into(), seen: Err("removed".into()) },
        ],
        history: vec![
            past(1, Some(PressureLevel::Warning), "normal -> warning"),
            past(2, Some(PressureLevel::Critical), "warning -> critical"),
            past(70, None, "works again"),
        ],
    }
}

fn drawn(state: &State, width: u16, height: u16, is_plain: bool) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state, is_plain)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> Vec<String> {
    let rows = buffer.content.chunks(usize::from(buffer.area.width));
    let text = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>());
    text.map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn everything_is_there() {
    let lines = text(&drawn(&state(), 100, 18, false));
    assert_eq!(
        lines,
        [
            "memory pressure: critical for 12.3 s, watched for 1 min 15 s",
            "so far  normal 1 min 2 s  moderate 0.0 s  warning 1.0 s  critical 12.0 s  emergency 0.0 s",
            "sources",
            "  critical   ███████████████░   96.00 %  960.00 MiB of 1000.00 MiB   every 0.5 s   cgroup",
            "  normal                                                             listening     psi",
            "  failed     old: gone",
            "  absent     none: not here",
            "budget group /dev/shm/a: 750 B of 1000 B leased",
            "       4711  ████████░░░░░░░░   50.00 %  500 B",
            "          5  ████░░░░░░░░░░░░   25.00 %  250 B, waits for 2.00 KiB",
            "budget group /dev/shm/b",
            "  removed",
            "history",
            "      1.0 s  normal -> warning  cgroup",
            "      2.0 s  warning -> critical  cgroup",
            "  1 min 10 s  works again  cgroup",
            "",
            "q, Esc or Ctrl-C ends",
        ]
    );
}

#[test]
fn where_it_is_too_small_the_oldest_go_first() {
    let lines = text(&drawn(&state(), 40, 15, false));
    assert_eq!(lines[12..], ["history", "  1 min 10 s  works again  cgroup", "q, Esc or Ctrl-C ends"]);
    assert!(lines[3].ends_with("96.00 %"), "{lines:?}");
    for (width, height) in [(0, 0), (1, 1), (3, 2), (200, 3), (1, 100)] {
        drawn(&state(), width, height, false);
    }
}

#[test]
fn levels_have_colours_unless_they_are_unwanted() {
    for level in PressureLevel::ALL {
        let state = State { level, ..state() };
        let cell = &drawn(&state, 100, 20, false)[("memory pressure: ".len() as u16, 0)];
        let expected = match level {
            PressureLevel::Normal => Color::Green,
            PressureLevel::Moderate => Color::Cyan,
            PressureLevel::Warning => Color::Yellow,
            PressureLevel::Critical => Color::Red,
            PressureLevel::Emergency => Color::White,
        };
        assert_eq!(cell.fg, expected);
        let plain = drawn(&state, 100, 20, true);
        let is_plain = |cell: &ratatui::buffer::Cell| {
            (cell.fg, cell.bg, cell.modifier) == (Color::Reset, Color::Reset, Modifier::empty())
        };
        assert!(plain.content.iter().all(is_plain));
    }
}

#[test]
fn nothing_moves_the_cursor() {
    let mut state = state();
    state.groups[1].path = "a\u{1b}[2Jb\nc".into();
    let lines = text(&drawn(&state, 100, 20, true));
    assert!(lines.contains(&"budget group a [2Jb c".to_owned()), "{lines:?}");
}
