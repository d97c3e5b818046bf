//! Copies between devices in vectors.

use super::super::stacked::tests::native::Native;
use super::target::{GRANULE, run};
use super::*;
use crate::block::ErrorCode;

const MIB: u64 = 1 << 20;

async fn copied(source: &Arc<Native>, destination: &Arc<Native>) -> Result<Vec<u64>, CopyError> {
    let mut told = Vec::new();
    let tell = |done| told.push(done);
    copy(source.clone(), destination.clone(), Cancelled::default(), tell).await.map(|()| told)
}

fn fill(device: &Native, range: std::ops::Range<u64>, byte: u8) {
    device.bytes.lock().unwrap()[range.start as usize..range.end as usize].fill(byte);
}

fn content(device: &Native) -> Vec<u8> {
    device.bytes.lock().unwrap().clone()
}

fn spans(device: &Native, operation: Operation) -> Vec<Span> {
    let log = device.take_log().into_iter();
    let mut spans: Vec<_> =
        log.filter(|one| one.operation() == operation).map(|one| one.span()).collect();
    spans.sort_by_key(|span| span.offset);
    spans
}

#[tokio::test]
async fn holes_are_neither_read_nor_written() {
    let (source, destination) = (Native::new(8 * MIB), Native::new(8 * MIB));
    fill(&source, 3 * MIB..4 * MIB, 7);
    fill(&source, 8 * MIB - 1..8 * MIB, 9);
    let told = copied(&source, &destination).await.unwrap();
    assert_eq!(told.last(), Some(&(8 * MIB)));
    assert!(told.is_sorted());
    assert_eq!(content(&destination), content(&source));
    let data = [Span { offset: 3 * MIB, length: MIB }, Span { offset: 8 * MIB - 1, length: 1 }];
    assert_eq!(spans(&source, Operation::Read), data);
    let log = destination.take_log();
    assert_eq!(log.iter().filter(|one| one.operation() == Operation::Write).count(), 2);
    assert!(!log.iter().any(|one| one.operation() == Operation::Zero), "it was blank");
    assert_eq!(log.last(), Some(&Command::Flush));
}

#[test]
fn zeroes_among_data_are_found_by_granules_of_the_disk() {
    let granule = GRANULE as usize;
    let mut data = vec![0; 3 * granule];
    data[granule + 5] = 1;
    assert_eq!(run(0, &data), (granule, true));
    assert_eq!(run(GRANULE, &data[granule..]), (granule, false));
    assert_eq!(run(2 * GRANULE, &data[2 * granule..]), (granule, true));
    assert_eq!(run(GRANULE - 1, &[0, 1]), (1, true), "the second is in the next granule");
    assert_eq!(run(0, &[0, 1]), (2, false));
}

#[tokio::test]
async fn what_was_on_the_disk_is_gone() {
    let (source, destination) = (Native::new(4 * MIB), Native::new(6 * MIB));
    fill(&source, MIB..2 * MIB + 100, 7);
    fill(&destination, 0..5 * MIB, 1);
    copied(&source, &destination).await.unwrap();
    let mut expected = content(&source);
    expected.resize(6 << 20, 0);
    assert_eq!(content(&destination), expected);
    let log = destination.take_log();
    let zeroed = log.iter().filter(|one| one.operation() == Operation::Zero);
    assert!(zeroed.map(|one| one.span().end()).max() <= Some(5 * MIB), "the rest was zero");
}

#[tokio::test]
async fn disks_without_zeroing_are_zeroed_by_writes() {
    let source = Native::new(MIB);
    let destination = Native::with(2 * MIB, |offers| offers.zero = false);
    fill(&destination, 0..2 * MIB, 1);
    copied(&source, &destination).await.unwrap();
    assert_eq!(content(&destination), vec![0; 2 << 20]);
}

#[tokio::test]
async fn larger_sources_and_read_only_disks_are_refused_before_anything_is_written() {
    let source = Native::new(MIB + 1).numbered(1);
    let destination = Native::new(MIB);
    let error = copied(&source, &destination).await.unwrap_err();
    assert_eq!(error, CopyError::TooLarge { source: MIB + 1, destination: MIB });
    assert_eq!(destination.take_log(), []);
    let destination = Native::with(2 * MIB, |offers| offers.writable = false);
    assert_eq!(copied(&source, &destination).await, Err(CopyError::ReadOnly));
    assert_eq!(destination.take_log(), []);
}

#[tokio::test]
async fn errors_in_the_middle_end_the_copy() {
    for (of_source, operation) in [(true, Operation::Read), (false, Operation::Write)] {
        let (source, destination) = (Native::new(32 * MIB), Native::new(32 * MIB));
        fill(&source, 0..32 * MIB, 7);
        let failing = if of_source { &source } else { &destination };
        failing.fail(operation, 5 * MIB, ErrorCode::NoSpc);
        let error = copied(&source, &destination).await.unwrap_err();
        let span = Span { offset: 5 * MIB, length: MIB };
        let cause = ErrorCode::NoSpc.into();
        assert_eq!(error, CopyError::Failed { of_source, operation, span, error: cause });
        assert!(error.to_string().contains("(5242880, 1048576)"), "{error}");
        assert_eq!(content(&destination).last(), Some(&0), "it did not go on");
    }
}

#[tokio::test]
async fn a_failed_flush_fails_the_copy() {
    let (source, destination) = (Native::new(MIB), Native::new(MIB));
    destination.fail_flushes();
    let error = copied(&source, &destination).await.unwrap_err();
    assert!(matches!(error, CopyError::Failed { operation: Operation::Flush, .. }), "{error}");
}

#[tokio::test]
async fn few_pieces_are_in_flight() {
    let (source, destination) = (Native::new(32 * MIB), Native::new(32 * MIB));
    fill(&source, 0..32 * MIB, 7);
    copied(&source, &destination).await.unwrap();
    let most = source.most_under_way.load(std::sync::atomic::Ordering::Relaxed);
    assert!((1..=IN_FLIGHT).contains(&most), "{most}");
}

#[tokio::test]
async fn a_cancelled_copy_ends() {
    let (source, destination) = (Native::new(32 * MIB), Native::new(32 * MIB));
    fill(&source, 0..32 * MIB, 7);
    let cancelled = Cancelled::default();
    let tell = |_| cancelled.cancel();
    let ended = copy(source.clone(), destination.clone(), cancelled.clone(), tell).await;
    assert_eq!(ended, Err(CopyError::Cancelled));
    assert_eq!(content(&destination).last(), Some(&0), "it did not go on");
    assert!(!destination.take_log().contains(&Command::Flush));
}

async fn streamed(source: &[u8], destination: &Arc<Native>) -> Result<Vec<u64>, CopyError> {
    let mut told = Vec::new();
    let tell = |done| told.push(done);
    let destination = destination.clone();
    copy_stream(source, destination, Cancelled::default(), tell).await.map(|()| told)
}

#[tokio::test]
async fn streams_replace_what_was_on_the_disk() {
    let destination = Native::new(4 * MIB);
    fill(&destination, 0..4 * MIB, 1);
    let mut stream = vec![0; (2 * MIB + 5) as usize];
    stream[MIB as usize..].fill(7);
    assert_eq!(streamed(&stream, &destination).await.unwrap().last(), Some(&(2 * MIB + 5)));
    stream.resize(4 << 20, 0);
    assert_eq!(content(&destination), stream);
    let log = destination.take_log();
    assert_eq!(log.last(), Some(&Command::Flush));
    let written = log.iter().filter(|one| one.operation() == Operation::Write);
    assert!(written.map(|one| one.span().offset).min() >= Some(MIB), "zeroes are not written");
}

#[tokio::test]
async fn streams_are_cut_off_at_no_place() {
    let destination = Native::new(2 * MIB);
    let whole = vec![7; 2 << 20];
    streamed(&whole, &destination).await.unwrap();
    assert_eq!(content(&destination), whole);
    let error = streamed(&vec![8; (2 << 20) + 1], &destination).await.unwrap_err();
    assert_eq!(error, CopyError::StreamTooLong { destination: 2 * MIB });
    let failing = failing_stream();
    let error = copy_stream(failing, destination, Cancelled::default(), |_| ()).await;
    assert_eq!(error, Err(CopyError::Stream(io::ErrorKind::TimedOut)));
}

/// A stream that fails after some bytes.
fn failing_stream() -> impl AsyncRead + Unpin {
    struct Failing;
    impl AsyncRead for Failing {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
        }
    }
    AsyncReadExt::chain(&[1; 1000][..], Failing)
}
