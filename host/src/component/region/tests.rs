use super::*;
use crate::block::MAX_RUNS;

const PAGE: usize = 64 << 10;
const RESERVED: usize = 16 * PAGE;

fn linear() -> Linear {
    Regions::map(PAGE, RESERVED as u64, Some(RESERVED), PAGE).unwrap()
}

fn region(linear: &Linear) -> Region {
    Region(linear.0.clone())
}

/// The bytes at an address, as wasmtime has them.
fn slice(linear: &Linear, at: usize, length: usize) -> &[u8] {
    assert!(at + length <= linear.byte_size());
    // SAFETY: they are accessible, and nobody changes them meanwhile.
    unsafe { slice::from_raw_parts(linear.as_ptr().add(at), length) }
}

#[test]
fn what_is_written_is_there() {
    let mut memory = linear();
    assert!(slice(&memory, 0, PAGE).iter().all(|&byte| byte == 0));
    let mut region = region(&memory);
    let at = region.position(slice(&memory, 100, 50)).unwrap();
    assert_eq!(at, 100);
    region.write(at, b"here");
    assert_eq!(region.bytes(98, 8), b"\0\0here\0\0");
    assert_eq!(slice(&memory, 100, 4), b"here");
    memory.grow_to(3 * PAGE).unwrap();
    assert_eq!((memory.byte_size(), slice(&memory, 100, 4)), (3 * PAGE, &b"here"[..]));
    assert_eq!(region.position(slice(&memory, 2 * PAGE, PAGE)), Some(2 * PAGE as u32));
}

#[test]
fn nothing_grows_into_the_guard() {
    let mut memory = linear();
    assert_eq!(memory.byte_capacity(), RESERVED);
    for size in [RESERVED + 1, RESERVED + PAGE, RESERVED + 2 * PAGE, 1 << 40, usize::MAX] {
        assert!(memory.grow_to(size).is_err(), "{size}");
        assert_eq!(memory.byte_size(), PAGE);
    }
    memory.grow_to(RESERVED).unwrap();
    assert!(memory.grow_to(RESERVED + PAGE).is_err());
    memory.grow_to(PAGE).unwrap();
    assert_eq!(memory.byte_size(), RESERVED, "and nothing shrinks");
    // All of it can be used, up to the last byte before the guard.
    let mut region = region(&memory);
    region.write(RESERVED as u32 - 1, b"x");
    assert_eq!(region.position(slice(&memory, RESERVED - 1, 1)), Some(RESERVED as u32 - 1));
}

#[test]
fn sizes_that_would_leave_no_whole_guard_are_refused() {
    assert!(Mapping::new(2 * PAGE, PAGE, PAGE).is_err(), "more than was reserved");
    assert!(Mapping::new(0, PAGE + 1, PAGE).is_err(), "the guard would begin within a page");
    assert!(Mapping::new(0, PAGE, PAGE - 1).is_err());
    assert!(Mapping::new(1, PAGE, PAGE).is_err(), "it would end within a page");
    assert!(Mapping::new(0, usize::MAX & !(PAGE - 1), PAGE).is_err(), "sums do not overflow");
    let map = |most, reserved| Regions::map(PAGE, most, reserved, PAGE);
    assert!(map(1 << 32, Some(RESERVED)).is_err(), "it could grow to more than is reserved");
    assert!(map(RESERVED as u64, None).is_err());
    assert!(map(RESERVED as u64, Some(RESERVED)).is_ok());
}

#[test]
fn types_that_are_off_are_refused_whatever_the_engine_says() {
    let reserved = Some(4 << 30);
    let new = |ty| Regions.new_memory(ty, PAGE, None, reserved, PAGE);
    assert!(new(MemoryType::new(1, None)).is_ok());
    assert!(new(MemoryType::new64(1, Some(2))).is_err());
    assert!(new(MemoryType::shared(1, 2)).is_err());
}

#[test]
fn what_is_received_to_is_apart() {
    let memory = linear();
    let mut region = region(&memory);
    let mut scatter = region.scatter(&[(100, 10), (110, 10), (0, 100)]).unwrap();
    for (slice, byte) in scatter.slices().iter_mut().zip(1..) {
        slice.fill(byte);
    }
    let expected = [vec![3; 100], vec![1; 10], vec![2; 10], vec![0; 10]].concat();
    assert_eq!(region.bytes(0, 130), expected);
    for overlap in [(100, 1), (95, 6), (109, 1), (0, 200)] {
        assert!(region.scatter(&[(100, 10), overlap]).is_none(), "{overlap:?}");
    }
    let many: Vec<(u32, u32)> = (0..100).map(|at| (at, 1)).collect();
    assert!(region.scatter(&many[..MAX_RUNS]).is_some());
    assert!(region.scatter(&many).is_none());
}

#[test]
#[should_panic = "a page lies within its memory"]
fn nothing_is_received_beyond_what_is_accessible() {
    let memory = linear();
    region(&memory).scatter(&[(0, 8), (PAGE as u32 - 1, 2)]);
}

#[test]
#[should_panic = "a page lies within its memory"]
fn nothing_is_read_beyond_what_is_accessible() {
    let memory = linear();
    region(&memory).bytes(1, PAGE as u32);
}

#[test]
#[should_panic = "a page lies within its memory"]
fn nothing_is_written_beyond_what_is_accessible() {
    let memory = linear();
    region(&memory).write(PAGE as u32 - 1, &[1, 2]);
}

#[tokio::test]
async fn memories_belong_to_the_future_that_made_them() {
    let make = async |count: usize| {
        let mut made = Vec::new();
        for _ in 0..count {
            made.push(linear());
            // Others are polled in between.
            tokio::task::yield_now().await;
        }
        made
    };
    let outside = linear();
    let two = collect(make(2));
    let three = collect(make(3));
    let ((two, mut memories), (three, of_three)) = tokio::join!(two, three);
    assert_eq!((two.len(), memories.regions.len()), (2, 2));
    assert_eq!((three.len(), of_three.regions.len()), (3, 3));
    for foreign in [slice(&outside, 0, 8), slice(&three[0], 0, 8), b"elsewhere"] {
        assert!(memories.take(foreign).is_none());
    }
    let mut second = memories.take(slice(&two[1], 8, 8)).unwrap();
    second.write(8, b"second");
    assert_eq!(slice(&two[1], 8, 6), b"second");
    drop((two, memories));
    assert_eq!(second.bytes(8, 6), b"second", "somebody has the region still");
    assert!(MEMORIES.with_borrow(Option::is_none));
}

#[tokio::test]
async fn want_of_addresses_is_told_to_the_one_who_wants_them() {
    let all = || {
        let ty = MemoryType::new(1, None);
        Regions.new_memory(ty, PAGE, None, Some(usize::MAX & !(PAGE - 1)), PAGE).map(drop)
    };
    assert!(all().is_err());
    let (result, memories) = collect(async { all() }).await;
    assert!(result.is_err() && memories.is_exhausted());
    let (_, memories) = collect(async {}).await;
    assert!(!memories.is_exhausted());
}
