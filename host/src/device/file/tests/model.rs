//! Random commands against a model of the disk that is plain bytes.

use std::ops::Range;

use fastrand::Rng;

use super::*;

/// A part of a disk that nobody else changes, and what is in it.
pub(super) struct Model {
    range: Range<u64>,
    bytes: Vec<u8>,
    random: Rng,
    /// Trims zero multiples of this; `None` if they change nothing.
    trimmed: Option<u64>,
}

impl Model {
    pub(super) fn new(range: Range<u64>, seed: u64, trimmed: Option<u64>) -> Self {
        let bytes = vec![0; (range.end - range.start) as usize];
        Self { range, bytes, random: Rng::with_seed(seed), trimmed }
    }

    /// Somewhere in the range: often short, often aligned, sometimes all of it.
    fn span(&mut self) -> Span {
        let length = self.range.end - self.range.start;
        let longest = [16, 700, 9000, 300_000, length][self.random.u64(..5) as usize].min(length);
        let span = 1 + self.random.u64(..longest);
        let start = self.range.start + self.random.u64(..length - span + 1);
        let mut span = start..start + span;
        if self.random.u64(..3) == 0 {
            let aligned = span.start.next_multiple_of(4096)..span.end & !4095;
            if aligned.start < aligned.end {
                span = aligned;
            }
        }
        Span { offset: span.start, length: span.end - span.start }
    }

    fn bytes(&mut self, span: Range<u64>) -> &mut [u8] {
        let start = self.range.start;
        &mut self.bytes[(span.start - start) as usize..(span.end - start) as usize]
    }

    pub(super) async fn step(&mut self, disk: &Client) {
        let span = self.span();
        let fua = self.random.u8(..4) == 0;
        match self.random.u64(..10) {
            0..=2 => {
                let seed = self.random.u8(..);
                let data: Vec<u8> =
                    (0..span.length).map(|n| (n as u8).wrapping_mul(7) ^ seed).collect();
                disk.write(span.offset, &data, fua).await.unwrap();
                self.bytes(span.range()).copy_from_slice(&data);
            }
            3 | 4 => {
                let (keep, fast) = (self.random.bool(), self.random.bool());
                match code(disk.zero(span, fua, keep, fast).await) {
                    Ok(()) => self.bytes(span.range()).fill(0),
                    Err(error) => assert_eq!((error, fast), (ErrorCode::NotSup, true)),
                }
            }
            5 => {
                disk.trim(span, fua).await.unwrap();
                let Some(unit) = self.trimmed else { return };
                let blocks = span.offset.next_multiple_of(unit)..span.end() / unit * unit;
                if blocks.start < blocks.end {
                    self.bytes(blocks).fill(0);
                }
            }
            6 => disk.cache(span).await.unwrap(),
            7 => self.check_extents(disk, span).await,
            _ => {
                let content = disk.read(span.offset, span.length).await.unwrap();
                assert!(content == self.bytes(span.range()), "{span:?}");
            }
        }
    }

    async fn check_extents(&mut self, disk: &Client, span: Span) {
        let limit = 1 + self.random.u64(..20) as usize;
        let extents = disk.extents(span, limit).await.unwrap();
        assert!(!extents.is_empty() && extents.len() <= limit);
        for pair in extents.windows(2) {
            assert_ne!(pair[0].status, pair[1].status);
        }
        let mut at = span.offset;
        for extent in &extents {
            let run = at..at + extent.length;
            assert!(extent.length > 0 && run.end <= span.end());
            assert!(!extent.status.zero || self.bytes(run.clone()).iter().all(|&byte| byte == 0));
            at = run.end;
        }
        assert!(at == span.end() || extents.len() == limit, "it ended early");
    }

    pub(super) async fn check(&self, disk: &Client) {
        let length = self.range.end - self.range.start;
        let content = disk.read(self.range.start, length).await.unwrap();
        assert!(content == self.bytes, "{:?}", self.range);
    }
}

/// Devices with all operations, with none of the optional ones, without holes, out of the page
/// cache, and in memory.
fn clients() -> Vec<Client> {
    let poor = client_of(&file_of(MIB));
    for support in [
        &poor.0.file.read_now,
        &poor.0.file.write_durably,
        &poor.0.file.punch,
        &poor.0.file.zero_range,
        &poor.0.file.seek,
    ] {
        support.exclude();
    }
    let without_holes = client_of(&file_of(MIB));
    without_holes.0.file.punch.exclude();
    let source = Source::Descriptor(file_of(MIB).into());
    let uncached =
        FileOptions { page_cache: PageCache::None, access: Access::Random, ..options(source) };
    let shared_memory = tempfile::tempfile_in("/dev/shm").ok().map(|file| {
        file.set_len(MIB).unwrap();
        client_of(&file)
    });
    let mut clients =
        vec![client_of(&file_of(MIB)), poor, without_holes, Client::open(uncached).unwrap()];
    clients.extend(shared_memory);
    clients
}

/// Returns the unit in which trims zero. All file systems that support trims do so.
fn trimmed(client: &Client) -> Option<u64> {
    client.0.file.trim(Span { offset: 0, length: MIB }, false).unwrap();
    client.0.file.punch.attempt(|| Ok(1)).and_then(Result::ok)
}

#[tokio::test]
async fn disk_does_what_plain_bytes_do() {
    for (seed, disk) in (1..).zip(clients()) {
        let trimmed = trimmed(&disk);
        let mut model = Model::new(0..MIB, seed, trimmed);
        for _ in 0..400 {
            model.step(&disk).await;
        }
        model.check(&disk).await;
    }
}

/// Tasks whose parts of the disk meet within blocks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_within_a_block_do_not_disturb_each_other() {
    for (seed, disk) in (100..).step_by(10).zip(clients()) {
        let trimmed = trimmed(&disk);
        let borders = [0, 3 * 4096 + 17, 5 * 4096 + 1033, 5 * 4096 + 2000, 9 * 4096 - 1, MIB];
        let mut tasks = tokio::task::JoinSet::new();
        for (number, border) in (1..).zip(borders.windows(2)) {
            let disk = disk.clone();
            let mut model = Model::new(border[0]..border[1], seed + number, trimmed);
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
