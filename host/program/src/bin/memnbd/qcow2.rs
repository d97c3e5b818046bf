//! Writing an image of the format qcow2, version 3, whose content comes in order.
//!
//! Data goes to the end of the file, and so does each table once it is complete, so that little is kept in
//! memory: one table of the second level, and for each cluster of the file its references. The header comes
//! last. Offsets and names are those of QEMU's docs/interop/qcow2.txt.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use zstd_rs::{CompressionConfig, Compressor};

/// The length of a cluster, in bytes.
pub(crate) const CLUSTER: u64 = 64 << 10;

/// The number of entries in a cluster of a table.
const ENTRIES: u64 = CLUSTER / 8;

/// The number of references in a cluster of them.
const REFERENCES: u64 = CLUSTER / 2;

/// The longest table of the first level, in entries: QEMU opens none that is longer.
const MAX_L1: u64 = (32 << 20) / 8;

/// The largest disk, in bytes.
pub(crate) const MAX_SIZE: u64 = MAX_L1 * ENTRIES * CLUSTER;

/// The entry's cluster has no other reference.
const COPIED: u64 = 1 << 63;

/// The entry is that of a compressed cluster.
const COMPRESSED: u64 = 1 << 62;

/// Where an entry of a compressed cluster has the number of its further sectors.
const SECTORS_SHIFT: u32 = 62 - (CLUSTER.ilog2() - 8);

/// The unit of what a compressed cluster takes, in bytes.
const SECTOR: u64 = 512;

/// The incompatible feature that the header tells the type of compression.
const COMPRESSION_TYPE: u64 = 1 << 3;

/// The type zstd.
const ZSTD: u8 = 1;

/// The length of a header that tells it, in bytes.
const HEADER: u32 = 112;

/// The content of a cluster.
pub(crate) enum Content {
    /// The bytes of one or several clusters.
    Plain(Vec<u8>),
    /// One cluster, as a frame of zstd.
    Compressed(Vec<u8>),
}

/// Compresses a cluster. Returns `None` if that makes it no shorter.
pub(crate) fn compress(cluster: &[u8]) -> Option<Vec<u8>> {
    let mut frame = Vec::new();
    let mut zstd = Compressor::new(CompressionConfig::DEFAULT).ok()?;
    let compressed = match cluster.len() as u64 {
        CLUSTER => zstd.compress(cluster, None, &mut frame),
        _ => {
            let mut whole = cluster.to_vec();
            whole.resize(CLUSTER as usize, 0);
            zstd.compress(&whole, None, &mut frame)
        }
    };
    compressed.ok()?;
    ((frame.len() as u64) < CLUSTER - SECTOR).then_some(frame)
}

/// An image that is being written.
pub(crate) struct Writer<'a> {
    file: &'a File,
    size: u64,
    is_compressed: bool,
    /// The references of each cluster of the file.
    references: Vec<u16>,
    /// Where the next compressed cluster goes, if the last one has not filled its cluster of the file.
    fill: Option<u64>,
    l1: Vec<u64>,
    /// The table of the second level for the present part of the disk, and its number.
    l2: Option<(usize, Vec<u64>)>,
}

impl<'a> Writer<'a> {
    /// Begins an image of a disk of this size, which is rounded up to whole sectors, in an empty file.
    ///
    /// # Errors
    ///
    /// Returns an error if the disk is too large for the format.
    pub(crate) fn new(file: &'a File, size: u64, is_compressed: bool) -> anyhow::Result<Self> {
        anyhow::ensure!(
            size <= MAX_SIZE,
            "the disk has {size} bytes; a qcow2 image has at most {MAX_SIZE}"
        );
        let l1 = size.div_ceil(ENTRIES * CLUSTER).max(1);
        Ok(Self {
            file,
            size: size.next_multiple_of(SECTOR),
            is_compressed,
            // The header.
            references: vec![1],
            fill: None,
            l1: vec![0; l1 as usize],
            l2: None,
        })
    }

    /// Writes content of the disk. Its offset is a multiple of the length of a cluster, and behind all that
    /// was written before. What is never written reads as zeroes.
    pub(crate) fn write(&mut self, offset: u64, content: &Content) -> io::Result<()> {
        let first = offset / CLUSTER;
        match content {
            Content::Plain(bytes) => {
                let count = (bytes.len() as u64).div_ceil(CLUSTER);
                let place = self.allocate(count);
                self.file.write_all_at(bytes, place)?;
                for index in 0..count {
                    self.set(first + index, (place + index * CLUSTER) | COPIED)?;
                }
                Ok(())
            }
            Content::Compressed(frame) => {
                let length = frame.len() as u64;
                let start = self.place(length);
                let last = start + length - 1;
                for cluster in start / CLUSTER..=last / CLUSTER {
                    self.references[cluster as usize] += 1;
                }
                let more = last / SECTOR - start / SECTOR;
                self.fill = Some(last + 1).filter(|end| !end.is_multiple_of(CLUSTER));
                self.file.write_all_at(frame, start)?;
                self.set(first, start | COMPRESSED | more << SECTORS_SHIFT)
            }
        }
    }

    /// Returns the offset of the end of the file.
    fn end(&self) -> u64 {
        self.references.len() as u64 * CLUSTER
    }

    /// Returns the offset of new clusters at the end of the file, each with one reference.
    fn allocate(&mut self, count: u64) -> u64 {
        let place = self.end();
        self.references.resize(self.references.len() + count as usize, 1);
        place
    }

    /// Returns the offset for a compressed cluster, which is shorter than a cluster. The references are
    /// those of the clusters before.
    fn place(&mut self, length: u64) -> u64 {
        let start = match self.fill {
            // It may go on in the next cluster only if that is its neighbour.
            Some(fill) if fill.next_multiple_of(CLUSTER) == self.end() => fill,
            Some(fill) if fill.next_multiple_of(CLUSTER) - fill >= length => fill,
            _ => self.end(),
        };
        let clusters = (start + length).div_ceil(CLUSTER) as usize;
        self.references.resize(clusters.max(self.references.len()), 0);
        start
    }

    /// Sets the entry of a cluster of the disk.
    fn set(&mut self, cluster: u64, entry: u64) -> io::Result<()> {
        let number = (cluster / ENTRIES) as usize;
        if self.l2.as_ref().is_none_or(|(present, _)| *present != number) {
            self.finish_l2()?;
            self.l2 = Some((number, vec![0; ENTRIES as usize]));
        }
        if let Some((_, table)) = &mut self.l2 {
            table[(cluster % ENTRIES) as usize] = entry;
        }
        Ok(())
    }

    fn finish_l2(&mut self) -> io::Result<()> {
        if let Some((number, table)) = self.l2.take() {
            let place = self.allocate(1);
            self.file.write_all_at(&bytes(&table), place)?;
            self.l1[number] = place | COPIED;
        }
        Ok(())
    }

    /// Writes the tables and the header.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.finish_l2()?;
        let l1 = self.allocate((self.l1.len() as u64).div_ceil(ENTRIES));
        self.file.write_all_at(&bytes(&self.l1), l1)?;
        // The references count their own clusters as well.
        let others = self.references.len() as u64;
        let (mut blocks, mut table) = (1, 1);
        while others + blocks + table > blocks * REFERENCES || blocks > table * ENTRIES {
            blocks = (others + blocks + table).div_ceil(REFERENCES).max(blocks);
            table = blocks.div_ceil(ENTRIES).max(table);
        }
        let first = self.allocate(blocks);
        let table_place = self.allocate(table);
        for (block, references) in (0..).zip(self.references.chunks(REFERENCES as usize)) {
            let bytes: Vec<u8> = references.iter().flat_map(|count| count.to_be_bytes()).collect();
            self.file.write_all_at(&bytes, first + block * CLUSTER)?;
        }
        let entries: Vec<u64> = (0..blocks).map(|block| first + block * CLUSTER).collect();
        self.file.write_all_at(&bytes(&entries), table_place)?;
        self.file.set_len(self.end())?;
        self.file.write_all_at(&self.header(l1, table_place, table), 0)
    }

    fn header(&self, l1: u64, references: u64, references_clusters: u64) -> Vec<u8> {
        let incompatible = if self.is_compressed { COMPRESSION_TYPE } else { 0 };
        let mut header = Vec::new();
        header.extend(b"QFI\xfb");
        header.extend(3_u32.to_be_bytes()); // version
        header.extend([0; 12]); // backing_file_offset, backing_file_size
        header.extend(CLUSTER.ilog2().to_be_bytes()); // cluster_bits
        header.extend(self.size.to_be_bytes()); // size
        header.extend([0; 4]); // crypt_method
        // Neither number is longer than 32 bits, because the disk is not larger than the format allows.
        header.extend((self.l1.len() as u32).to_be_bytes()); // l1_size
        header.extend(l1.to_be_bytes()); // l1_table_offset
        header.extend(references.to_be_bytes()); // refcount_table_offset
        header.extend((references_clusters as u32).to_be_bytes()); // refcount_table_clusters
        header.extend([0; 12]); // nb_snapshots, snapshots_offset
        header.extend(incompatible.to_be_bytes()); // incompatible_features
        header.extend([0; 16]); // compatible_features, autoclear_features
        header.extend(4_u32.to_be_bytes()); // refcount_order: 16 bits
        header.extend(HEADER.to_be_bytes()); // header_length
        header.push(if self.is_compressed { ZSTD } else { 0 }); // compression_type
        header.extend([0; 7]);
        // The end of the header's extensions.
        header.extend([0; 8]);
        header
    }
}

fn bytes(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn numbered(count: u64, seed: u64) -> Vec<u8> {
        (0..count * CLUSTER / 8).flat_map(|n| (n * seed + 1).to_be_bytes()).collect()
    }

    /// Writes clusters of a disk, each with this length when it is compressed, or else plain.
    fn written(
        size: u64,
        clusters: &[(u64, Option<usize>)],
    ) -> (tempfile::NamedTempFile, Vec<u64>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = Writer::new(file.as_file(), size, true).unwrap();
        for &(cluster, length) in clusters {
            let content = match length {
                Some(length) => Content::Compressed(vec![1; length]),
                None => Content::Plain(vec![1; CLUSTER as usize]),
            };
            writer.write(cluster * CLUSTER, &content).unwrap();
        }
        let entries = writer.l2.as_ref().map(|(_, table)| table.clone()).unwrap_or_default();
        writer.finish().unwrap();
        (file, entries)
    }

    #[test]
    fn compressed_clusters_follow_each_other_without_gaps() {
        let clusters = [(0, Some(60_000)), (1, Some(10_000)), (2, None), (3, Some(40_000))];
        let clusters = [&clusters[..], &[(4, Some(61_072 + 1)), (5, Some(100))]].concat();
        let (file, entries) = written(6 * CLUSTER, &clusters);
        let offset = |entry: u64| entry & ((1 << SECTORS_SHIFT) - 1);
        assert_eq!(offset(entries[0]), CLUSTER);
        assert_eq!(offset(entries[1]), CLUSTER + 60_000, "it goes on in the next cluster");
        assert_eq!(entries[2], (3 * CLUSTER) | COPIED);
        assert_eq!(offset(entries[3]), 2 * CLUSTER + 4464, "there is room behind the second");
        assert_eq!(offset(entries[4]), 4 * CLUSTER, "there is no room any more");
        let more = (entries[1] & !COMPRESSED) >> SECTORS_SHIFT;
        assert_eq!(more, (60_000 + 9_999) / 512 - 60_000 / 512);
        assert_eq!(file.as_file().metadata().unwrap().len() % CLUSTER, 0);
    }

    #[test]
    fn every_cluster_of_the_file_has_its_references() {
        // Enough for more than one cluster of references.
        let count = REFERENCES + 100;
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = Writer::new(file.as_file(), 4 * count * CLUSTER, false).unwrap();
        for cluster in 0..count {
            // Not written, to save time: a hole of the file.
            let place = writer.allocate(1);
            writer.set(3 * cluster, place | COPIED).unwrap();
        }
        writer.finish().unwrap();
        check(file.path());
    }

    /// Has qemu-img check an image, if there is one.
    fn check(path: &std::path::Path) {
        let Ok(output) = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(path).output()
        else {
            assert!(std::env::var_os("CI").is_none(), "there is no qemu-img");
            return;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    #[test]
    fn images_are_in_order() {
        for (size, data) in [(0, vec![]), (1, vec![0]), (700 << 20, vec![0, 1, 9000, 9001, 11_199])]
        {
            for is_compressed in [false, true] {
                let file = tempfile::NamedTempFile::new().unwrap();
                let mut writer = Writer::new(file.as_file(), size, is_compressed).unwrap();
                for &cluster in &data {
                    let bytes = numbered(1, cluster + 1);
                    let content = match compress(&bytes).filter(|_| is_compressed) {
                        Some(frame) => Content::Compressed(frame),
                        None => Content::Plain(bytes),
                    };
                    writer.write(cluster * CLUSTER, &content).unwrap();
                }
                writer.finish().unwrap();
                check(file.path());
            }
        }
    }

    #[test]
    fn what_cannot_be_compressed_stays_as_it_is() {
        let mut random = fastrand::Rng::with_seed(1);
        let noise: Vec<u8> = (0..CLUSTER).map(|_| random.u8(..)).collect();
        assert!(compress(&noise).is_none());
        assert!(compress(&[7; 1000]).is_some_and(|frame| frame.len() < 1000));
    }

    #[test]
    fn disks_that_are_too_large_are_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(Writer::new(&file, MAX_SIZE, false).is_ok());
        let error = Writer::new(&file, MAX_SIZE + 1, false).err().unwrap().to_string();
        assert!(error.contains("2251799813685249"), "{error}");
    }
}
