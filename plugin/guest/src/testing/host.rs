//! A model of what the host does with the requests of a filter.

use alloc::vec;
use alloc::vec::Vec;

use crate::{
    Error, ErrorCode, Filter, Location, MAX_COPY, MAX_DELAY, MAX_PARTS, Operation, Place, Request,
    Results, Route, ZeroOptions,
};

/// The longest piece in which this model moves data.
const PIECE: u64 = 1 << 20;

/// Serves a request as the host does, without waiting for its delay or hold.
///
/// A read fills `buffer`, and a write takes its data from there; both have the length of the
/// request. Other requests need no buffer. For `Extents`, this only checks the route.
///
/// # Errors
///
/// Returns what the client would get.
///
/// # Panics
///
/// Panics if a route breaks the contract, see [`check`].
pub fn serve<F: Filter>(filter: &mut F, request: &Request, buffer: &mut [u8]) -> Result<(), Error> {
    if matches!(request.operation, Operation::Read | Operation::Write) {
        assert_eq!(buffer.len() as u64, request.length, "the buffer has the length of the request");
    }
    let stable = filter.stable(request.operation, request.offset);
    let route = match stable.filter(|stable| stable.length >= request.length) {
        Some(stable) => Route::new().segment(stable.place, request.length),
        None => filter.route(request)?,
    };
    check(&route, request);
    loop {
        let copies: Vec<_> = route
            .copies
            .iter()
            .map(|range| copy(range.from, range.to, range.length).err().map(|error| error.code))
            .collect();
        let segments = match copies.iter().flatten().next() {
            Some(code) => vec![Some(*code); route.segments.len()],
            None => segments(filter, &route, request, buffer),
        };
        let results = Results { copies, segments };
        let again = match route.done {
            Some(token) => filter.repeat(token, &results)?,
            None => None,
        };
        match again {
            Some(delay) => assert!(delay <= MAX_DELAY, "the delay of {delay:?} is too long"),
            None => {
                let failure = results.segments.iter().flatten().next().copied();
                return failure.map_or(Ok(()), |code| Err(Error::new(code)));
            }
        }
    }
}

/// Checks that a route fits the request.
///
/// # Panics
///
/// Panics if the route breaks a rule of the contract.
pub fn check(route: &Route, request: &Request) {
    let operation = request.operation;
    assert!(route.parts() <= MAX_PARTS, "{} parts, at most {MAX_PARTS}", route.parts());
    assert!(!route.segments.is_empty(), "there is no segment");
    assert!(route.segments.iter().all(|segment| segment.length > 0), "a segment is empty");
    assert!(route.delay <= MAX_DELAY, "the delay of {:?} is too long", route.delay);
    if operation == Operation::Extents {
        assert!(route.length() <= request.length, "the segments are longer than the request");
    } else {
        assert_eq!(route.length(), request.length, "length of the segments and of the request");
    }
    for segment in &route.segments {
        match segment.place {
            Place::Lower(location) => inside(location, segment.length),
            Place::Own => {}
            Place::Hole => assert!(
                operation != Operation::Write && !request.keep_allocated,
                "a hole takes no data"
            ),
        }
    }
    for copy in &route.copies {
        assert!((1..=MAX_COPY).contains(&copy.length), "a copy of {} bytes", copy.length);
        inside(copy.from, copy.length);
        inside(copy.to, copy.length);
    }
    disjoint(route.copies.iter().map(|copy| (copy.to, copy.length)).collect());
    if operation.changes() {
        let targets = route.segments.iter().filter_map(|segment| match segment.place {
            Place::Lower(location) => Some((location, segment.length)),
            Place::Own | Place::Hole => None,
        });
        disjoint(targets.collect());
    }
}

fn inside(location: Location, length: u64) {
    let size = location.device.geometry().size;
    let end = location.offset.checked_add(length);
    assert!(end.is_some_and(|end| end <= size), "{location:?} + {length} is beyond the device");
}

fn disjoint(mut targets: Vec<(Location, u64)>) {
    targets.sort_by_key(|(location, _)| (location.device.number(), location.offset));
    for pair in targets.windows(2) {
        let [(left, length), (right, _)] = pair else { unreachable!("windows of two") };
        assert!(
            left.device != right.device || left.offset + length <= right.offset,
            "{left:?} + {length} overlaps {right:?}"
        );
    }
}

fn copy(from: Location, to: Location, length: u64) -> Result<(), Error> {
    let mut buffer = vec![0; length.min(PIECE) as usize];
    let mut at = 0;
    while at < length {
        let piece = &mut buffer[..(length - at).min(PIECE) as usize];
        from.device.read(from.offset + at, piece)?;
        to.device.write(to.offset + at, piece, false)?;
        at += piece.len() as u64;
    }
    Ok(())
}

fn segments<F: Filter>(
    filter: &mut F,
    route: &Route,
    request: &Request,
    buffer: &mut [u8],
) -> Vec<Option<ErrorCode>> {
    let mut rest = buffer;
    let mut offset = request.offset;
    let mut results = Vec::new();
    for segment in &route.segments {
        let data = rest.len().min(segment.length as usize);
        let (part, after) = rest.split_at_mut(data);
        rest = after;
        let request = Request { offset, length: segment.length, ..*request };
        let result = match segment.place {
            Place::Lower(location) => lower(location, &request, part),
            Place::Own => own(filter, &request, part),
            Place::Hole => {
                part.fill(0);
                Ok(())
            }
        };
        results.push(result.err().map(|error| error.code));
        offset += segment.length;
    }
    results
}

fn zero_options(request: &Request) -> ZeroOptions {
    ZeroOptions { fua: request.fua, keep_allocated: request.keep_allocated, fast: request.fast }
}

fn lower(location: Location, request: &Request, data: &mut [u8]) -> Result<(), Error> {
    let Location { device, offset } = location;
    let mut at = offset;
    match request.operation {
        Operation::Read => data.chunks_mut(PIECE as usize).try_for_each(|piece| {
            let result = device.read(at, piece);
            at += piece.len() as u64;
            result
        }),
        Operation::Write => data.chunks(PIECE as usize).try_for_each(|piece| {
            let result = device.write(at, piece, request.fua);
            at += piece.len() as u64;
            result
        }),
        Operation::Zero => device.zero(offset, request.length, zero_options(request)),
        Operation::Trim => device.trim(offset, request.length, request.fua),
        Operation::Cache => device.cache(offset, request.length),
        Operation::Extents => device.extents(offset, request.length).map(drop),
    }
}

fn own<F: Filter>(filter: &mut F, request: &Request, data: &mut [u8]) -> Result<(), Error> {
    let Request { offset, length, fua, .. } = *request;
    match request.operation {
        Operation::Read => filter.read(offset, data),
        Operation::Write => filter.write(offset, data, fua),
        Operation::Zero => filter.zero(offset, length, zero_options(request)),
        Operation::Trim => filter.trim(offset, length, fua),
        Operation::Cache => filter.cache(offset, length),
        Operation::Extents => filter.extents(offset, length).map(drop),
    }
}
