//! The command: from what was typed to a server that runs, and to its end.
//!
//! Mistakes of the command line are told before anything listens. Then the sockets are made, the
//! process becomes the user that serves, and only now is a component that is a file compiled and
//! run; clients are greeted when there is something to serve. Exit codes: 0 for a clean stop, 1 for
//! a failure, 2 for wrong usage.

mod args;
mod background;
mod captive;
mod components;
mod exports;
mod information;
mod inherited;
mod listen;
mod loading;
mod log;
mod manual;
mod plan;
mod privileges;
mod ready;
mod signals;
mod start;
mod tls;
mod values;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;

use crate::component;
use crate::machine;
use crate::nbd::HandshakeConfig;
use crate::nbd::codes::handshake_flag;
use crate::server::{Options, Server};
use args::Args;
use listen::Bound;
use log::Log;
use plan::{Life, Place};
use privileges::Identity;
use ready::Pidfile;
use tls::{Credentials, Tls};

/// Why the command failed.
enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// It could not be done.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => write!(f, "{text}\nTry 'memnbd-host --help'."),
            Self::Failed(error) => write!(f, "{error:#}"),
        }
    }
}

/// Runs the command with the arguments of the process.
pub fn main() -> ExitCode {
    if let Some(code) = component::child_main() {
        return code;
    }
    components::prepare_default();
    let mut args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    args.understand_export();
    match run(&args) {
        Ok(code) => code,
        Err(failure) => {
            // Nobody is left to tell when stderr is gone.
            let _ = writeln!(io::stderr(), "{}: {failure}", args.logging.program());
            match failure {
                Failure::Usage(_) => ExitCode::from(2),
                Failure::Failed(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, Failure> {
    if let Some(question) = information::asked(args) {
        let answer = runtime(args)?.block_on(information::answer(args, question))?;
        print(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let inherited = inherited::count()? > 0;
    let place = plan::place(args, inherited)?;
    let identity = Identity::find(&args.life)?;
    let life = plan::life(args, inherited);
    let second = life != Life::Foreground && background::is_second()?;
    match life {
        Life::Background if !second => {
            return Ok(match background::detach().context("go to the background")? {
                Ok(ready) => print(&ready.lines()).map(|()| ExitCode::SUCCESS)?,
                Err(code) => code,
            });
        }
        Life::Captive(command) if !second => return captive::run(args, command),
        _ => {}
    }
    ready::set_name(args);
    ready::end_with_parent(args, life)?;
    let runtime = runtime(args)?;
    let result = runtime.block_on(serve(args, place, identity, life));
    // A guest that is stuck in its last call must not keep the process.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

fn runtime(args: &Args) -> anyhow::Result<tokio::runtime::Runtime> {
    let threads = args.threads.map_or_else(|| machine::processors().get(), usize::from);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).enable_all().build().context("start the threads")
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("write to stdout")
}

/// Serves until it is told to stop.
async fn serve(
    args: &Args,
    place: Place,
    identity: Identity,
    life: Life<'_>,
) -> Result<(), Failure> {
    let log = Log::start(&args.logging)?;
    if args.life.swap {
        privileges::lock_memory()?;
    }
    let credentials = args.tls.find()?;
    // Keys are read again for each client, which only the user who serves may be able to do, or not.
    let (early, late) = match identity.changes() && matches!(credentials, Credentials::Keys(_)) {
        true => (None, Some(credentials)),
        false => (Some(args.tls.load(credentials)?), None),
    };
    let planned = exports::plan(args, &identity).await?;
    let bound = match &place {
        Place::Single => Bound::default(),
        Place::Inherited => Bound::inherit(inherited::sockets()?, &planned.exports)?,
        Place::Listen(sockets) => Bound::listen(sockets, &planned.exports, &identity).await?,
    };
    let pidfile = args.life.pidfile.as_deref();
    let pidfile = pidfile.map(|path| Pidfile::prepare(path, &identity)).transpose()?;
    // Now that the files have an owner who can remove them.
    let (stop, stop_now) = signals::handle(log.clone()).context("handle signals")?;
    tokio::pin!(stop);

    identity.assume()?;
    // The kernel forgets it with the former user.
    ready::end_with_parent(args, life)?;
    let tls = match (early, late) {
        (Some(tls), _) => tls,
        (None, late) => args.tls.load(late.unwrap_or(Credentials::None))?,
    };
    tracing::debug!("TLS: {:?}, {}", tls.mode, tls.credentials);
    let mut starting = tokio::select! {
        started = planned.start() => started?,
        () = &mut stop => return stopped_early(life),
    };

    let ready = bound.ready(&tls);
    let server = Server::new(starting.exports().clone(), options(args, tls));
    let stdio = match &place {
        Place::Single => Some(inherited::stdio().context("use stdin and stdout")?),
        _ => None,
    };
    ready::tell(args, &ready, place == Place::Inherited, pidfile, life, &log)?;
    let mut failure = None;
    let stop = async {
        tokio::select! {
            () = stop => {}
            hopeless = starting.hopeless() => failure = Some(hopeless),
        }
    };
    match stdio {
        Some(stream) => server.run_single(stream, stop, stop_now).await,
        None => server.run(bound.listeners, stop, stop_now).await,
    }
    failure.map_or(Ok(()), Err)
}

/// The end of a server that was told to stop before it was ready. Whoever waits for that must not
/// take it for success.
fn stopped_early(life: Life<'_>) -> Result<(), Failure> {
    match life {
        Life::Foreground => Ok(()),
        _ => Err(anyhow::anyhow!("it was told to stop before it was ready").into()),
    }
}

fn options(args: &Args, tls: Tls) -> Options {
    let clients = &args.clients;
    let mask = clients.mask_handshake.unwrap_or(u16::MAX);
    let limit = clients.handshake_timeout;
    Options {
        handshake: HandshakeConfig {
            tls: tls.mode,
            structured_replies: !clients.no_sr,
            extended_headers: !clients.no_sr,
            meta_contexts: !clients.no_sr && !clients.no_mc,
            fixed_newstyle: mask & handshake_flag::FIXED_NEWSTYLE != 0,
            no_zeroes: mask & handshake_flag::NO_ZEROES != 0,
        },
        tls: tls.acceptor,
        handshake_timeout: (!limit.is_zero()).then_some(limit),
        max_connections: (clients.max_connections != 0).then_some(clients.max_connections),
        exit_last: args.life.exit_last,
    }
}
