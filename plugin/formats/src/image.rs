//! Disks in images that are never changed: a table says where each part of the disk is.

use memnbd_guest::{
    Capabilities, Disk, Error, Lower, Operation, Place, Request, Route, StableRoute,
};

/// The most parts of a route. A request in more parts, of which the contract allows some more, ends
/// with one that the component reads by itself.
const MAX_PARTS: usize = 4000;

/// The most parts of the disk that a call looks at to say where some of it is.
const MAX_STEPS: usize = 8192;

/// Finds the parts of a disk.
pub trait Locate {
    /// Returns where the byte at an offset within the disk is, and how many bytes from there on follow
    /// each other in the same way: at least one, and not beyond the end of the disk.
    ///
    /// # Errors
    ///
    /// Returns `EIO` if the image is damaged, and errors of the device.
    fn locate(&mut self, at: u64) -> Result<(Place, u64), Error>;
}

/// Returns the properties of a disk of `size` bytes, which stands on devices, and whose image has it in
/// parts of `unit` bytes. Any number of instances can serve it.
pub fn disk(size: u64, beneath: impl IntoIterator<Item = Lower>, unit: u32) -> Disk {
    let changes = Capabilities::WRITABLE
        | Capabilities::FUA
        | Capabilities::TRIM
        | Capabilities::ZERO
        | Capabilities::FAST_ZERO;
    let disk = Disk::joining(size, beneath.into_iter().map(|device| (0, device.geometry())));
    let disk = Disk {
        minimum_block: disk.minimum_block.min(512),
        preferred_block: disk.preferred_block.max(unit),
        capabilities: disk.capabilities.without(changes) | Capabilities::INTERCHANGEABLE,
        ..disk
    };
    disk.in_pieces()
}

/// Routes a request to where the parts of the disk are.
///
/// # Errors
///
/// Returns those of `image`.
pub fn route(image: &mut impl Locate, request: &Request) -> Result<Route, Error> {
    let mut route = Route::new();
    let mut at = request.offset;
    for _ in 0..MAX_STEPS {
        if at >= request.end() || route.parts() >= MAX_PARTS {
            break;
        }
        let (place, length) = match image.locate(at) {
            Ok(found) => found,
            // The error is for the client that asks for these bytes, and then again.
            Err(_) if request.operation == Operation::Extents && at > request.offset => break,
            Err(error) => return Err(error),
        };
        let length = length.min(request.end() - at);
        route.push(place, length);
        at += length;
    }
    // Extents may end early. The rest of a read in very many parts is read by the component, and the
    // cache is filled as far as it goes.
    if at < request.end() && request.operation != Operation::Extents {
        route.push(Place::Own, request.end() - at);
    }
    Ok(route)
}

/// Returns the stable route of what begins at an offset of a disk of `size` bytes.
pub fn stable(image: &mut impl Locate, offset: u64, size: u64) -> Option<StableRoute> {
    let (place, mut length) = image.locate(offset).ok()?;
    for _ in 0..MAX_STEPS {
        if offset + length >= size {
            break;
        }
        // An error is for those who ask for these bytes.
        let Ok((next, more)) = image.locate(offset + length) else { break };
        if !place.continues(length, next) {
            break;
        }
        length += more;
    }
    Some(StableRoute::new(place, length))
}

/// Reads bytes of the disk, those of the component itself by `own`.
///
/// # Errors
///
/// Returns those of `image`, of `own` and of the devices.
pub fn read<L: Locate>(
    image: &mut L,
    offset: u64,
    buffer: &mut [u8],
    mut own: impl FnMut(&mut L, u64, &mut [u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut at = offset;
    let mut rest = buffer;
    while !rest.is_empty() {
        let (place, length) = image.locate(at)?;
        let length = length.min(rest.len() as u64);
        let (part, after) = rest.split_at_mut(length as usize);
        match place {
            Place::Lower(location) => location.device.read(location.offset, part)?,
            Place::Hole => part.fill(0),
            Place::Own => own(image, at, part)?,
        }
        at += length;
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use memnbd_guest::testing;

    use super::*;

    const SIZE: u64 = 1 << 20;

    /// A disk in parts of 64 bytes: two in a row on the device, then one hole, one of its own; the last
    /// one is damaged.
    struct Parts(Lower);

    impl Locate for Parts {
        fn locate(&mut self, at: u64) -> Result<(Place, u64), Error> {
            let place = match at / 64 % 4 {
                _ if at >= SIZE - 64 => return Err(Error::EIO),
                0 | 1 => self.0.at(at).into(),
                2 => Place::Hole,
                _ => Place::Own,
            };
            Ok((place, 64 - at % 64))
        }
    }

    fn parts() -> Parts {
        let device = testing::device(SIZE, Capabilities::WRITABLE);
        device.write(0, &vec![1; SIZE as usize], false).unwrap();
        Parts(device)
    }

    #[test]
    fn requests_go_where_their_parts_are() {
        let mut parts = parts();
        let device = parts.0;
        let found = route(&mut parts, &Request::new(Operation::Read, 10, 300)).unwrap();
        let expected = Route::lower(device.at(10), 118)
            .segment(Place::Hole, 64)
            .segment(Place::Own, 64)
            .segment(device.at(256), 54);
        assert_eq!(found, expected);
    }

    #[test]
    fn requests_in_too_many_parts_end_with_one_of_the_component() {
        let mut parts = parts();
        let found = route(&mut parts, &Request::new(Operation::Read, 0, SIZE)).unwrap();
        let rest = found.segments.last().unwrap();
        assert!(
            found.parts() <= MAX_PARTS + 1 && rest.place == Place::Own && rest.length > SIZE / 2
        );
        let mut bytes = vec![9; 1024];
        read(&mut parts, 0, &mut bytes, |_, at, part| {
            assert_eq!((at / 64 % 4, part.len()), (3, 64));
            part.fill(2);
            Ok(())
        })
        .unwrap();
        let expected = [[1; 64], [1; 64], [0; 64], [2; 64]].concat().repeat(4);
        assert!(bytes == expected);
        let whole = Request::new(Operation::Extents, 0, SIZE);
        let found = route(&mut parts, &whole).unwrap();
        assert!(found.segments.iter().map(|segment| segment.length).sum::<u64>() < SIZE);
    }

    #[test]
    fn damage_is_for_those_who_ask_for_it() {
        let mut parts = parts();
        let end = |operation| Request::new(operation, SIZE - 74, 74);
        assert!(route(&mut parts, &end(Operation::Read)).is_err());
        let extents = route(&mut parts, &end(Operation::Extents)).unwrap();
        assert_eq!(extents, Route::new().segment(Place::Hole, 10));
        assert_eq!(stable(&mut parts, SIZE - 64, SIZE), None);
        let hole = StableRoute::new(Place::Hole, 10);
        assert_eq!(stable(&mut parts, SIZE - 74, SIZE), Some(hole));
        let on_device = StableRoute::new(parts.0.at(3), 125);
        assert_eq!(stable(&mut parts, 3, SIZE), Some(on_device));
    }
}
