//! Clients of an export that is not there yet.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::client::{Client, READ, context_of, info, option};
use crate::component::LoadError;
use crate::connection::{Context, End, Phase, serve};
use crate::exports::tests::{Scripted, deadline, scripted};
use crate::exports::{Exports, Stage};
use crate::nbd::ReplyStyle;

/// A server of one export that is told when to be there.
async fn waiting(
    failures: fn(usize) -> Option<LoadError>,
) -> (Context, tokio::sync::watch::Sender<Phase>, Scripted) {
    let (export, source) = scripted(failures).await;
    let (mut context, phase) = context_of(Vec::new());
    context.exports = Arc::new(Exports::only(export));
    (context, phase, source)
}

#[tokio::test]
async fn time_in_which_an_export_is_compiled_does_not_count() {
    let (mut context, _phase, source) = waiting(|_| None).await;
    context.handshake_timeout = Some(Duration::from_secs(2));
    let client = tokio::spawn({
        let context = context.clone();
        async move { Client::new(&context, ReplyStyle::Structured).await }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    let described = context.exports.list()[0].description();
    assert_eq!(described, Stage::Compiling.to_string());
    source.go.add_permits(1);
    let mut client = client.await.unwrap();
    assert_eq!(client.call(READ, 0, 512).await.error, 0);
}

#[tokio::test]
async fn who_is_slow_besides_is_too_late() {
    let (mut context, _phase, source) = waiting(|_| None).await;
    context.handshake_timeout = Some(Duration::from_millis(500));
    source.go.add_permits(1);
    let (mut client, server) = duplex(64 << 10);
    let serving = tokio::spawn(serve(server, context));
    client.write_all(&[&[0, 0, 0, 3][..], &option(6, &info("disk", &[]))].concat()).await.unwrap();
    assert!(matches!(serving.await.unwrap(), End::HandshakeTimeout));
}

#[tokio::test]
async fn failure_is_told_with_its_reason_and_haggling_goes_on() {
    let (context, _phase, source) = waiting(|call| Some(deadline(call))).await;
    source.go.add_permits(1);
    let (mut client, server) = duplex(64 << 10);
    let serving = tokio::spawn(serve(server, context));
    let options = [option(6, &info("disk", &[])), option(7, &info("disk", &[])), option(2, b"")];
    client.write_all(&[&[0, 0, 0, 3][..], &options.concat()].concat()).await.unwrap();
    let mut answers = Vec::new();
    client.read_to_end(&mut answers).await.unwrap();
    let text = String::from_utf8_lossy(&answers);
    let reason = "load component x.wasm: the component did not return within its deadline";
    assert_eq!(text.matches(reason).count(), 2, "{text}");
    assert!(matches!(serving.await.unwrap(), End::Disconnected));
}

#[tokio::test]
async fn server_that_stops_waits_for_no_export() {
    let (context, phase, _source) = waiting(|_| None).await;
    let (mut client, server) = duplex(64 << 10);
    let serving = tokio::spawn(serve(server, context));
    client.write_all(&[&[0, 0, 0, 3][..], &option(7, &info("disk", &[]))].concat()).await.unwrap();
    tokio::task::yield_now().await;
    phase.send(Phase::Closing).unwrap();
    assert!(matches!(serving.await.unwrap(), End::Stopped));
}
