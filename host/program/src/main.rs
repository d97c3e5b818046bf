//! The command `memnbd-host`: from parsing the arguments to running and stopping the server.
//!
//! Mistakes in the command line are reported before anything listens. The process confines itself to
//! the files that are named. Then the sockets are created and privileges and system calls are dropped, and only then are components from files compiled and run. Clients
//! are greeted once there is something to serve.
//!
//! Exit codes: 0 for a clean stop, 1 for a failure, 2 for wrong usage, and 128 plus the number of a
//! signal that ended the process immediately.

mod args;
mod argument_files;
mod background;
mod bounded;
mod budgets;
mod captive;
mod chain;
mod companion;
mod components;
mod config;
mod control;
mod events;
mod exports;
mod file;
mod grants;
mod host_filters;
mod image;
mod information;
mod inherited;
mod inputs;
mod leftovers;
mod limits;
mod listen;
mod loading;
mod log;
mod making;
mod manual;
mod nbdkit;
mod pidfile;
mod plan;
mod preload;
mod privileges;
mod progress;
mod ready;
mod sandbox;
mod secret;
mod secrets;
mod signals;
mod start;
mod tls;
mod unix;
mod values;
mod volume;
mod wish;
mod words;

#[cfg(test)]
#[path = "../../src/component/tests/logs.rs"]
mod logs;

use std::env;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use args::Args;
use companion::Companion;
use control::Served;
use events::{Feed, Hubs};
use listen::Bound;
use log::Log;
use memnbd::component;
use memnbd::connection::Patience;
use memnbd::machine;
use memnbd::nbd::codes::handshake_flag;
use memnbd::nbd::{HandshakeConfig, TlsMode};
use memnbd::server::{Options, Server};
use nbdkit::Manner;
use pidfile::Pidfile;
use plan::{ClientSource, Life};
use privileges::Identity;
use sandbox::Confined;
use signals::Hangup;
use start::Planned;
use tls::{Credentials, Tls};

/// How long the process waits for its error message to be written before it exits.
const LAST_LINE_LIMIT: Duration = Duration::from_secs(1);

/// Why the command failed.
enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// The command could not be carried out.
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
            Self::Usage(text) => f.write_str(text),
            Self::Failed(error) => write!(f, "{error:#}"),
        }
    }
}

fn main() -> ExitCode {
    if let Some(code) = component::child_main() {
        return code;
    }
    let companion = Companion::start(|| {
        components::prepare_default();
        machine::look();
    });
    let typed: Vec<_> = env::args_os().collect();
    let manner = Manner::of(typed.first());
    let args = match argument_files::expand(typed).map(Args::of) {
        Ok(Ok(args)) => args,
        Ok(Err(error)) => {
            // If it cannot be printed, nobody can be told.
            let _ = error.print();
            return if error.use_stderr() { manner.usage_code() } else { ExitCode::SUCCESS };
        }
        Err(text) => return report(&Failure::Usage(text), manner.program(), manner),
    };
    match run(&args, companion) {
        Ok(code) => code,
        Err(failure) => report(&failure, args.logging.program(), manner),
    }
}

/// Prints why the command failed, and returns its exit code.
fn report(failure: &Failure, name: &str, manner: Manner) -> ExitCode {
    let (hint, code) = match failure {
        Failure::Usage(_) => (format!("\nTry '{} --help'.", manner.program()), manner.usage_code()),
        Failure::Failed(_) => (String::new(), ExitCode::FAILURE),
    };
    let line = format!("{name}: {failure}{hint}\n");
    // If stderr is closed or nobody reads it, the error cannot be reported.
    bounded::within(LAST_LINE_LIMIT, move || _ = io::stderr().write_all(line.as_bytes()));
    code
}

fn run(args: &Args, companion: Companion) -> Result<ExitCode, Failure> {
    args.refused.check().map_err(Failure::Usage)?;
    if let Some(question) = information::asked(args) {
        let answer = runtime(args)?.block_on(information::answer(args, question))?;
        print(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    args.manner.check(args).map_err(Failure::Usage)?;
    let inherited = inherited::count()? > 0;
    let source = plan::client_source(args, inherited)?;
    let identity = Identity::find(&args.life)?;
    let life = plan::life(args, inherited);
    let second = life != Life::Foreground && background::is_server_child()?;
    match life {
        Life::Background if !second => {
            return Ok(match background::detach(args).context("go to the background")? {
                Ok(ready) if args.manner.prints_uri(args) => {
                    print(&ready.lines()).map(|()| ExitCode::SUCCESS)?
                }
                Ok(_) => ExitCode::SUCCESS,
                Err(code) => code,
            });
        }
        Life::Captive(command) if !second => return captive::run(args, command),
        _ => {}
    }
    ready::set_name(args);
    ready::end_with_parent(args, life)?;
    let confined = sandbox::enter(args, &identity, &companion)?;
    let runtime = runtime(args)?;
    let result = runtime.block_on(serve(args, source, identity, life, companion, confined));
    // A guest that is stuck in its last call must not keep the process alive.
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

/// Serves until asked to stop.
async fn serve(
    args: &Args,
    source: ClientSource,
    identity: Identity,
    life: Life<'_>,
    companion: Companion,
    confined: Confined,
) -> Result<(), Failure> {
    let hubs = Hubs::default();
    let feed = (!args.control.control.is_empty()).then(|| Feed(hubs.clone()));
    let log = Log::start(&args.logging, hubs.clone(), feed)?;
    let _flushed = log.flush_on_drop();
    let hangup = match args.control.config {
        Some(_) => Hangup::Reload,
        None => args.manner.hangup(),
    };
    let signals = signals::handle(&log, companion, hangup).context("handle signals")?;
    let leftovers = signals.leftovers().clone();
    limits::raise_descriptors();
    let prepare = |path| Pidfile::prepare(path, identity.changes(), &leftovers);
    let pidfile = args.life.pidfile.as_deref().map(prepare).transpose()?;
    if args.life.swap {
        privileges::lock_memory()?;
    }
    let credentials = args.tls.find()?;
    let needs_certificates = args.control.control.iter().any(|address| !control::is_unix(address));
    if needs_certificates && !matches!(credentials, Credentials::Certificates(_)) {
        return Err(Failure::Usage(
            "--control HOST:PORT needs certificates for TLS: give --tls-certificates DIR".into(),
        ));
    }
    // Keys are read again for each client, so if the process changes its user, they are loaded only
    // afterwards: it must be the new user that can read them.
    let (early, late) = match identity.changes() && matches!(credentials, Credentials::Keys(_)) {
        true => (None, Some(credentials)),
        false => (Some(args.tls.load(credentials)?), None),
    };
    // On the heap: the pages of a deeper stack would be a part of what a start costs.
    let mut planned = Box::pin(exports::plan(args, &identity, confined.broker.clone())).await?;
    let mut of_server = std::mem::take(&mut planned.of_server);
    if of_server.exit_when.has_occurred().await {
        tracing::info!("exitwhen: the event has occurred already");
        return Ok(());
    }
    let mut bound = match &source {
        ClientSource::Single => Bound::default(),
        ClientSource::Inherited => Bound::inherit(inherited::sockets()?, &planned.exports)?,
        ClientSource::Listen(sockets) => {
            Bound::listen(sockets, &planned.exports, &identity, &leftovers).await?
        }
    };
    if args.manner == Manner::Nbdkit {
        bound.ask_for(args.export_name());
    }
    for (tenant, sockets) in &mut planned.tenants {
        if source == ClientSource::Single && !sockets.is_empty() {
            return Err(Failure::Usage(format!(
                "-s serves one client on stdin and stdout, so the tenant {:?} has no sockets: leave out -s, \
                 or its listen",
                tenant.name
            )));
        }
        for listen in sockets.drain(..) {
            let listeners = listen::listen_for(&listen, &tenant.exports, &identity, &leftovers);
            bound.listeners.extend(tenant.sockets.add(listen.clone(), listeners.await?));
        }
    }
    let control = control::bind(&args.control.control, &identity, &leftovers).await?;
    for address in control.addresses() {
        tracing::info!("the control API is at https://{address}");
    }
    identity.drop_privileges()?;
    // The kernel clears this setting when the user changes.
    ready::end_with_parent(args, life)?;
    let tls = match (early, late) {
        (Some(tls), _) => tls,
        (None, late) => args.tls.load(late.unwrap_or(Credentials::None))?,
    };
    tracing::debug!("TLS: {:?}, {}", tls.mode, tls.credentials);
    confined.complete()?;
    if of_server.needs_tls && tls.mode == TlsMode::Off {
        tracing::warn!("tls-fallback: TLS is off, so all clients get the message");
    }
    let main = planned.exports.list().first().cloned();
    let mut starting = planned.start().await?;
    if let (Some(preload), Some(main)) = (planned.preload.take(), &main) {
        preload.fill(args, main).await?;
    }

    confined.wait_for_companion();
    let ready = bound.ready(&tls);
    let mut options = options(args, tls);
    options.exit_last |= of_server.exit_last;
    let tls = options.tls.clone();
    options.entrance = Some(planned.entries.clone());
    let server = Server::new(starting.exports().clone(), options);
    let Planned { maker, disks, configured, tenants, entries, .. } = planned;
    let reload = configured.map(|configured| (configured, signals.reload().clone()));
    let tenants = tenants.into_iter().map(|(tenant, _)| tenant).collect();
    let server_handle = server.handle();
    let served = Served {
        server: server_handle,
        maker,
        disks,
        reload,
        tenants,
        entries,
        hubs,
        tls,
        leftovers: leftovers.clone(),
    };
    let controlled = control::serve(control, served)?;
    for (files, limits) in of_server.rate_files.drain(..) {
        tokio::spawn(files.follow(limits));
    }
    if !of_server.exit_when.is_empty() {
        let handle = server.handle();
        tokio::spawn(async move {
            let what = of_server.exit_when.occurs().await;
            tracing::info!("exitwhen: {what}; the server accepts no more clients");
            handle.retire();
        });
    }
    let stdio = match &source {
        ClientSource::Single => Some(inherited::stdio().context("use stdin and stdout")?),
        _ => None,
    };
    let stop = signals.serving();
    ready::tell(args, pidfile, &ready, source == ClientSource::Inherited, life, &log)?;
    let mut failure = None;
    let stop = async {
        tokio::select! {
            () = stop => {}
            hopeless = starting.hopeless() => failure = Some(hopeless),
        }
    };
    let stopped = match stdio {
        Some(stream) => server.run_single(stream, stop).await,
        None => server.run(bound.listeners, stop).await,
    };
    controlled.end().await;
    leftovers.remove();
    failure.map_or(Ok(()), Err)?;
    Ok(stopped.context("stop")?)
}

fn options(args: &Args, tls: Tls) -> Options {
    let clients = &args.clients;
    let mask = clients.mask_handshake.unwrap_or(u16::MAX);
    let limit_of = |time: Duration| (!time.is_zero()).then_some(time);
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
        handshake_timeout: limit_of(clients.handshake_timeout),
        max_connections: (clients.max_connections != 0).then_some(clients.max_connections),
        max_connections_per_export: clients.max_connections_per_export,
        patience: Patience {
            stalled: limit_of(clients.stall_timeout),
            idle: limit_of(clients.idle_timeout),
        },
        shutdown_timeout: args.life.shutdown_timeout,
        exit_last: args.life.exit_last,
        entrance: None,
    }
}
