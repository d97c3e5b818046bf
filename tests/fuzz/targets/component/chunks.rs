//! What `read` returns.

use memnbd::block::{Chunk, MAX_TRANSFER};

use super::super::Choices;
use super::guest::{Opened, check_fault, with_instance, write};
use super::memory::{List, Memory};

/// The most chunks that `read` may return.
const MAX_CHUNKS: u32 = 4096;

/// As much is lifted whatever happens, in bytes.
const LIFTED: u64 = MAX_TRANSFER as u64 / 2;

/// A chunk of the model.
enum Part {
    Data(List),
    Hole(u32),
}

impl Part {
    fn length(&self) -> u64 {
        u64::from(match self {
            Self::Data(list) => list.length,
            Self::Hole(length) => *length,
        })
    }
}

/// The first byte says whether the component lends its chunks, the next four how much is read. The
/// rest is the guest's memory.
pub(crate) fn chunks(data: &[u8]) {
    let mut choices = Choices(data);
    let lends_chunks = choices.bool();
    let length = (choices.u32() % MAX_TRANSFER) + 1;
    let memory = Memory::new(choices.0);
    let lifted = lift(&memory);
    let opened = Opened { size: 1 << 40, minimum_block: 1, lends_chunks };
    with_instance(Some(&opened), async |mut instance| {
        write(&mut instance, &memory).await;
        match (instance.read(0, length).await, lifted) {
            (Ok(Ok(())), Some(Ok(parts))) => {
                assert!(parts.len() <= MAX_CHUNKS as usize);
                assert_eq!(parts.iter().map(Part::length).sum::<u64>(), u64::from(length));
                for (index, part) in parts.iter().enumerate() {
                    assert!(part.length() > 0);
                    match (instance.chunk(index), part) {
                        (Some(Chunk::Hole(length)), Part::Hole(expected)) => {
                            assert_eq!(length, *expected);
                        }
                        (Some(Chunk::Data(bytes)), Part::Data(expected)) => {
                            assert!(bytes == memory.bytes(*expected), "other bytes");
                        }
                        _ => panic!("another kind of chunk"),
                    }
                }
                assert!(instance.chunk(parts.len()).is_none());
            }
            (Ok(Err(_)), Some(Err(()))) => {}
            (Err(fault), lifted) => {
                assert!(!matches!(&lifted, Some(Err(()))), "an error code is an answer");
                let is_lifted = lifted.as_ref().is_some_and(|lifted| {
                    let parts = lifted.as_ref().map_or(&[][..], Vec::as_slice);
                    let sum: u64 = parts.iter().map(Part::length).sum();
                    let in_order = parts.len() <= MAX_CHUNKS as usize
                        && parts.iter().all(|part| part.length() > 0)
                        && sum == u64::from(length);
                    assert!(!in_order, "nothing is wrong: {fault}");
                    // Wasmtime limits what is lifted, above what the longest read takes.
                    sum <= LIFTED && parts.len() <= MAX_CHUNKS as usize
                });
                check_fault(&fault, is_lifted);
            }
            (answer, lifted) => panic!("{answer:?}, but lifted: {}", lifted.is_some()),
        }
    });
}

/// `result<list<chunk>, error>`.
fn lift(memory: &Memory) -> Option<Result<Vec<Part>, ()>> {
    let at = memory.answer(20, 4)?;
    match memory.u8(at) {
        0 => {}
        1 => return memory.error(at + 4).map(|_| Err(())),
        _ => return None,
    }
    let chunks = memory.list(at + 4, 12, 4)?;
    let part = |index| {
        let at = chunks.at + 12 * index;
        match memory.u8(at) {
            0 => Some(Part::Data(memory.list(at + 4, 1, 1)?)),
            1 => Some(Part::Hole(memory.u32(at + 4)?)),
            _ => None,
        }
    };
    (0..chunks.length).map(part).collect::<Option<Vec<Part>>>().map(Ok)
}
