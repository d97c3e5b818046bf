//! The clients that people use, each doing what it is for.

mod concurrency;
mod fio;
mod nbd_client;
mod nbdcopy;
mod nbdinfo;
mod nbdsh;
mod python;
mod qemu;
mod real_run;
