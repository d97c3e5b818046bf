use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{Capabilities, Value, testing};

use super::*;

const BLOCK: usize = 2 << 20;

fn seal(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    bytes[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

/// The footer of an image of Hyper-V.
fn footer(kind: u32, size: u64) -> Vec<u8> {
    let mut footer = vec![0; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[12..16].copy_from_slice(&0x10000_u32.to_be_bytes());
    let header = if kind == 2 { u64::MAX } else { 512 };
    footer[16..24].copy_from_slice(&header.to_be_bytes());
    footer[28..32].copy_from_slice(b"win ");
    footer[48..56].copy_from_slice(&size.to_be_bytes());
    // 10 cylinders, 4 heads, 17 sectors.
    footer[56..60].copy_from_slice(&[0, 10, 4, 17]);
    footer[60..64].copy_from_slice(&kind.to_be_bytes());
    seal(&mut footer, 64);
    footer
}

/// The header of a dynamic image, whose table is behind it.
fn header(entries: u32, block: u32) -> Vec<u8> {
    let mut header = vec![0; 1024];
    header[..8].copy_from_slice(b"cxsparse");
    header[16..24].copy_from_slice(&1536_u64.to_be_bytes());
    header[28..32].copy_from_slice(&entries.to_be_bytes());
    header[32..36].copy_from_slice(&block.to_be_bytes());
    seal(&mut header, 36);
    header
}

/// A dynamic image of 5 MiB: a block of ones, which is the last in the image, a hole, and half a block of
/// twos.
fn dynamic() -> Vec<u8> {
    let mut image = [footer(3, 5 << 20), header(3, BLOCK as u32), vec![0xff; 512]].concat();
    let first = image.len() / 512 + 1 + BLOCK / 512;
    image[1536..1540].copy_from_slice(&(first as u32).to_be_bytes());
    image[1544..1548].copy_from_slice(&4_u32.to_be_bytes());
    for content in [2, 1] {
        image.extend([[0xff; 512].to_vec(), vec![content; BLOCK]].concat());
    }
    image.extend(footer(3, 5 << 20));
    image
}

fn request(image: &[u8]) -> OpenRequest {
    let device = testing::device(image.len() as u64, Capabilities::WRITABLE);
    device.write(0, image, false).unwrap();
    OpenRequest::default().with("base", Value::Device(device))
}

fn refusal(image: &[u8]) -> String {
    Vhd::open(&request(image)).err().unwrap().message.unwrap().into_owned()
}

fn read(disk: &mut Vhd, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
    let mut buffer = vec![9; length];
    let request = Request::new(Operation::Read, offset, length as u64);
    testing::serve(disk, &request, &mut buffer)?;
    let mut own = vec![8; length];
    disk.read(offset, &mut own)?;
    assert!(own == buffer, "it reads itself what it routes");
    Ok(buffer)
}

#[test]
fn fixed_image_is_what_is_before_its_footer() {
    let content: Vec<u8> = (0..700_u32 << 10).map(|at| (at / 512) as u8).collect();
    let image = [content.clone(), footer(2, content.len() as u64)].concat();
    let mut disk = Vhd::open(&request(&image)).unwrap();
    assert_eq!(disk.disk().size, content.len() as u64);
    assert!(read(&mut disk, 0, content.len()).unwrap() == content);
    let whole = StableRoute::new(disk.base.at(0), content.len() as u64);
    assert_eq!(disk.stable(Operation::Read, 0), Some(whole));
    let message = refusal(&image[1..]);
    assert!(message.contains("ends before its disk"), "{message}");
}

#[test]
fn blocks_of_a_dynamic_image_are_found() {
    let mut disk = Vhd::open(&request(&dynamic())).unwrap();
    assert_eq!(disk.disk().size, 5 << 20);
    let bytes = read(&mut disk, 0, 5 << 20).unwrap();
    let expected = [vec![1; BLOCK], vec![0; BLOCK], vec![2; BLOCK / 2]].concat();
    assert!(bytes == expected);
    assert!(read(&mut disk, 1000, 3 << 20).unwrap() == expected[1000..1000 + (3 << 20)]);
    let hole = StableRoute::new(Place::Hole, BLOCK as u64);
    assert_eq!(disk.stable(Operation::Read, BLOCK as u64), Some(hole));
}

#[test]
fn geometry_is_the_size_unless_the_program_does_not_mean_it() {
    let size_of = |creator: &[u8; 4], geometry: [u8; 4]| {
        let mut footer = footer(2, 1 << 20);
        footer[28..32].copy_from_slice(creator);
        footer[56..60].copy_from_slice(&geometry);
        seal(&mut footer, 64);
        let image = [vec![0; 1 << 20], footer].concat();
        Vhd::open(&request(&image)).unwrap().disk().size
    };
    for exact in [b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS"] {
        assert_eq!(size_of(exact, [0, 10, 4, 17]), 1 << 20);
    }
    assert_eq!(size_of(b"vpc ", [0, 10, 4, 17]), 10 * 4 * 17 * 512);
    assert_eq!(size_of(b"vpc ", [0xff, 0xff, 16, 255]), 1 << 20);
}

#[test]
fn damaged_and_other_images_are_refused() {
    let good = dynamic();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut image = good.clone();
        change(&mut image);
        refusal(&image)
    };
    let footer_with = |at: usize, bytes: &'static [u8]| {
        move |image: &mut Vec<u8>| {
            let footer = image.len() - 512;
            image[footer + at..footer + at + bytes.len()].copy_from_slice(bytes);
            seal(&mut image[footer..], 64);
        }
    };
    let header_with = |at: usize, bytes: &'static [u8]| {
        move |image: &mut Vec<u8>| {
            image[512 + at..512 + at + bytes.len()].copy_from_slice(bytes);
            seal(&mut image[512..1536], 36);
        }
    };
    for (change, words) in [
        (&(|image: &mut Vec<u8>| image.truncate(100)) as &dyn Fn(&mut Vec<u8>), "has no VHD image"),
        (
            &|image| {
                let footer = image.len() - 512;
                image[footer + 40] = 1;
            },
            "the checksum of its footer is another",
        ),
        (&|image| image[512 + 40] = 1, "no header with the right checksum at byte 512"),
        (&footer_with(13, &[2]), "the version 2.0, and only 1.x"),
        (&footer_with(63, &[7]), "has the type 7"),
        (&footer_with(48, &[0x80]), "more than 2^63-1 bytes"),
        (&footer_with(16, &[1]), "ends before its metadata"),
        (&header_with(35, &[1]), "blocks of 2097153 bytes"),
        (&header_with(32, &[0x80, 0, 0, 0]), "blocks of 2147483648 bytes"),
        (&header_with(31, &[2]), "its table is for 4194304 bytes, and the disk has 5242880"),
        (&header_with(16, &[1]), "its table ends beyond the image"),
    ] {
        let message = with(change);
        assert!(message.contains(words), "{words}: {message}");
    }
}

#[test]
fn either_footer_of_a_dynamic_image_is_enough() {
    let good = dynamic();
    let end = good.len() - 512;
    for range in [0..512, end..end + 512] {
        let mut image = good.clone();
        image[range].fill(0);
        let mut disk = Vhd::open(&request(&image)).unwrap();
        assert_eq!(read(&mut disk, 0, 10).unwrap(), [1; 10]);
    }
}

#[test]
fn disk_in_a_fixed_image_cannot_pose_as_another_image() {
    let content = dynamic();
    let image = [content.clone(), footer(2, content.len() as u64)].concat();
    let mut disk = Vhd::open(&request(&image)).unwrap();
    assert!(read(&mut disk, 0, content.len()).unwrap() == content);
    // Without the footer, the beginning of a fixed image is none.
    let message = refusal(&[footer(2, 512), vec![0; 1024]].concat());
    assert!(message.contains("the device has no VHD image"), "{message}");
}

#[test]
fn differencing_images_are_refused_with_the_name_of_the_other() {
    let mut image = [footer(4, 5 << 20), header(3, BLOCK as u32), vec![0; 512]].concat();
    for (at, byte) in b"below.vhd".iter().enumerate() {
        image[512 + 64 + 2 * at + 1] = *byte;
    }
    let message = refusal(&image);
    assert!(message.contains("the changes of another one, \"below.vhd\""), "{message}");
    let message = refusal(&image[..512]);
    assert!(message.contains("the changes of another one, \"\""), "{message}");
}

#[test]
fn blocks_beyond_the_image_fail_the_reads_that_need_them() {
    let mut image = dynamic();
    image[1540..1544].copy_from_slice(&0xffff_fff0_u32.to_be_bytes());
    let mut disk = Vhd::open(&request(&image)).unwrap();
    assert_eq!(read(&mut disk, 0, 10).unwrap(), [1; 10]);
    let error = disk.read(2 << 20, &mut [0; 1]).unwrap_err();
    let message = error.message.unwrap();
    assert!(message.contains("byte 2097152 of the disk is at sector 4294967280"), "{message}");
    assert!(disk.stable(Operation::Read, 2 << 20).is_none());
}
