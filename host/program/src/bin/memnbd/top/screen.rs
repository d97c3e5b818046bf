//! The terminal, which is as it was before when this ends, however it ends.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use crossterm::terminal::{
    self, Clear, ClearType, DisableLineWrap, EnableLineWrap, EnterAlternateScreen,
    LeaveAlternateScreen,
};
use crossterm::{execute, queue};
use tokio::sync::mpsc::{self, Receiver, Sender};

/// How often the thread that reads keys looks whether it is still needed.
const POLL: Duration = Duration::from_millis(100);

/// The size of a terminal that does not tell its own.
const USUAL: (u16, u16) = (80, 24);

/// What somebody at the terminal wants.
pub(super) enum Wish {
    /// To see everything again: the terminal has another size.
    Draw,
    /// To end.
    End,
}

/// The whole terminal.
pub(super) struct Screen {
    wishes: Receiver<io::Result<Wish>>,
    ended: Arc<AtomicBool>,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not one.
    pub(super) fn open() -> anyhow::Result<Self> {
        let (sender, wishes) = mpsc::channel(8);
        let ended = Arc::new(AtomicBool::new(false));
        terminal::enable_raw_mode().context("use the terminal")?;
        // From here on it is given back.
        let screen = Self { wishes, ended: ended.clone() };
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
        execute!(io::stdout(), EnterAlternateScreen, Hide, DisableLineWrap)
            .context("write to the terminal")?;
        thread::Builder::new().name("keys".into()).spawn(move || read(&sender, &ended))?;
        Ok(screen)
    }

    /// Returns the number of lines.
    pub(super) fn rows(&self) -> usize {
        usize::from(size().1)
    }

    /// Shows these lines, as far as they fit.
    pub(super) fn draw(&mut self, text: &str) -> anyhow::Result<()> {
        let (columns, rows) = size();
        let mut stdout = io::stdout().lock();
        let mut draw = || -> io::Result<()> {
            for (row, line) in (0..rows).zip(text.lines()) {
                let line: String = line.chars().take(columns.into()).collect();
                queue!(stdout, MoveTo(0, row))?;
                write!(stdout, "{line}")?;
                queue!(stdout, Clear(ClearType::UntilNewLine))?;
            }
            let used = u16::try_from(text.lines().count()).unwrap_or(u16::MAX);
            if used < rows {
                queue!(stdout, MoveTo(0, used), Clear(ClearType::FromCursorDown))?;
            }
            stdout.flush()
        };
        draw().context("write to the terminal")
    }

    /// Waits until somebody wants something.
    pub(super) async fn wish(&mut self) -> anyhow::Result<Wish> {
        match self.wishes.recv().await {
            Some(wish) => wish.context("read the terminal"),
            // The thread has ended with the terminal.
            None => Ok(Wish::End),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        restore();
    }
}

/// Makes the terminal what it was before.
fn restore() {
    // There is nothing else to be done about it.
    let _ = execute!(io::stdout(), EnableLineWrap, Show, LeaveAlternateScreen);
    let _ = terminal::disable_raw_mode();
}

fn size() -> (u16, u16) {
    match terminal::size() {
        Ok((columns, rows)) if columns > 0 && rows > 0 => (columns, rows),
        _ => USUAL,
    }
}

/// Reads keys until nobody wants them.
fn read(sender: &Sender<io::Result<Wish>>, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        let wish = match event::poll(POLL) {
            Ok(false) => continue,
            Ok(true) => match event::read() {
                Ok(Event::Resize(..)) => Ok(Wish::Draw),
                Ok(Event::Key(key)) if ends(key) => Ok(Wish::End),
                Ok(_) => continue,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        let is_last = !matches!(wish, Ok(Wish::Draw));
        if sender.blocking_send(wish).is_err() || is_last {
            return;
        }
    }
}

/// Returns true for the keys that end the program.
fn ends(key: KeyEvent) -> bool {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}
