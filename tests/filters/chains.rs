//! A copy-on-write layer in chains.

use std::fs;

use crate::support::{Server, client, nbdsh, require, run};

/// error -> delay -> cow -> golden, in memory.
fn chain() -> Server {
    let top = "top=cow,filter=error,filter=delay,base=golden,cow-block-size=4k,error-rate=0,\
               wdelay=100us,rdelay=50us";
    let exports = ["golden=memory,64M", top];
    Server::start(&exports.map(|export| ["--export", export]).concat())
}

#[test]
fn file_system_is_written_over_a_base_that_stays() {
    require!("nbdsh", "nbdcopy", "mkfs.ext4", "debugfs");
    let server = chain();
    let uri = |name: &str| server.uri().replace("golden", name);
    let image = server.path("image");
    let make = "truncate -s 64M image && mkfs.ext4 -q image && echo hello > hello && \
                debugfs -w -R 'write hello first' image 2>/dev/null";
    run(client(&server, "sh").args(["-c", make])).success();
    run(client(&server, "nbdcopy").arg(&image).arg(uri("golden"))).success();
    let copy = |from: String, to: &str| {
        run(client(&server, "nbdcopy").arg(from).arg(server.path(to))).success();
    };
    copy(uri("top"), "before");
    assert!(fs::read(server.path("before")).unwrap() == fs::read(&image).unwrap());
    // Another file system, over the first.
    let again = "debugfs -w -R 'write hello second' image 2>/dev/null && e2fsck -fn image";
    run(client(&server, "sh").args(["-c", again])).success();
    run(client(&server, "nbdcopy").arg(&image).arg(uri("top"))).success();
    copy(uri("top"), "after");
    assert!(fs::read(server.path("after")).unwrap() == fs::read(&image).unwrap());
    copy(uri("golden"), "golden");
    let (before, golden) = (fs::read(server.path("before")), fs::read(server.path("golden")));
    assert!(before.unwrap() == golden.unwrap(), "the base is as it was");
}

#[test]
fn chain_passes_verification_with_four_connections() {
    require!("fio", "nbdsh");
    let server = chain();
    nbdsh(&server, "h.get_size()");
    let uri = server.uri().replace("golden", "top");
    for (workload, size) in [("randwrite", "bsrange=512-64k"), ("randrw", "bs=4k")] {
        let mut command = client(&server, "fio");
        command.args(["--name=job", "--ioengine=nbd", "--verify_fatal=1", "--verify_state_save=0"]);
        command.arg(format!("--uri={uri}")).arg(format!("--rw={workload}"));
        command.arg(format!("--{size}"));
        command.args([
            "--verify=crc32c",
            "--numjobs=4",
            "--iodepth=16",
            "--size=8M",
            "--offset_increment=12M",
            "--thread",
        ]);
        run(&mut command).success();
    }
}
