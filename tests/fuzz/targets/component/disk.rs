//! What `open` returns.

use memnbd::block::{BlockSizes, Capabilities, MAX_SIZE, MAX_TRANSFER};
use memnbd::component::{Disk, Sharing};

use super::guest::{check_fault, with_instance, write};
use super::memory::Memory;
use super::{check_shown, check_shown_up_to, is_replaced};

/// The longest message of an error that the host uses, in bytes.
const MAX_MESSAGE: usize = 1024;

/// Where the guest has what `stripe-size` returns.
const STRIPE_SIZE: u32 = 0x17ff8;

/// A disk of the model, as the component has it.
struct Said<'a> {
    size: u64,
    minimum: u32,
    preferred: u32,
    maximum: u32,
    capabilities: u16,
    /// What `stripe-size` returns.
    stripe: u64,
    description: &'a str,
}

/// The bytes are the guest's memory.
pub(crate) fn disk(data: &[u8]) {
    let memory = Memory::new(data);
    let lifted = lift(&memory);
    with_instance(None, async |mut instance| {
        write(&mut instance, &memory).await;
        match (instance.open("", false, &[]).await, lifted) {
            (Ok(Ok(disk)), Some(Ok(said))) => {
                assert!(is_in_order(&said), "{disk:?}");
                check(&disk, &said);
            }
            (Ok(Err(text)), Some(Err(said))) => {
                assert!(!text.trim().is_empty(), "a refusal says something");
                let said = said.unwrap_or_default();
                if said.chars().any(|c| !is_replaced(c) && !c.is_whitespace()) {
                    check_shown_up_to(&text, said, MAX_MESSAGE);
                }
            }
            (Err(fault), lifted) => {
                assert!(!matches!(&lifted, Some(Err(_))), "a refusal is an answer");
                if let Some(Ok(said)) = &lifted {
                    assert!(!is_in_order(said), "nothing is wrong: {fault}");
                }
                check_fault(&fault, lifted.is_some());
            }
            (answer, lifted) => panic!("{answer:?}, but lifted: {}", lifted.is_some()),
        }
    });
}

impl Said<'_> {
    fn is_interchangeable(&self) -> bool {
        self.capabilities >> 10 & 1 != 0
    }
}

/// The rules of the contract.
fn is_in_order(said: &Said<'_>) -> bool {
    let Said { size, minimum, preferred, maximum, stripe, .. } = *said;
    size <= MAX_SIZE
        && minimum.is_power_of_two()
        && minimum <= 65536
        && preferred.is_power_of_two()
        && preferred >= minimum.max(512)
        && preferred <= 32 << 20
        && (maximum == 0 || (maximum >= preferred && maximum % minimum == 0))
        && match stripe {
            0 => true,
            stripe => !said.is_interchangeable() && stripe.is_power_of_two() && stripe >= 65536,
        }
}

fn check(disk: &Disk, said: &Said<'_>) {
    assert_eq!(disk.size, said.size / u64::from(said.minimum) * u64::from(said.minimum));
    let maximum = if said.maximum == 0 { MAX_TRANSFER } else { said.maximum.min(MAX_TRANSFER) };
    assert_eq!(
        disk.block_sizes,
        BlockSizes { minimum: said.minimum, preferred: said.preferred, maximum }
    );
    let can = |bit: u32| said.capabilities >> bit & 1 != 0;
    assert_eq!(
        disk.capabilities,
        Capabilities {
            writable: can(0),
            flush: can(1),
            fua: can(2),
            trim: can(3),
            zero: can(4),
            fast_zero: can(4) && can(5),
            cache: can(6),
            multi_conn: can(8),
            rotational: can(9),
        }
    );
    assert_eq!(disk.extents, can(7));
    assert_eq!(
        disk.sharing,
        match said.stripe {
            0 if said.is_interchangeable() => Sharing::Interchangeable,
            0 => Sharing::Exclusive,
            stripe => Sharing::Striped { shift: stripe.ilog2() },
        }
    );
    assert!(!disk.direct_access);
    check_shown(&disk.description, said.description);
}

/// `result<disk, error>`, and what `stripe-size` returns. The message of an error may be missing.
fn lift(memory: &Memory) -> Option<Result<Said<'_>, Option<&str>>> {
    let at = memory.answer(40, 8)?;
    match memory.u8(at) {
        0 => {}
        1 => return memory.error(at + 8).map(Err),
        _ => return None,
    }
    let at = at + 8;
    Some(Ok(Said {
        size: memory.u64(at)?,
        minimum: memory.u32(at + 8)?,
        preferred: memory.u32(at + 12)?,
        maximum: memory.u32(at + 16)?,
        capabilities: memory.u16(at + 20),
        stripe: memory.u64(STRIPE_SIZE)?,
        description: memory.string(at + 24)?,
    }))
}
