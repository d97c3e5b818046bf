//! The memory of a component that answers as the fuzzer's bytes say: mostly in order, for any bytes
//! alone hardly ever are.

use super::super::super::Choices;
use super::{DISK, SCRIPT};

/// Where answers begin, after the addresses.
const ANSWERS: usize = 0x60;

/// The address of the answer ok.
const OK: u32 = 0x3ff00;

/// Memory that grows by one record after the other.
struct Image(Vec<u8>);

impl Image {
    /// Puts a record at an address that is a multiple of 8, and returns that.
    fn put(&mut self, record: &[u8]) -> u32 {
        let at = self.0.len();
        self.0.extend_from_slice(record);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        at as u32
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// Returns the image. The first byte says whether the others are the image, or describe one.
pub(super) fn image(choices: &mut Choices<'_>, capabilities: u16) -> Vec<u8> {
    let mut image = match choices.byte() & 7 {
        0 => Image(choices.0.to_vec()),
        _ => described(choices),
    };
    image.0.resize(SCRIPT, 0);
    image.set(0x50, &capabilities.to_le_bytes());
    image.0
}

fn described(choices: &mut Choices<'_>) -> Image {
    let mut image = Image(vec![0; ANSWERS]);
    let mut addresses = vec![rules(&mut image, choices)];
    addresses.extend((0..6).map(|_| route(&mut image, choices)));
    addresses.push(match choices.byte() {
        byte @ 240.. => {
            image.put(&[1, 0, 0, 0, 0, 0, 0, 0, byte & 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        }
        _ => OK,
    });
    addresses.extend((0..12).map(|_| stable(&mut image, choices)));
    for (index, address) in addresses.into_iter().enumerate() {
        image.set(4 * index, &address.to_le_bytes());
    }
    image.0.resize(SCRIPT, 0);
    // Some of it is overwritten.
    while !choices.0.is_empty() {
        let at = choices.u32() as usize % (SCRIPT - 1);
        image.set(at, &[choices.byte()]);
    }
    image
}

fn rules(image: &mut Image, choices: &mut Choices<'_>) -> u32 {
    let granule = match choices.byte() % 32 {
        shift @ 0..31 => 1 << shift,
        _ => choices.u64(),
    };
    let mut record = u64::to_le_bytes(granule).to_vec();
    let lock = |byte| if byte == 255 { 3 } else { byte % 3 };
    record.extend((0..5).map(|_| lock(choices.byte())));
    image.put(&record)
}

fn route(image: &mut Image, choices: &mut Choices<'_>) -> u32 {
    if let byte @ 240.. = choices.byte() {
        let mut record = [0; 64];
        (record[0], record[8]) = (1, byte & 15);
        return image.put(&record);
    }
    let (mut copies, mut segments) = (Vec::new(), Vec::new());
    let counts = choices.byte();
    for _ in 0..counts & 3 {
        copies.extend(location(choices));
        copies.extend(location(choices));
        copies.extend(length(choices).to_le_bytes());
    }
    for _ in 0..=counts >> 2 & 7 {
        segments.extend(place(choices));
        segments.extend(length(choices).to_le_bytes());
    }
    let (copies_at, segments_at) = (image.put(&copies), image.put(&segments));
    let mut record = vec![0; 8];
    for word in [copies_at, copies.len() as u32 / 40, segments_at, segments.len() as u32 / 32] {
        record.extend(word.to_le_bytes());
    }
    let delay = match choices.byte() {
        255 => choices.u64(),
        byte => u64::from(byte & 1),
    };
    record.extend(delay.to_le_bytes());
    let token = choices.byte();
    record.extend(u64::from(token & 1).to_le_bytes());
    record.extend(u64::from(token).to_le_bytes());
    record.extend([0; 16]);
    image.put(&record)
}

fn stable(image: &mut Image, choices: &mut Choices<'_>) -> u32 {
    let mut record = vec![0; 8];
    match choices.byte() % 8 {
        0..5 => return OK,
        5 => record[0] = choices.byte() & 3,
        _ => record[0] = 1,
    }
    let length = match choices.byte() {
        0..128 => DISK >> (record[0] & 3),
        128..192 => DISK,
        _ => length(choices),
    };
    record.extend(length.to_le_bytes());
    record.extend(place(choices));
    image.put(&record)
}

fn place(choices: &mut Choices<'_>) -> Vec<u8> {
    let kind = match choices.byte() {
        255 => 3,
        byte @ 192.. => 1 + byte % 2,
        _ => 0,
    };
    let mut record = u64::from(kind).to_le_bytes().to_vec();
    record.extend(location(choices));
    record
}

fn location(choices: &mut Choices<'_>) -> Vec<u8> {
    let device = match choices.byte() {
        255 => choices.u32(),
        byte @ 240.. => u32::from(byte) % 4,
        byte => u32::from(byte) % 2,
    };
    let mut record = u64::from(device).to_le_bytes().to_vec();
    let offset = match choices.byte() {
        255 => choices.u64(),
        byte @ 240.. => 0x8000 + u64::from(byte & 15) * 0x1000,
        byte => u64::from(byte) * 128,
    };
    record.extend(offset.to_le_bytes());
    record
}

fn length(choices: &mut Choices<'_>) -> u64 {
    match choices.byte() {
        255 => choices.u64(),
        byte @ 224.. => u64::from(byte & 31) * 0x800,
        // A byte more or less than the distance of offsets.
        byte @ 176.. => u64::from(byte / 2 % 8 + 1) * 128 - 1 + u64::from(byte % 2) * 2,
        byte => u64::from(byte) * 16 + 16,
    }
}
