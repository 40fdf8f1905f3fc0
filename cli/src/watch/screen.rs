//! The view on a terminal.

use std::io;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{self, EnterAlternateScreen};

use super::watching::{Signal, Watch};
use super::{draw, is_over, next_at};
use crate::error::CliError;

/// How long the thread that reads keys may take to see that it is over.
const KEY_WAIT: Duration = Duration::from_millis(50);

/// Draws at each interval and on each event, until a key or the time ends it.
pub(super) fn show(watch: &mut Watch, interval: Duration, end: Option<Instant>) -> Result<(), CliError> {
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let mut screen = Screen::open().map_err(CliError::Terminal)?;
    let is_open = AtomicBool::new(true);
    thread::scope(|scope| {
        // However this ends, the thread does too.
        let _closing = OnDrop(|| is_open.store(false, Ordering::Relaxed));
        let (is_open, to_main) = (&is_open, watch.sender());
        let keys = thread::Builder::new().spawn_scoped(scope, move || read_keys(is_open, &to_main));
        keys.map_err(CliError::Terminal)?;
        while !is_over(end) {
            let state = watch.state();
            screen.0.draw(|frame| draw::draw(frame, &state, is_plain))?;
            if let Some(Signal::Key(key)) = watch.next_until(next_at(Instant::now() + interval, end))
                && is_end(&key)
            {
                break;
            }
        }
        Ok(())
    })
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// The terminal, drawn over; as it was before when this is dropped.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> io::Result<Self> {
        restore_before_panic_messages();
        let opened = terminal::enable_raw_mode()
            .and_then(|()| execute!(io::stdout(), EnterAlternateScreen))
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        // Half of it may have been done.
        opened.map(Self).inspect_err(|_| ratatui::restore())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The cursor was hidden by drawing.
        let _ = self.0.show_cursor();
        // A panic has done it already; again, it would put the cursor over the message.
        if !thread::panicking() {
            // What cannot be written is lost: there is no other place to tell it.
            let _ = ratatui::try_restore();
        }
    }
}

/// Has a panic of this thread be told where it can be read. Other threads' panics do not end the view.
fn restore_before_panic_messages() {
    let drawing = thread::current().id();
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if thread::current().id() == drawing {
            let _ = ratatui::try_restore();
        }
        tell(info);
    }));
}

/// Passes keys on. Where none can be read, the time or a signal ends the view.
fn read_keys(is_open: &AtomicBool, to_main: &Sender<Signal>) {
    while is_open.load(Ordering::Relaxed) {
        let signal = match event::poll(KEY_WAIT) {
            Ok(false) => continue,
            Ok(true) => match event::read() {
                Ok(Event::Key(key)) => Signal::Key(key),
                Ok(Event::Resize(..)) => Signal::Resized,
                Ok(_) => continue,
                Err(_) => return,
            },
            Err(_) => return,
        };
        if to_main.send(signal).is_err() {
            return;
        }
    }
}

fn is_end(key: &KeyEvent) -> bool {
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind != KeyEventKind::Release
        && match key.code {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => true,
            KeyCode::Char('c') => is_control,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_keys_end_it() {
        let is_end = |code, modifiers| is_end(&KeyEvent::new(code, modifiers));
        assert!(is_end(KeyCode::Char('q'), KeyModifiers::NONE));
        assert!(is_end(KeyCode::Esc, KeyModifiers::NONE));
        assert!(is_end(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!is_end(KeyCode::Char('c'), KeyModifiers::NONE));
        assert!(!is_end(KeyCode::Enter, KeyModifiers::NONE));
    }
}
