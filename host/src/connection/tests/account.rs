//! The account of an export: each request is counted once, whichever way it takes.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::client::*;
use super::native::{LEASED, Native};
use super::*;
use crate::block::Operation;
use crate::device::Totals;
use crate::exports::Export;

const FAST_ZERO: u16 = 1 << 4;

/// Requests, bytes and errors of an operation.
fn counts(totals: &Totals, operation: Operation) -> [u64; 3] {
    let totals = totals.of(operation);
    [totals.requests, totals.bytes, totals.errors]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_is_counted_once() {
    for style in STYLES {
        let export = Export::of_device("disk", Native::new());
        let (context, _phase) = context_of_exports(vec![export.clone()]);
        let mut client = Client::over_socket(&context, style).await;
        // With a lease and without one, at once and in parts, and over the border.
        for (at, length) in [(0, 10), (LEASED, 10), (0, 1 << 20), (LEASED - 5, 10)] {
            assert_eq!(client.call(WRITE, at, length).await.error, 0);
            assert_eq!(client.call(READ, at, length).await.error, 0);
        }
        // In pieces.
        assert_eq!(client.call(READ, LEASED - (3 << 20), 6 << 20).await.error, 0);
        assert_eq!(client.call(TRIM, 0, 5).await.error, 0);
        assert_eq!(client.call(FLUSH, 0, 0).await.error, 0);
        assert_eq!(client.call(CACHE, 0, 5).await.error, 0);
        assert_eq!(client.call(WRITE_ZEROES, 0, 5).await.error, 0);
        // Two that fail and two that are refused, in one batch, and one that does not get to its end.
        let batch = [
            request(style, FAST_ZERO, WRITE_ZEROES, 91, 0, 5),
            request(style, FAST_ZERO, WRITE_ZEROES, 92, 0, 5),
            request(style, 0, TRIM, 93, 8 << 20, 1),
            request(style, 0, 99, 94, 0, 1),
            request(style, 0, WRITE, 95, 0, 10),
        ];
        client.forget();
        client.stream.write_all(&batch.concat()).await.unwrap();
        client.replies(4).await;

        // A batch is counted after its replies were sent.
        client.stream.shutdown().await.unwrap();
        client.serving.await.unwrap();
        let totals = export.account().totals();
        let written = 10 + 10 + (1 << 20) + 10;
        assert_eq!(counts(&totals, Operation::Write), [4, written, 0]);
        assert_eq!(counts(&totals, Operation::Read), [5, written + (6 << 20), 0]);
        assert_eq!(counts(&totals, Operation::Trim), [1, 5, 0]);
        assert_eq!(counts(&totals, Operation::Flush), [1, 0, 0]);
        assert_eq!(counts(&totals, Operation::Cache), [1, 5, 0]);
        assert_eq!(counts(&totals, Operation::Zero), [3, 5, 2]);
        assert_eq!(counts(&totals, Operation::Extents), [0, 0, 0]);
        assert_eq!(totals.refused, 2);
        for (operation, totals) in totals.iter() {
            let timed: u64 = totals.latency.buckets().map(|(_, count)| count).sum();
            assert_eq!(timed, totals.requests, "{operation:?}");
            assert_eq!(totals.latency.sum() > Duration::ZERO, timed > 0);
        }
    }
}

#[tokio::test]
async fn the_account_outlives_the_device() {
    let first = Native::new();
    let export = Export::of_device("disk", first.clone());
    let (context, _phase) = context_of_exports(vec![export.clone()]);
    let mut client = Client::new(&context, ReplyStyle::Simple).await;
    assert_eq!(client.call(READ, 0, 10).await.error, 0);
    export.replace(first.same_bytes(), PATIENCE).await.unwrap();
    assert_eq!(client.call(READ, 0, 10).await.error, 0);
    client.stream.shutdown().await.unwrap();
    client.serving.await.unwrap();
    assert_eq!(counts(&export.account().totals(), Operation::Read), [2, 20, 0]);
}
