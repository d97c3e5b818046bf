//! What the host does for components that cannot, and how it splits what is too long.

use super::{AMPLE, Client, MIB, config, load, open};
use crate::block::{Command, ErrorCode, Extent, Span, Status};
use crate::component::tests::LONG;
use crate::component::tests::guest::Called::{
    self, Cache, Extents, Flush, Read, Trim, Write, Zero,
};
use crate::component::tests::guest::{Guest, can};
use crate::device::Device;
use crate::device::tests::Requests;

async fn open_with(capabilities: u16) -> Client {
    open(&Guest::new().opened(|disk| disk.capabilities = capabilities)).await
}

async fn zero(disk: &Client, fua: bool, keep_allocated: bool, fast: bool) -> Result<(), ErrorCode> {
    let span = Span { offset: 0, length: 4096 };
    let command = Command::Zero { span, fua, keep_allocated, fast };
    disk.execute(command, Vec::new()).await.map(drop)
}

async fn trim(disk: &Client, fua: bool) {
    let span = Span { offset: 0, length: 4096 };
    disk.execute(Command::Trim { span, fua }, Vec::new()).await.unwrap();
}

fn functions(log: &[(Called, u64, u64)]) -> Vec<Called> {
    log.iter().map(|call| call.0).collect()
}

#[tokio::test]
async fn zero_is_emulated_by_writing() {
    let disk = open_with(can::WRITABLE | can::FLUSH).await;
    assert!(disk.disk.geometry().capabilities.zero);
    assert!(!disk.disk.geometry().capabilities.fast_zero);
    disk.write(0, &[7; 1 << 20], false).await.unwrap();
    disk.log().await;
    disk.zero(100, 600_000).await.unwrap();
    let kib256 = 256 << 10;
    let expected = [
        (Write(false), 100, kib256),
        (Write(false), 100 + kib256, kib256),
        (Write(false), 100 + 2 * kib256, 600_000 - 2 * kib256),
    ];
    assert_eq!(disk.log().await, expected);
    let content = disk.read(0, MIB).await.unwrap();
    assert!(content[100..600_100].iter().all(|&byte| byte == 0));
    assert!(content[..100].iter().chain(&content[600_100..]).all(|&byte| byte == 7));
}

#[tokio::test]
async fn zeroes_that_would_take_years_are_refused() {
    let huge = |capabilities| {
        Guest::new().with("write", "(call $done)").with("zero", "(call $done)").opened(|disk| {
            disk.size = 1 << 62;
            disk.stripe = 1 << 30;
            disk.capabilities = capabilities;
        })
    };
    let zero = async |disk: &Client, length, keep_allocated, fast| {
        let span = Span { offset: 0, length };
        let command = Command::Zero { span, fua: false, keep_allocated, fast };
        disk.execute(command, Vec::new()).await.map(drop)
    };
    let disk = open(&huge(can::WRITABLE)).await;
    assert_eq!(zero(&disk, 1 << 62, false, false).await, Err(ErrorCode::Overflow));
    let disk = open(&huge(can::EVERYTHING)).await;
    assert_eq!(zero(&disk, 1 << 62, false, false).await, Ok(()), "a call for each instance");
    assert_eq!(zero(&disk, 1 << 32, true, false).await, Ok(()));
    assert_eq!(zero(&disk, 1 << 62, true, false).await, Err(ErrorCode::Overflow));
    assert_eq!(zero(&disk, 1 << 62, true, true).await, Err(ErrorCode::NotSup));
    // One that answers that it cannot.
    let disk = open(&huge(can::EVERYTHING).with("zero", "(call $fail (i32.const 6))")).await;
    assert_eq!(zero(&disk, 1 << 62, false, false).await, Err(ErrorCode::Overflow));
    assert_eq!(zero(&disk, 1 << 62, false, true).await, Err(ErrorCode::NotSup));
}

#[tokio::test]
async fn fua_is_passed_on_or_emulated_by_a_flush_or_not_needed() {
    let with_flush = can::WRITABLE | can::FLUSH | can::TRIM | can::ZERO;
    let without = can::WRITABLE | can::TRIM | can::ZERO;
    let cases = [
        (can::EVERYTHING, vec![Write(true), Zero(1), Trim(true)]),
        (with_flush, vec![Write(false), Flush, Zero(0), Flush, Trim(false), Flush]),
        (without, vec![Write(false), Zero(0), Trim(false)]),
    ];
    for (capabilities, expected) in cases {
        let disk = open_with(capabilities).await;
        assert!(disk.disk.geometry().capabilities.fua && disk.disk.geometry().capabilities.flush);
        disk.write(0, &[1], true).await.unwrap();
        zero(&disk, true, false, false).await.unwrap();
        trim(&disk, true).await;
        assert_eq!(functions(&disk.log().await), expected);
    }
    // Zeroes that are written, too.
    let disk = open_with(can::WRITABLE | can::FLUSH).await;
    zero(&disk, true, false, false).await.unwrap();
    assert_eq!(functions(&disk.log().await), [Write(false), Flush]);
}

#[tokio::test]
async fn flush_reaches_only_those_that_need_it() {
    let disk = open_with(can::EVERYTHING).await;
    disk.flush().await.unwrap();
    disk.disk.clone().last_flush().await.unwrap();
    assert_eq!(functions(&disk.log().await), [Flush, Flush]);
    let disk = open_with(can::EVERYTHING & !can::FLUSH & !can::FUA).await;
    disk.flush().await.unwrap();
    disk.disk.clone().last_flush().await.unwrap();
    assert_eq!(functions(&disk.log().await), []);
}

#[tokio::test]
async fn zero_options_are_passed_on() {
    let disk = open_with(can::EVERYTHING).await;
    zero(&disk, false, true, false).await.unwrap();
    zero(&disk, false, false, true).await.unwrap();
    zero(&disk, true, true, true).await.unwrap();
    assert_eq!(functions(&disk.log().await), [Zero(2), Zero(4), Zero(7)]);
}

#[tokio::test]
async fn fast_zero_that_is_slow_changes_nothing() {
    let guest = Guest::new()
        .with("zero", "(call $fail (i32.const 6))")
        .opened(|disk| (disk.minimum_block, disk.preferred_block) = (512, 4096));
    let disk = open(&guest).await;
    disk.write(0, &[7; 8192], false).await.unwrap();
    for span in [(0, 4096), (100, 4096), (100, 100)] {
        let span = Span { offset: span.0, length: span.1 };
        let command = Command::Zero { span, fua: false, keep_allocated: false, fast: true };
        let answer = disk.execute(command, Vec::new()).await.map(drop);
        assert_eq!(answer, Err(ErrorCode::NotSup));
    }
    assert_eq!(disk.read(0, 8192).await.unwrap(), [7; 8192]);
    // One that may be slow is written.
    disk.zero(0, 4000).await.unwrap();
    assert_eq!(disk.read(0, 8192).await.unwrap(), [[0; 4000].as_slice(), &[7; 4192]].concat());
}

#[tokio::test]
async fn without_extents_everything_is_data() {
    let disk = open_with(can::EVERYTHING & !can::EXTENTS).await;
    let extents = disk.extents(100, MIB - 100, 10).await.unwrap();
    assert_eq!(extents, [Extent { length: MIB - 100, status: Status::DATA }]);
    assert_eq!(disk.log().await, []);
}

#[tokio::test]
async fn what_cannot_be_emulated_is_not_offered() {
    let capabilities = open_with(can::WRITABLE).await.disk.geometry().capabilities;
    assert!(capabilities.writable && capabilities.zero);
    assert!(!capabilities.trim && !capabilities.fast_zero && !capabilities.cache);
    let capabilities =
        open_with(can::EVERYTHING & !can::WRITABLE).await.disk.geometry().capabilities;
    assert!(!capabilities.writable && !capabilities.zero && !capabilities.trim);
    assert!(!capabilities.fast_zero && capabilities.cache);
    let component = load(&Guest::new(), LONG).await;
    let read_only = Client::open(super::DiskConfig { read_only: true, ..config(component, AMPLE) });
    let disk = read_only.await.unwrap();
    let capabilities = disk.disk.geometry().capabilities;
    assert!(!capabilities.writable && !capabilities.zero && !capabilities.trim);
    disk.disk.clone().last_flush().await.unwrap();
    assert_eq!(disk.log().await, [], "what was not written need not be flushed");
}

#[tokio::test]
async fn long_transfers_reach_the_component_in_parts_in_ascending_order() {
    let guest = Guest::new().opened(|disk| {
        (disk.minimum_block, disk.maximum_transfer) = (512, 65536);
    });
    let disk = open(&guest).await;
    assert_eq!(disk.disk.geometry().block_sizes.maximum, crate::block::MAX_TRANSFER);
    let data: Vec<u8> = (0..200 << 10).map(|n: u32| (n % 251) as u8).collect();
    disk.write(512, &data, true).await.unwrap();
    assert_eq!(disk.read(512, data.len() as u64).await.unwrap(), data);
    let parts = [(512, 65536), (66048, 65536), (131_584, 65536), (197_120, 8192)];
    let writes = parts.map(|(offset, length)| (Write(true), offset, length));
    let reads = parts.map(|(offset, length)| (Read, offset, length));
    assert_eq!(disk.log().await, [writes, reads].concat());
    // What has no payload is not split.
    disk.zero(0, MIB).await.unwrap();
    disk.trim(0, MIB).await.unwrap();
    disk.cache(0, MIB).await.unwrap();
    disk.extents(0, MIB, 1).await.unwrap();
    let expected = [Zero(0), Trim(false), Cache, Extents].map(|call| (call, 0, MIB));
    assert_eq!(disk.log().await, expected);
}

#[tokio::test]
async fn what_is_not_aligned_is_widened_or_narrowed() {
    let disk = open(&Guest::new().opened(|disk| disk.minimum_block = 512)).await;
    disk.read(100, 500).await.unwrap();
    disk.cache(100, 500).await.unwrap();
    disk.extents(100, 500, 1).await.unwrap();
    disk.trim(100, 1500).await.unwrap();
    disk.trim(100, 500).await.unwrap();
    let expected =
        [(Read, 0, 1024), (Cache, 0, 1024), (Extents, 0, 1024), (Trim(false), 512, 1024)];
    assert_eq!(disk.log().await, expected);
    disk.write(100, &[7; 2000], true).await.unwrap();
    let expected = [(Read, 0, 512), (Read, 2048, 512), (Write(true), 0, 2560)];
    assert_eq!(disk.log().await, expected);
}
