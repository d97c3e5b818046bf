//! The life of a server: how it starts, where it listens, what it tells, how it ends.

mod argument_files;
mod as_nbdkit;
mod background;
mod captive;
mod crowd;
mod end;
mod flood;
mod information;
mod inherited;
mod listen;
mod log;
mod nbdkit;
mod pidfile;
mod preload;
mod privileges;
mod sandbox;
mod stop;
mod strangers;
