//! Random commands against a model of the disk that is plain bytes.

use std::ops::Range;

use fastrand::Rng;

use super::{Client, MIB, open};
use crate::component::tests::guest::{Guest, can};
use crate::device::tests::Requests;

/// A part of a disk that nobody else changes, and what is in it.
struct Model {
    range: Range<u64>,
    bytes: Vec<u8>,
    random: Rng,
    minimum: u64,
}

impl Model {
    fn new(range: Range<u64>, seed: u64, minimum: u64) -> Self {
        let bytes = vec![0; (range.end - range.start) as usize];
        Self { range, bytes, random: Rng::with_seed(seed), minimum }
    }

    /// Somewhere in the range: often short, often aligned, sometimes all of it.
    fn span(&mut self) -> Range<u64> {
        let length = self.range.end - self.range.start;
        let longest = [16, 700, 9000, 140_000, length][self.random.u64(..5) as usize].min(length);
        let span = 1 + self.random.u64(..longest);
        let start = self.range.start + self.random.u64(..length - span + 1);
        let mut span = start..start + span;
        if self.random.u64(..3) == 0 {
            let mask = !4095;
            let aligned = (span.start & mask).max(self.range.start)..span.end & mask;
            if aligned.start < aligned.end {
                span = aligned;
            }
        }
        span
    }

    fn bytes(&mut self, span: &Range<u64>) -> &mut [u8] {
        let start = self.range.start;
        &mut self.bytes[(span.start - start) as usize..(span.end - start) as usize]
    }

    async fn step(&mut self, disk: &Client) {
        let span = self.span();
        let (offset, length) = (span.start, span.end - span.start);
        match self.random.u64(..9) {
            0..=2 => {
                let seed = self.random.u8(..);
                let data: Vec<u8> = (0..length).map(|n| (n as u8).wrapping_mul(7) ^ seed).collect();
                disk.write(offset, &data, seed.is_multiple_of(4)).await.unwrap();
                self.bytes(&span).copy_from_slice(&data);
            }
            3 => {
                disk.zero(offset, length).await.unwrap();
                self.bytes(&span).fill(0);
            }
            4 => {
                disk.trim(offset, length).await.unwrap();
                let blocks = span.start.next_multiple_of(self.minimum)
                    ..span.end / self.minimum * self.minimum;
                if blocks.start < blocks.end {
                    self.bytes(&blocks).fill(0);
                }
            }
            5 => disk.cache(offset, length).await.unwrap(),
            6 => self.check_extents(disk, &span).await,
            _ => {
                let content = disk.read(offset, length).await.unwrap();
                assert!(content == self.bytes(&span), "{span:?}");
            }
        }
    }

    async fn check_extents(&mut self, disk: &Client, span: &Range<u64>) {
        let limit = 1 + self.random.u64(..20) as usize;
        let extents = disk.extents(span.start, span.end - span.start, limit).await.unwrap();
        assert!(!extents.is_empty() && extents.len() <= limit);
        let mut at = span.start;
        for pair in extents.windows(2) {
            assert_ne!(pair[0].status, pair[1].status);
        }
        for extent in &extents {
            let run = at..at + extent.length;
            assert!(extent.length > 0 && run.end <= span.end);
            assert!(!extent.status.zero || self.bytes(&run).iter().all(|&byte| byte == 0));
            at = run.end;
        }
        assert!(at == span.end || extents.len() == limit, "it ended early");
    }

    async fn check(&self, disk: &Client) {
        let length = self.range.end - self.range.start;
        let content = disk.read(self.range.start, length).await.unwrap();
        assert!(content == self.bytes, "{:?}", self.range);
    }
}

fn guests() -> Vec<(u64, Guest)> {
    let mut guests = Vec::new();
    let poor = Guest::new().lending().opened(|disk| disk.capabilities = can::WRITABLE | can::TRIM);
    for minimum in [1, 512, 4096] {
        for guest in [Guest::new(), poor.clone()] {
            for stripe in [0, 1 << 16] {
                let guest = guest.clone().opened(|disk| {
                    disk.minimum_block = minimum;
                    disk.maximum_transfer = 32768;
                    disk.stripe = stripe;
                });
                guests.push((u64::from(minimum), guest));
            }
        }
    }
    guests
}

#[tokio::test]
async fn disk_does_what_plain_bytes_do() {
    for (seed, (minimum, guest)) in (1..).zip(guests()) {
        let disk = open(&guest).await;
        let mut model = Model::new(0..MIB, seed, minimum);
        for _ in 0..200 {
            model.step(&disk).await;
        }
        model.check(&disk).await;
    }
}

/// Tasks whose parts of the disk meet within blocks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_within_a_block_do_not_disturb_each_other() {
    for (seed, (minimum, guest)) in (100..).step_by(10).zip(guests()) {
        let disk = open(&guest).await;
        let borders = [0, 3 * 4096 + 17, 5 * 4096 + 1033, 5 * 4096 + 2000, 9 * 4096 - 1, MIB];
        let mut tasks = tokio::task::JoinSet::new();
        for (number, border) in (1..).zip(borders.windows(2)) {
            let disk = disk.clone();
            // Trims and extents that reach over the end of a part would be another's.
            let mut model = Model::new(border[0]..border[1], seed + number, minimum);
            tasks.spawn(async move {
                for _ in 0..100 {
                    model.step(&disk).await;
                }
                model.check(&disk).await;
            });
        }
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
    }
}
