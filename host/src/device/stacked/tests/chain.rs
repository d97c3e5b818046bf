//! A chain of components against a byte array, by random operations of several clients at once.

use fastrand::Rng;

use super::copies::{EXCLUSIVE_WRITES, cow};
use super::*;
use crate::device::guest::tests_device;

const BLOCK: u64 = 4096;

/// A part of each block, which belongs to one client, and what is in it.
struct Model {
    client: Client,
    random: Rng,
    /// The part of each block.
    part: std::ops::Range<u64>,
    bytes: Vec<u8>,
}

impl Model {
    async fn run(mut self, steps: usize) {
        for _ in 0..steps {
            self.step().await;
        }
        for block in 0..MIB / BLOCK {
            let length = self.part.end - self.part.start;
            self.check(block * BLOCK + self.part.start, length).await;
        }
    }

    async fn step(&mut self) {
        // Few blocks at first, so that clients meet.
        let blocks = if self.random.bool() { 4 } else { MIB / BLOCK };
        let block = self.random.u64(..blocks);
        let start = self.random.u64(self.part.clone());
        let end = self.random.u64(start + 1..=self.part.end);
        let (offset, length) = (block * BLOCK + start, end - start);
        let place = offset as usize..(offset + length) as usize;
        match self.random.u8(..5) {
            0 | 1 => {
                let byte = self.random.u8(..);
                let data = vec![byte; length as usize];
                self.client.write(offset, &data, byte.is_multiple_of(4)).await.unwrap();
                self.bytes[place].copy_from_slice(&data);
            }
            2 => {
                self.client.zero(offset, length).await.unwrap();
                self.bytes[place].fill(0);
            }
            3 => {
                let extents = self.client.extents(offset, length, 9).await.unwrap();
                let mut at = offset as usize;
                for extent in extents {
                    let run = at..at + extent.length as usize;
                    at = run.end;
                    assert!(!extent.status.zero || self.bytes[run].iter().all(|&byte| byte == 0));
                }
            }
            _ => self.check(offset, length).await,
        }
    }

    async fn check(&self, offset: u64, length: u64) {
        let bytes = self.client.read(offset, length).await.unwrap();
        assert!(bytes == self.bytes[offset as usize..(offset + length) as usize], "{offset}");
    }
}

/// filter, routed one by one -> filter, stable -> cow -> base (native) and overlay (a guest).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn chain_does_what_plain_bytes_do() {
    for seed in 0..4 {
        let base = Native::new(MIB).numbered(1);
        let bytes = base.bytes.lock().unwrap().clone();
        let overlay = Guest::new().opened(|disk| disk.stripe = 1 << 16);
        let overlay = tests_device(load(&overlay).await).await;
        let layer = open(&cow(EXCLUSIVE_WRITES), &[base.clone(), overlay]).await.unwrap();
        let stable = routing(1, [0; 5], "(unreachable)").with("stable", STABLE);
        let stable = open(&stable, &[layer.0]).await.unwrap();
        let client = open(&routing(1, [0; 5], PASS_AND_TELL), &[stable.0]).await.unwrap();
        let parts = [0, 100, 512, 2000, BLOCK];
        let mut tasks = tokio::task::JoinSet::new();
        for (number, part) in (0..).zip(parts.windows(2)) {
            let (client, bytes) = (client.clone(), bytes.clone());
            let random = Rng::with_seed(seed * 10 + number);
            let model = Model { client, random, part: part[0]..part[1], bytes };
            tasks.spawn(model.run(150));
        }
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
        assert!(*base.bytes.lock().unwrap() == bytes, "the base is as it was");
    }
}

/// Without the lock, the same clients lose updates: the test above can fail.
#[tokio::test]
async fn chain_without_locks_loses_updates() {
    let base = Native::new(MIB).numbered(1);
    let overlay = Native::new(MIB);
    let client = client(&cow([0; 5]), &[&base, &overlay]).await;
    base.hold();
    let writes: Vec<_> = [0, 512]
        .map(|offset| {
            client
                .spawn(move |client| async move { client.write(offset, &[200; 512], false).await })
        })
        .into();
    base.until_under_way(2).await;
    base.release();
    for write in writes {
        write.await.unwrap().unwrap();
    }
    let block = client.read(0, 1024).await.unwrap();
    assert!(block[0] != 200 || block[512] != 200, "both copied the old block");
}
