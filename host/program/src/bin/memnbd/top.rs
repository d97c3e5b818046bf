//! The command `top`: shows which disks are busy.

mod rates;
mod screen;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::http::Server;
use rates::{Rates, Sample};
use screen::{Screen, Wish};

/// Where the numbers come from.
const USAGE: &str = "usage";

/// Shows the load of the disks, again and again on a terminal, and else `count` times, or once.
pub(crate) async fn top(
    server: &Server,
    interval: Duration,
    count: Option<u64>,
    json: bool,
) -> anyhow::Result<()> {
    let is_live =
        !json && count.is_none() && io::stdin().is_terminal() && io::stdout().is_terminal();
    let before = Sample::of(&server.get(USAGE).await?);
    match is_live {
        true => live(server, interval, before).await,
        false => rounds(server, interval, before, count.unwrap_or(1), json).await,
    }
}

/// Prints the load so many times.
async fn rounds(
    server: &Server,
    interval: Duration,
    mut before: Sample,
    count: u64,
    json: bool,
) -> anyhow::Result<()> {
    for round in 0..count {
        tokio::time::sleep(interval).await;
        let now = Sample::of(&server.get(USAGE).await?);
        let rates = Rates::between(&before, &now);
        let separator = if round > 0 && !json { "\n" } else { "" };
        let text = if json { format!("{}\n", rates.json()) } else { rates.text(None) };
        let mut stdout = io::stdout();
        let text = format!("{separator}{text}");
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.context("write to stdout")?,
        }
        before = now;
    }
    Ok(())
}

/// Shows the load until somebody ends it.
async fn live(server: &Server, interval: Duration, mut before: Sample) -> anyhow::Result<()> {
    let handle = |kind| signal(kind).context("handle signals");
    let mut ends = [handle(SignalKind::terminate())?, handle(SignalKind::hangup())?];
    // In the terminal it is a key; others may send the signal as well.
    let mut interrupt = handle(SignalKind::interrupt())?;
    let mut screen = Screen::open()?;
    let mut shown = "(measuring)\n".to_owned();
    let mut rates: Option<Rates> = None;
    let mut next = tokio::time::Instant::now() + interval;
    let [terminate, hangup] = &mut ends;
    loop {
        let room = screen.rows().saturating_sub(2);
        let body = rates.as_ref().map_or_else(|| shown.clone(), |rates| rates.text(Some(room)));
        let head = format!("{}, every {} s; q ends", server.shown(), interval.as_secs_f64());
        screen.draw(&format!("{head}\n{body}"))?;
        let measure = async {
            tokio::time::sleep_until(next).await;
            server.get(USAGE).await
        };
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            wish = screen.wish() => match wish? {
                Wish::End => return Ok(()),
                Wish::Draw => {}
            },
            usage = measure => {
                next = tokio::time::Instant::now() + interval;
                match usage {
                    Ok(usage) => {
                        let now = Sample::of(&usage);
                        rates = Some(Rates::between(&before, &now));
                        before = now;
                    }
                    Err(error) => {
                        rates = None;
                        shown = format!("{}\n", crate::table::plain(&format!("{error:#}")));
                    }
                }
            }
        }
    }
}
