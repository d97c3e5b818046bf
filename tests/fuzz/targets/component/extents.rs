//! What `extents` returns.

use memnbd::block::{MAX_SIZE, Span};

use super::super::Choices;
use super::guest::{Opened, check_fault, with_instance, write};
use super::memory::Memory;

/// The most extents that `extents` may return.
const MAX_EXTENTS: usize = 4096;

/// An extent of the model: its length, whether it is a hole, whether it reads as zeroes.
type Run = (u64, bool, bool);

/// The first byte chooses the minimum block, the next eight the size of the disk, the next eight
/// where in it the question begins. The rest is the guest's memory.
pub(crate) fn extents(data: &[u8]) {
    let mut choices = Choices(data);
    let minimum_block = 1_u32 << (choices.byte() % 17);
    let minimum = u64::from(minimum_block);
    let size = (choices.u64() & MAX_SIZE & !(minimum - 1)).max(minimum);
    let offset = (choices.u64() % size) & !(minimum - 1);
    let memory = Memory::new(choices.0);
    let lifted = lift(&memory);
    let opened = Opened { size, minimum_block, lends_chunks: false };
    with_instance(Some(&opened), async |mut instance| {
        write(&mut instance, &memory).await;
        let answer = instance.extents(Span { offset, length: size - offset }).await;
        match (answer, lifted) {
            (Ok(Ok(extents)), Some(Ok(runs))) => {
                assert!(is_in_order(&runs, size - offset, minimum));
                let extents = extents
                    .iter()
                    .map(|extent| (extent.length, extent.status.hole, extent.status.zero));
                assert!(extents.eq(runs), "other extents");
            }
            (Ok(Err(_)), Some(Err(()))) => {}
            (Err(fault), lifted) => {
                assert!(!matches!(&lifted, Some(Err(()))), "an error code is an answer");
                if let Some(Ok(runs)) = &lifted {
                    assert!(
                        !is_in_order(runs, size - offset, minimum),
                        "nothing is wrong: {fault}"
                    );
                }
                check_fault(&fault, lifted.is_some());
            }
            (answer, lifted) => panic!("{answer:?}, but lifted: {}", lifted.is_some()),
        }
    });
}

/// The rules of the contract.
fn is_in_order(runs: &[Run], left: u64, minimum: u64) -> bool {
    let sum: u128 = runs.iter().map(|(length, ..)| u128::from(*length)).sum();
    (1..=MAX_EXTENTS).contains(&runs.len())
        && runs.iter().all(|(length, ..)| *length > 0 && length % minimum == 0)
        && sum <= left.into()
}

/// `result<list<extent>, error>`.
fn lift(memory: &Memory) -> Option<Result<Vec<Run>, ()>> {
    let at = memory.answer(20, 4)?;
    match memory.u8(at) {
        0 => {}
        1 => return memory.error(at + 4).map(|_| Err(())),
        _ => return None,
    }
    let extents = memory.list(at + 4, 16, 8)?;
    let run = |index| {
        let at = extents.at + 16 * index;
        let status = memory.u8(at + 8);
        Some((memory.u64(at)?, status & 1 != 0, status & 2 != 0))
    };
    (0..extents.length).map(run).collect::<Option<Vec<Run>>>().map(Ok)
}
