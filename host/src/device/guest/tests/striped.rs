//! Disks that are striped over instances.

use super::{Client, MIB, open};
use crate::block::{Extent, MAX_SIZE, Status};
use crate::component::tests::guest::Called::{Flush, Read, Trim, Write, Zero};
use crate::component::tests::guest::Guest;
use crate::device::tests::Requests;

const STRIPE: u64 = 64 << 10;

fn striped() -> Guest {
    Guest::new().opened(|disk| disk.stripe = STRIPE)
}

/// A disk of 2^63-1 bytes, with a given `extents`.
fn huge(extents: &str) -> Guest {
    striped().opened(|disk| disk.size = MAX_SIZE).with("extents", extents)
}

/// From here to the end of the largest disk everything is of one status.
fn all(status: &str) -> String {
    format!(
        "(call $extent (i32.const 0x2000)
           (i64.sub (i64.const 0x7fffffffffffffff) (local.get $offset)) {status})
         (call $list (i32.const 0x2000) (i32.const 1))"
    )
}

fn extent(length: u64, status: Status) -> Extent {
    Extent { length, status }
}

#[tokio::test]
async fn each_stripe_belongs_to_one_instance() {
    let disk = open(&striped()).await;
    let shards = &disk.disk.shards;
    assert!(shards.count() > 1, "all of it would be trivial");
    let data: Vec<u8> = (0..MIB - 200).map(|n| (n % 253) as u8).collect();
    disk.write(100, &data, false).await.unwrap();
    assert_eq!(disk.read(100, MIB - 200).await.unwrap(), data);
    let mut pieces = Vec::new();
    for (index, log) in disk.logs().await.into_iter().enumerate() {
        let log = log.unwrap_or_default();
        let (writes, reads) = log.split_at(log.len() / 2);
        for (write, read) in writes.iter().zip(reads) {
            assert_eq!((write.0, read.0), (Write(false), Read));
            assert_eq!((write.1, write.2), (read.1, read.2));
            assert_eq!(shards.index(write.1), index);
            assert_eq!(write.1 / STRIPE, (write.1 + write.2 - 1) / STRIPE, "in one stripe");
        }
        assert!(writes.is_sorted_by_key(|call| call.1));
        pieces.extend(writes.iter().map(|call| (call.1, call.2)));
    }
    pieces.sort_unstable();
    let mut at = 100;
    for (offset, length) in pieces {
        assert_eq!(offset, at);
        at += length;
    }
    assert_eq!(at, MIB - 100);
}

#[tokio::test]
async fn flush_reaches_all_instances_that_were_started() {
    let disk = open(&striped()).await;
    let other = (0..16).map(|n| n * STRIPE).find(|&at| disk.disk.shards.index(at) != 0).unwrap();
    disk.write(other, &[1], false).await.unwrap();
    disk.flush().await.unwrap();
    let logs = disk.logs().await;
    assert_eq!(logs.iter().flatten().count(), 2, "the first, and the one that was written to");
    for log in logs.into_iter().flatten() {
        assert_eq!(log.last(), Some(&(Flush, 0, 0)));
    }
}

#[tokio::test]
async fn long_zeroes_and_trims_are_one_call_for_each_instance() {
    let disk = open(&striped()).await;
    disk.write(0, &vec![7; MIB as usize], false).await.unwrap();
    disk.logs().await;
    disk.zero(0, MIB).await.unwrap();
    disk.trim(0, MIB).await.unwrap();
    for log in disk.logs().await.into_iter().flatten() {
        assert_eq!(log, [(Zero(0), 0, MIB), (Trim(false), 0, MIB)]);
    }
    assert_eq!(disk.read(0, MIB).await.unwrap(), vec![0; MIB as usize]);
}

#[tokio::test]
async fn extents_of_stripes_are_merged() {
    let disk = open(&striped()).await;
    assert_eq!(disk.extents(0, MIB, 100).await.unwrap(), [extent(MIB, Status::HOLE)]);
    // Over the border of two stripes, and within a third.
    disk.write(2 * STRIPE - 4096, &[7; 8192], false).await.unwrap();
    disk.write(5 * STRIPE + 4096, &[7; 1], false).await.unwrap();
    let expected = [
        extent(2 * STRIPE - 4096, Status::HOLE),
        extent(8192, Status::DATA),
        extent(3 * STRIPE, Status::HOLE),
        extent(4096, Status::DATA),
        extent(11 * STRIPE - 8192, Status::HOLE),
    ];
    assert_eq!(disk.extents(0, MIB, 100).await.unwrap(), expected);
    assert_eq!(disk.extents(0, MIB, 2).await.unwrap(), expected[..2]);
    assert_eq!(disk.extents(0, MIB, 1).await.unwrap(), expected[..1]);
    assert_eq!(disk.extents(0, 100, 1).await.unwrap(), [extent(100, Status::HOLE)]);
    let length = 2 * STRIPE - 4096 + 4096;
    let cut = [expected[0], extent(4096, Status::DATA)];
    assert_eq!(disk.extents(0, length, 100).await.unwrap(), cut);
}

#[tokio::test]
async fn extents_of_a_huge_disk_take_few_steps() {
    let disk = open(&huge(&all("(i32.const 3)"))).await;
    assert_eq!(disk.extents(0, MAX_SIZE, 1).await.unwrap(), [extent(MAX_SIZE, Status::HOLE)]);
    disk.zero(0, MAX_SIZE).await.unwrap_err();
}

/// Whoever was written to says that everything is data, the others that nothing is: there is a
/// border at every second stripe, of 2^47.
#[tokio::test]
async fn walk_along_a_disagreement_ends() {
    let guest = huge(&all("(i32.mul (i32.const 3) (i32.eqz (i32.load8_u (i32.const 0x10000))))"))
        .with("write", "(i32.store8 (i32.const 0x10000) (i32.const 1)) (call $done)");
    let disk = open(&guest).await;
    let mine = (0..).map(|n| n * STRIPE).find(|&at| disk.disk.shards.index(at) == 1).unwrap();
    disk.write(mine, &[1], false).await.unwrap();
    let extents = disk.extents(0, MAX_SIZE, usize::MAX).await.unwrap();
    assert!(extents.len() > 10);
    let index = |at| disk.disk.shards.index(at);
    let mut at = 0;
    for run in extents {
        let status = if index(at) == 1 { Status::DATA } else { Status::HOLE };
        assert_eq!(run.status, status);
        at += run.length;
    }
}

/// The component that is built in.
mod memory {
    use super::super::{AMPLE, config};
    use super::*;
    use crate::component::tests::LONG;
    use crate::component::{BuiltIn, Engine};
    use crate::device::guest::DiskConfig;
    use crate::parameters::{Argument, Value};

    async fn open(size: u64, max_memory: u64) -> Client {
        let memory = BuiltIn::find("memory").unwrap();
        let component = Engine::new(LONG).load_built_in(memory).await.unwrap();
        let arguments = vec![Argument { name: "size".into(), value: Value::Size(size) }];
        Client::open(DiskConfig { arguments, ..config(component, max_memory) }).await.unwrap()
    }

    #[tokio::test]
    async fn both_ends_of_the_largest_disk() {
        let disk = open(MAX_SIZE, AMPLE).await;
        let end = MAX_SIZE - 4096;
        disk.write(0, &[1; 4096], false).await.unwrap();
        disk.write(end, &[2; 4096], false).await.unwrap();
        let extents = disk.extents(0, MAX_SIZE, 10).await.unwrap();
        let statuses: Vec<Status> = extents.iter().map(|extent| extent.status).collect();
        assert_eq!(statuses, [Status::DATA, Status::HOLE, Status::DATA]);
        assert_eq!(extents.iter().map(|extent| extent.length).sum::<u64>(), MAX_SIZE);
        assert_eq!(disk.extents(0, MAX_SIZE, 1).await.unwrap(), extents[..1]);
        disk.zero(0, MAX_SIZE).await.unwrap();
        assert_eq!(disk.read(end, 4096).await.unwrap(), [0; 4096]);
        let extents = disk.extents(0, MAX_SIZE, 10).await.unwrap();
        assert!(extents.iter().all(|extent| extent.status.zero), "{extents:?}");
    }

    #[tokio::test]
    async fn trim_of_everything_gives_the_memory_back() {
        let disk = open(256 << 20, AMPLE).await;
        let at_first = disk.disk.memory().used();
        for round in 1..3 {
            for at in (0..64 * MIB).step_by(MIB as usize) {
                disk.write(at, &vec![round; MIB as usize], false).await.unwrap();
            }
            assert!(disk.disk.memory().used() >= 64 * MIB);
            disk.trim(0, 256 * MIB).await.unwrap();
            let used = disk.disk.memory().used();
            assert!(used <= at_first, "{used} bytes are left of {at_first}");
            assert_eq!(disk.read(MIB, 4096).await.unwrap(), [0; 4096]);
        }
    }

    #[tokio::test]
    async fn full_disk_refuses_and_goes_on() {
        use crate::block::ErrorCode;
        let disk = open(1 << 30, 128 * MIB).await;
        let mut at = 0;
        let refused = loop {
            match disk.write(at, &vec![7; MIB as usize], false).await {
                Ok(()) => at += MIB,
                Err(code) => break code,
            }
        };
        assert!(matches!(refused, ErrorCode::NoSpc | ErrorCode::NoMem), "{refused:?}");
        assert!(at > 16 * MIB, "refused at {at}");
        assert!(disk.disk.memory().used() <= 128 * MIB);
        for at in (0..at).step_by(MIB as usize) {
            assert_eq!(disk.read(at, MIB).await.unwrap(), vec![7; MIB as usize]);
        }
        for at in (at + MIB..1024 * MIB).step_by(MIB as usize) {
            disk.read(at, 4096).await.unwrap();
        }
        disk.trim(0, 8 * MIB).await.unwrap();
        disk.write(at, &vec![7; MIB as usize], false).await.unwrap();
        assert!(!disk.disk.is_dead());
    }
}
