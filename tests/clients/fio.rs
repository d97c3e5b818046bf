//! fio writes what it can recognise, and reads it back.

use std::process::Command;

use crate::support::{Server, client, require, run};

/// Its jobs share these options; the time is a bound, their sizes end them long before.
fn fio(server: &Server, options: &[&str]) -> Command {
    let mut command = client(server, "fio");
    command.args(["--name=job", "--ioengine=nbd", "--verify_fatal=1", "--verify_state_save=0"]);
    command.args(["--randrepeat=0", "--group_reporting", "--timeout=50"]);
    command.arg(format!("--uri={}", server.uri())).args(options);
    command
}

#[test]
fn random_writes_at_depth_are_read_back() {
    require!("fio");
    let server = Server::start(&["64M"]);
    let options = ["--rw=randwrite", "--bs=4k", "--size=32M", "--iodepth=64", "--verify=crc32c"];
    run(&mut fio(&server, &options)).success();
}

#[test]
fn blocks_of_any_length_are_read_back() {
    require!("fio");
    let server = Server::start_tcp(&["64M"]);
    let options =
        ["--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned=1", "--size=32M", "--iodepth=16"];
    run(fio(&server, &options).arg("--verify=xxhash")).success();
}

#[test]
fn trims_between_writes_do_no_harm() {
    require!("fio");
    let server = Server::start(&["64M"]);
    let options = ["--rw=trimwrite", "--bs=64k", "--size=32M", "--iodepth=8", "--verify=md5"];
    run(&mut fio(&server, &options)).success();
}

#[test]
fn connections_that_write_at_once_find_what_they_wrote() {
    require!("fio");
    let server = Server::start(&["64M"]);
    let options = [
        "--rw=randwrite",
        "--bs=4k",
        "--size=16M",
        "--numjobs=4",
        "--offset_increment=16M",
        "--iodepth=16",
        "--verify=crc32c",
    ];
    run(&mut fio(&server, &options)).success();
}
