//! Images, archives and compressed files, as the decoders get them: natively, over devices in memory.

use std::thread;

use memnbd_guest::testing::{check, device, serve};
use memnbd_guest::{
    Capabilities, Filter, MAX_SIZE, OpenRequest, Operation, Place, Request, Route, Value,
};

use super::Choices;

/// The first byte has options, the second says how many KiB of zeroes follow the others, which are an
/// image. Whatever that is, nothing lies outside of the image.
pub(crate) fn qcow2(data: &[u8]) {
    alone(data, |options, request| {
        let mut request = request;
        if options & 1 != 0 {
            let below = device(5000, Capabilities::WRITABLE);
            below.write(100, &[7; 3000], false).expect("the device is larger");
            request = request.with("backing", Value::Device(below));
        }
        if options & 2 != 0 {
            request = request.with("snapshot", Value::Text("1".into()));
        }
        explore::<qcow2::Qcow2>(&request);
    });
}

/// As [`qcow2`], of an archive.
pub(crate) fn tar(data: &[u8]) {
    alone(data, |options, request| {
        use memnbd_guest::Listing;
        let listed = <tar::Tar as Listing>::exports(&request).unwrap_or_default();
        assert!(listed.exports.len() <= 10_000);
        let name = listed.exports.get(usize::from(options)).map(|export| export.name.clone());
        let export_name = name.unwrap_or_default();
        explore::<tar::Tar>(&OpenRequest { export_name, ..request });
    });
}

/// As [`qcow2`], of a file of gzip.
pub(crate) fn gzip(data: &[u8]) {
    alone(data, |options, request| {
        let request = match options {
            0 => request,
            size => request.with("gzip-size", Value::Size(u64::from(size) << 10)),
        };
        explore::<gzip::Gzip>(&request);
    });
}

/// As [`qcow2`], of a file of xz.
pub(crate) fn xz(data: &[u8]) {
    alone(data, |_, request| explore::<xz::Xz>(&request));
}

/// As [`qcow2`], of a file of zstd.
pub(crate) fn zstd(data: &[u8]) {
    alone(data, |options, request| {
        let request = match options {
            0 => request,
            size => request.with("zstd-size", Value::Size(u64::from(size) << 10)),
        };
        explore::<zstd::Zstd>(&request);
    });
}

/// As [`qcow2`], of an image of VHD.
pub(crate) fn vhd(data: &[u8]) {
    alone(data, |_, request| explore::<vhd::Vhd>(&request));
}

/// As [`qcow2`], of an image of VMDK.
pub(crate) fn vmdk(data: &[u8]) {
    alone(data, |_, request| explore::<vmdk::Vmdk>(&request));
}

/// Calls a function with the options and a request for a device with the image. The devices are those
/// of a thread of its own, and end with it.
fn alone(data: &[u8], call: impl FnOnce(u8, OpenRequest) + Send) {
    let mut choices = Choices(data);
    let (options, extra) = (choices.byte(), u64::from(choices.byte()) << 10);
    let image = choices.0;
    thread::scope(|scope| {
        let running = scope.spawn(move || {
            let base = device(image.len() as u64 + extra, Capabilities::WRITABLE);
            if !image.is_empty() {
                base.write(0, image, false).expect("the device is as long");
            }
            let request = OpenRequest { memory_limit: 16 << 20, ..OpenRequest::default() };
            call(options, request.with("base", Value::Device(base)));
        });
        running.join().expect("the decoder does not panic");
    });
}

/// Opens a disk and reads at places where something may be wrong. Routes have to keep the contract, and
/// reads have to give the same bytes each time, if they succeed.
fn explore<F: Filter>(request: &OpenRequest) {
    let Ok(mut disk) = F::open(request) else { return };
    let size = disk.disk().size;
    assert!(size <= MAX_SIZE);
    if size == 0 {
        return;
    }
    let places = [0, 511, 512, 4096, 65536, size / 3, size / 2, size - 1].into_iter();
    for offset in places.filter(|offset| *offset < size) {
        for length in [1, 700, 70_000] {
            let length = (size - offset).min(length);
            let request = |operation| Request::new(operation, offset, length);
            for operation in [Operation::Extents, Operation::Cache] {
                // Errors are answers, too.
                let _ = serve(&mut disk, &request(operation), &mut []);
            }
            let read = request(Operation::Read);
            let mut bytes = [vec![1; length as usize], vec![2; length as usize]];
            let results = bytes.each_mut().map(|bytes| serve(&mut disk, &read, bytes).is_ok());
            assert!(results != [true, true] || bytes[0] == bytes[1], "at {offset} + {length}");
        }
        for operation in [Operation::Read, Operation::Extents, Operation::Cache] {
            let Some(stable) = disk.stable(operation, offset) else { continue };
            assert!((1..=size - offset).contains(&stable.length), "{stable:?}");
            let route = Route::new().segment(stable.place, stable.length);
            check(&route, &Request::new(operation, offset, stable.length));
        }
        // Whatever the disk reads by itself, it routes to itself or not; both are the same bytes.
        let length = (size - offset).min(3000) as usize;
        let read = Request::new(Operation::Read, offset, length as u64);
        let is_routed = disk
            .route(&read)
            .is_ok_and(|route| route.segments.iter().any(|segment| segment.place != Place::Own));
        let (mut own, mut routed) = (vec![0; length], vec![0; length]);
        if is_routed && disk.read(offset, &mut own).is_ok() {
            serve(&mut disk, &read, &mut routed).expect("it was read by itself");
            assert!(own == routed, "at {offset}");
        }
    }
}
