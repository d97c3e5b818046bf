use memnbd_guest::{Capabilities, Segment, Value, testing};
use zstd_rs::{CompressionConfig, Compressor};

use super::*;

/// What a cluster is in an image.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Unallocated,
    Zero,
    Data(u8),
    Compressed(u8),
}

/// An image that is made for a test.
#[derive(Clone)]
struct Image {
    bits: u32,
    version: u32,
    incompatible: u64,
    size: u64,
    bytes: Vec<u8>,
}

impl Image {
    /// Returns an image with one table of the second level for each entry of the first.
    fn new(bits: u32, version: u32, incompatible: u64, kinds: &[Kind]) -> Self {
        let cluster = 1_usize << bits;
        let entry = if incompatible & 16 != 0 { 16 } else { 8 };
        let in_table = cluster / entry;
        let tables = kinds.len().div_ceil(in_table);
        assert!(tables * 8 <= cluster, "the first table is one cluster");
        let mut image = Self {
            bits,
            version,
            incompatible,
            size: (kinds.len() * cluster) as u64,
            bytes: vec![0; (2 + tables) * cluster],
        };
        image.put_header();
        for table in 0..tables {
            image.put(cluster + table * 8, ((2 + table) * cluster) as u64 | 1 << 63);
        }
        for (index, kind) in kinds.iter().enumerate() {
            let at = 2 * cluster + index * entry;
            let (value, subclusters) = image.add(*kind);
            image.put(at, value);
            if entry == 16 {
                image.put(at + 8, subclusters);
            }
        }
        image
    }

    fn put(&mut self, at: usize, value: u64) {
        self.bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    fn put_header(&mut self) {
        self.bytes[..4].copy_from_slice(b"QFI\xfb");
        self.put_u32(4, self.version);
        self.put_u32(20, self.bits);
        self.put(24, self.size);
        self.put_u32(36, (1 << self.bits) / 8);
        self.put(40, 1 << self.bits);
        if self.version == 3 {
            self.put(72, self.incompatible);
            self.put_u32(96, 4);
            self.put_u32(100, 112);
            self.bytes[104] = u8::from(self.incompatible & 8 != 0);
        }
    }

    /// Adds a cluster, and returns its entry.
    fn add(&mut self, kind: Kind) -> (u64, u64) {
        let cluster = 1_usize << self.bits;
        match kind {
            Kind::Unallocated => (0, 0),
            Kind::Zero => (u64::from(self.incompatible & 16 == 0), !0 << 32),
            Kind::Data(byte) => {
                let offset = self.bytes.len().next_multiple_of(cluster);
                self.bytes.resize(offset, 0);
                self.bytes.resize(offset + cluster, byte);
                (offset as u64 | 1 << 63, (1 << 32) - 1)
            }
            Kind::Compressed(byte) => {
                // A cluster may begin anywhere.
                let offset = self.bytes.len() + 3;
                self.bytes.resize(offset, 0xee);
                self.bytes.extend(compressed(self.incompatible, &vec![byte; cluster]));
                let end = self.bytes.len();
                let sectors = (end.div_ceil(512) - offset / 512 - 1) as u64;
                (offset as u64 | sectors << (62 - (self.bits - 8)) | 1 << 62, 0)
            }
        }
    }

    /// Adds a device that has the image.
    fn device(&self) -> Lower {
        let device = testing::device(self.bytes.len() as u64, Capabilities::WRITABLE);
        device.write(0, &self.bytes, false).unwrap();
        device
    }

    fn open(&self) -> Result<Qcow2, Error> {
        Qcow2::open(&OpenRequest::default().with("base", Value::Device(self.device())))
    }

    fn refusal(&self) -> String {
        match self.open() {
            Ok(_) => panic!("the image was opened"),
            Err(error) => error.message.unwrap().into_owned(),
        }
    }
}

fn compressed(incompatible: u64, cluster: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if incompatible & 8 != 0 {
        let mut zstd = Compressor::new(CompressionConfig::DEFAULT).unwrap();
        zstd.compress(cluster, None, &mut out).unwrap();
    } else {
        // One block that is stored.
        let length = cluster.len() as u16;
        out.push(1);
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(cluster);
    }
    out
}

fn content(bits: u32, kinds: &[Kind]) -> Vec<u8> {
    let bytes = kinds.iter().map(|kind| match kind {
        Kind::Unallocated | Kind::Zero => 0,
        Kind::Data(byte) | Kind::Compressed(byte) => *byte,
    });
    bytes.flat_map(|byte| std::iter::repeat_n(byte, 1 << bits)).collect()
}

fn read(disk: &mut Qcow2, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
    let mut buffer = vec![9; length];
    let request = Request::new(Operation::Read, offset, length as u64);
    testing::serve(disk, &request, &mut buffer).map(|()| buffer)
}

/// Numbers that look random.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

fn some_kinds(count: usize, with_zero: bool, state: &mut u64) -> Vec<Kind> {
    (0..count)
        .map(|_| match (random(state) % 4, random(state) as u8) {
            (0, byte) => Kind::Data(byte),
            (1, byte) => Kind::Compressed(byte),
            (2, _) if with_zero => Kind::Zero,
            _ => Kind::Unallocated,
        })
        .collect()
}

#[test]
fn all_kinds_of_clusters_are_read() {
    let mut state = 1;
    for (bits, version, incompatible) in
        [(9, 2, 0), (9, 3, 0), (12, 3, 0), (12, 3, 8), (14, 3, 16), (15, 3, 24)]
    {
        let kinds = some_kinds(150, version == 3, &mut state);
        let mut disk = Image::new(bits, version, incompatible, &kinds).open().unwrap();
        let content = content(bits, &kinds);
        assert_eq!(disk.disk().size, content.len() as u64);
        assert!(read(&mut disk, 0, content.len()).unwrap() == content);
        for _ in 0..500 {
            let offset = random(&mut state) as usize % content.len();
            let length = 1 + random(&mut state) as usize % (content.len() - offset).min(5 << bits);
            let bytes = read(&mut disk, offset as u64, length).unwrap();
            assert!(bytes == content[offset..offset + length], "{offset} {length}");
        }
        let mut whole = vec![0; content.len()];
        disk.read(0, &mut whole).unwrap();
        assert!(whole == content, "the component reads all by itself, too");
    }
}

#[test]
fn only_compressed_clusters_are_read_by_the_component() {
    use Kind::{Compressed, Data, Unallocated, Zero};
    let kinds = [Data(1), Data(2), Compressed(3), Zero, Unallocated, Compressed(4), Compressed(5)];
    let mut disk = Image::new(12, 3, 0, &kinds).open().unwrap();
    let base = disk.base;
    let segment = |place, clusters: u64| Segment { place, length: clusters << 12 };
    let data = Place::from(base.at(3 << 12));
    for operation in [Operation::Read, Operation::Extents, Operation::Cache] {
        let route = disk.route(&Request::new(operation, 0, 7 << 12)).unwrap();
        let own = Place::Own;
        let expected =
            [segment(data, 2), segment(own, 1), segment(Place::Hole, 2), segment(own, 2)];
        assert_eq!(route.segments, expected);
    }
    let mut stable = |cluster: u64| disk.stable(Operation::Read, cluster << 12).unwrap();
    assert_eq!(stable(0), StableRoute::new(data, 2 << 12));
    assert_eq!(stable(1), StableRoute::new(base.at(4 << 12), 1 << 12));
    assert_eq!(stable(5), StableRoute::new(Place::Own, 2 << 12));
}

#[test]
fn request_in_very_many_parts_ends_with_one_that_is_read_here() {
    let kinds: Vec<Kind> = (0..6000)
        .map(|index| if index % 2 == 0 { Kind::Unallocated } else { Kind::Data(index as u8) })
        .collect();
    // More than one cluster of entries would be needed for smaller clusters.
    let mut disk = Image::new(12, 3, 0, &kinds).open().unwrap();
    let request = Request::new(Operation::Read, 0, 6000 << 12);
    let route = disk.route(&request).unwrap();
    testing::check(&route, &request);
    assert_eq!(route.segments.last().unwrap().place, Place::Own);
    assert!(read(&mut disk, 0, 6000 << 12).unwrap() == content(12, &kinds));
    let request = Request::new(Operation::Extents, 0, 6000 << 12);
    assert!(disk.route(&request).unwrap().length() < 6000 << 12);
}

#[test]
fn subclusters_are_data_zero_or_nothing() {
    let mut image = Image::new(14, 3, 16, &[Kind::Data(7)]);
    // The first is data, the second zero, and the third nothing.
    image.put(2 * (1 << 14) + 8, 1 | 1 << 33);
    let mut disk = image.open().unwrap();
    assert_eq!(read(&mut disk, 0, 1600).unwrap(), [[7; 512].as_slice(), &[0; 1088]].concat());
    assert_eq!(disk.table.find(513).unwrap(), (Mapping::Zero, 511));
    assert_eq!(disk.table.find(1024).unwrap(), (Mapping::Unallocated, 30 * 512));
    image.put(2 * (1 << 14) + 8, 1 | 1 << 32);
    assert!(read(&mut image.open().unwrap(), 0, 1).is_err());
    image.put(2 * (1 << 14), 0);
    image.put(2 * (1 << 14) + 8, 1);
    assert!(read(&mut image.open().unwrap(), 0, 1).is_err());
}

#[test]
fn unallocated_clusters_are_those_of_the_backing_disk() {
    let mut image = Image::new(12, 3, 0, &[Kind::Unallocated, Kind::Zero, Kind::Unallocated]);
    let name = b"/etc/passwd";
    image.put(8, 1000);
    image.put_u32(16, name.len() as u32);
    image.bytes[1000..1000 + name.len()].copy_from_slice(name);
    let refusal = image.refusal();
    assert!(refusal.contains("the backing file \"/etc/passwd\" in a format of which"), "{refusal}");
    let below = testing::device(9000, Capabilities::WRITABLE);
    below.write(0, &[5; 9000], false).unwrap();
    let request = OpenRequest::default()
        .with("base", Value::Device(image.device()))
        .with("backing", Value::Device(below));
    let mut disk = Qcow2::open(&request).unwrap();
    let mut expected = vec![5; 12288];
    expected[4096..8192].fill(0);
    expected[9000..].fill(0);
    assert!(read(&mut disk, 0, 12288).unwrap() == expected);
    let route = disk.stable(Operation::Read, 8192).unwrap();
    assert_eq!(route, StableRoute::new(below.at(8192), 808));
    assert_eq!(disk.stable(Operation::Read, 9000).unwrap().place, Place::Hole);
    let without = Image::new(12, 3, 0, &[Kind::Zero]);
    let request = OpenRequest::default()
        .with("base", Value::Device(without.device()))
        .with("backing", Value::Device(below));
    let error = Qcow2::open(&request).err().unwrap();
    assert_eq!(error.message.unwrap(), "the image has no backing file; leave backing out");
}

#[test]
fn images_that_cannot_be_read_are_refused_with_the_reason() {
    let good = Image::new(12, 3, 0, &[Kind::Data(1)]);
    let with = |change: fn(&mut Image)| {
        let mut image = good.clone();
        change(&mut image);
        image.refusal()
    };
    for (change, words) in [
        ((|image| image.bytes[0] = 0) as fn(&mut Image), "does not begin with QFI"),
        (|image| image.bytes.truncate(50), "does not begin with QFI"),
        (|image| image.put_u32(4, 1), "version 1 of qcow2, not 2 or 3"),
        (|image| image.put_u32(20, 8), "clusters of the image have 2^8 bytes"),
        (|image| image.put_u32(20, u32::MAX), "not 2^9 to 2^21"),
        (|image| image.put_u32(32, 1), "encrypted with AES"),
        (|image| image.put_u32(32, 2), "encrypted with LUKS"),
        (|image| image.put(72, 1), "was not closed"),
        (|image| image.put(72, 2), "marked as corrupt"),
        (|image| image.put(72, 4), "in another file"),
        (|image| image.put(72, 8), "contradicts"),
        (|image| image.bytes[104] = 1, "contradicts"),
        (|image| image.bytes[104] = 2, "compression type 2"),
        (|image| image.put(72, 16), "at least 16 KiB"),
        (|image| image.put_u32(100, 103), "header of the image has 103 bytes"),
        (|image| image.put_u32(100, 1 << 20), "header of the image has 1048576 bytes"),
        (|image| image.put(24, 1 << 63), "more than 2^63-1"),
        (|image| image.put(24, 1 << 40), "512 entries, too few for 1099511627776 bytes"),
        (|image| image.put(40, 1 << 62), "ends beyond the image"),
        (|image| image.put(40, 1), "unaligned"),
        (|image| image.put(112, 0x1234_5678_ffff_ffff), "a header extension"),
        (
            |image| {
                image.put(8, 200);
                image.put_u32(16, 5000);
            },
            "name of the backing file has 5000 bytes",
        ),
    ] {
        let refusal = with(change);
        assert!(refusal.contains(words), "{refusal}");
    }
}

#[test]
fn unknown_features_have_the_names_of_the_image() {
    let mut image = Image::new(12, 3, 1 << 40 | 1 << 63, &[Kind::Data(1)]);
    image.put(112, 0x6803_f857_0000_0060);
    image.bytes[120..122].copy_from_slice(&[0, 40]);
    image.bytes[122..132].copy_from_slice(b"long wings");
    // The same bit of another kind of features.
    image.bytes[168..170].copy_from_slice(&[1, 63]);
    image.bytes[170..175].copy_from_slice(b"other");
    assert_eq!(
        image.refusal(),
        "the image has features that are not supported: \"long wings\", number 63, without a name"
    );
}

#[test]
fn corrupt_entries_fail_the_requests_that_need_them() {
    let cluster = 1 << 12;
    let kinds = [Kind::Data(1), Kind::Data(2), Kind::Compressed(3)];
    let good = Image::new(12, 3, 0, &kinds);
    let end = (good.bytes.len() as u64).next_multiple_of(cluster);
    for (index, entry, words) in [
        (1, end + cluster, "beyond the image"),
        (1, (1 << 56) - cluster, "beyond the image"),
        (1, 512 * 3, "unaligned"),
        (1, 1 << 62 | end, "beyond the image"),
        (1, 1 << 62 | 5, "cannot be decompressed"),
    ] {
        let mut image = good.clone();
        image.put(2 * cluster as usize + index * 8, entry);
        let mut disk = image.open().unwrap();
        assert_eq!(read(&mut disk, 0, 4096).unwrap(), [1; 4096]);
        let mut buffer = [0; 1];
        let error = disk.read(cluster, &mut buffer).unwrap_err();
        assert!(error.message.as_ref().unwrap().contains(words), "{error:?}");
        assert_eq!(read(&mut disk, cluster, 1).unwrap_err().code, Error::EIO.code);
        assert_eq!(read(&mut disk, 2 * cluster, 4096).unwrap(), [3; 4096]);
    }
    let mut image = good.clone();
    image.put(cluster as usize, end);
    assert!(read(&mut image.open().unwrap(), 0, 1).is_err());
    let mut image = Image::new(12, 2, 0, &kinds);
    image.put(2 * cluster as usize, 1);
    let error = image.open().unwrap().table.find(0).unwrap_err();
    assert!(error.message.unwrap().contains("image of version 2"));
}

#[test]
fn last_cluster_need_not_be_complete() {
    let mut image = Image::new(12, 3, 0, &[Kind::Data(1), Kind::Data(2)]);
    image.bytes.truncate(image.bytes.len() - 4000);
    let mut disk = image.open().unwrap();
    let mut expected = vec![1; 8192];
    expected[4096..].fill(2);
    expected[4192..].fill(0);
    assert_eq!(read(&mut disk, 0, 8192).unwrap(), expected);
}

#[test]
fn snapshots_are_found_by_name_and_identifier() {
    let mut image = Image::new(12, 3, 0, &[Kind::Data(1), Kind::Unallocated]);
    let size = image.bytes.len();
    // The first table of the snapshot has one entry, for a table with one cluster.
    image.bytes.resize(size + 3 * 4096, 0);
    image.put(size, (size + 4096) as u64);
    image.put(size + 4096, 3 << 12);
    let table = size + 2 * 4096;
    image.put_u32(60, 1);
    image.put(64, table as u64);
    image.put(table, size as u64);
    image.put_u32(table + 8, 1);
    image.put_u32(table + 12, 2 << 16 | 4);
    image.put_u32(table + 36, 16);
    image.put(table + 48, 5000);
    image.bytes[table + 56..table + 62].copy_from_slice(b"17four");
    let open = |name: &str| {
        let request = OpenRequest::default().with("base", Value::Device(image.device()));
        Qcow2::open(&request.with("snapshot", Value::Text(name.into())))
    };
    for name in ["17", "four"] {
        let mut disk = open(name).unwrap();
        assert_eq!(disk.disk().size, 5000);
        assert_eq!(read(&mut disk, 4090, 10).unwrap(), [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]);
    }
    let error = open("five").err().unwrap();
    let expected =
        "the image has no snapshot \"five\", by name or identifier; it has \"four\" (17)";
    assert_eq!(error.message.unwrap(), expected);
}
