//! Exports on whose content another one relies.

use std::sync::Arc;

use super::client::*;
use super::native::Native;
use super::*;
use crate::device::LowerSource;
use crate::exports::{Export, KnownExports, LowerExport};
use crate::parameters::Link;

const PERM: u32 = 1;

/// Whatever the client makes of the flags that it was told.
#[tokio::test]
async fn writes_of_clients_are_refused_while_another_export_relies_on_the_content() {
    let (context, _phase) = context_of_exports(vec![Export::of_device("disk", Native::new())]);
    let exports = KnownExports::default();
    exports.set(Arc::downgrade(&context.exports)).unwrap();
    let link = Link { unshared: true, ..Link::default() };
    let lower = LowerExport { exports, upper: "top".into(), name: "disk".into(), link };

    let writer = Client::new(&context, ReplyStyle::Simple).await;
    let refused = lower.open(None).await.map(drop).unwrap_err();
    assert!(refused.may_pass && refused.message.contains("1 clients"), "{}", refused.message);
    drop(writer);
    let opened = async {
        loop {
            match lower.open(None).await {
                Ok(lower) => break lower,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let relying = tokio::time::timeout(PATIENCE, opened).await.expect("the client has left");
    for style in STYLES {
        let mut client = Client::new(&context, style).await;
        assert_eq!(client.call(READ, 0, 512).await.error, 0);
        assert_eq!(client.call(WRITE, 0, 512).await.error, PERM, "{style:?}");
    }
    drop(relying);
    let mut client = Client::new(&context, ReplyStyle::Simple).await;
    assert_eq!(client.call(WRITE, 0, 512).await.error, 0);
}
