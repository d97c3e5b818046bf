//! Connections to a device over a file, some of whose requests are not ready at once.

use std::fs::File;
use std::sync::Arc;

use super::client::*;
use super::*;
use crate::block::MAX_TRANSFER;
use crate::device::Buffers;
use crate::device::file::{Access, FileDevice, FileOptions, PageCache, Source};
use crate::exports::Export;

const SIZE: u64 = 32 << 20;

fn device(page_cache: PageCache) -> Arc<FileDevice> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    device_of(file, page_cache, MAX_TRANSFER.into())
}

/// A device over a file that is open, with a budget for the payloads of requests.
pub(super) fn device_of(file: File, page_cache: PageCache, buffers: u64) -> Arc<FileDevice> {
    let device = FileDevice::open(FileOptions {
        source: Source::Descriptor(file.into()),
        export_name: "disk".into(),
        read_only: false,
        access: Access::Normal,
        page_cache,
        buffers: Buffers::own(buffers),
    });
    Arc::new(device.unwrap())
}

#[tokio::test]
async fn file_is_served_as_a_guest_is() {
    for style in STYLES {
        for page_cache in [PageCache::Default, PageCache::None] {
            let device = device(page_cache);
            let (context, _phase) = context_of_exports(vec![Export::of_device("disk", device)]);
            let mut client = Client::over_socket(&context, style).await;

            // From a few bytes to more than one piece of a reply.
            for length in [1, 4096, 1 << 20, 10 << 20] {
                assert_eq!(client.call(WRITE, 4095, length).await.error, 0);
                let read = client.call(READ, 4094, length + 2).await;
                assert_eq!(read.error, 0);
                let (first, rest) = read.data.split_first().unwrap();
                let (last, written) = rest.split_last().unwrap();
                assert_eq!((*first, *last), (0, 0));
                assert!(written.iter().all(|&byte| byte == 0x77));
                assert_eq!(client.call(WRITE_ZEROES, 0, 11 << 20).await.error, 0);
            }

            assert_eq!(client.call(WRITE, 0, 8192).await.error, 0);
            assert_eq!(client.call(WRITE_ZEROES, 100, 100).await.error, 0);
            assert_eq!(client.call(TRIM, 4096, 4096).await.error, 0);
            let read = client.call(READ, 99, 102).await.data;
            assert_eq!(read, [[0x77].as_slice(), &[0; 100], &[0x77]].concat());
            assert_eq!(client.call(FLUSH, 0, 0).await.error, 0);
        }
    }
}
