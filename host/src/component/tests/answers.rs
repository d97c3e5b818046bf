//! Answers of `read` and `extents` that the contract forbids.

use super::guest::{Guest, MIB};
use super::{LONG, opened};
use crate::block::Chunk;
use crate::block::Span;
use crate::component::{Breach, Fault};

/// What a fault is expected to be.
#[derive(Clone, Debug)]
enum Expected {
    Breach(Breach),
    /// The answer cannot even be decoded.
    Trap,
}

impl Expected {
    fn check(&self, fault: &Fault, context: &str) {
        let as_expected = match (self, fault) {
            (Self::Breach(expected), Fault::Breach { breach, .. }) => expected == breach,
            (Self::Trap, Fault::Trap { .. }) => true,
            _ => false,
        };
        assert!(as_expected, "{context}: {fault:?}, not {self:?}");
    }
}

/// Fills memory from the disk on with `count` elements, each made by `element`, a piece of text
/// that uses `$chunk` as its address and is `size` bytes long.
fn repeated(count: u32, size: u32, element: &str) -> String {
    format!(
        "(local.set $chunk (i32.const 0x10000))
         (loop $more
           {element}
           (local.set $chunk (i32.add (local.get $chunk) (i32.const {size})))
           (br_if $more (i32.lt_u (local.get $chunk) (i32.const {}))))
         (call $list (i32.const 0x10000) (i32.const {count}))",
        0x10000 + count * size
    )
}

fn hole(length: &str) -> String {
    format!(
        "(call $hole (i32.const 0x1000) {length}) (call $list (i32.const 0x1000) (i32.const 1))"
    )
}

fn data(pointer: &str, length: &str) -> String {
    format!(
        "(call $data (i32.const 0x1000) (i32.const {pointer}) (i32.const {length}))
         (call $list (i32.const 0x1000) (i32.const 1))"
    )
}

/// Both ways to take chunks check the same.
async fn read_fault(read: &str, lends_chunks: bool) -> Fault {
    let guest = Guest::new().with("read", read);
    let guest = if lends_chunks { guest.lending() } else { guest };
    let mut instance = opened(&guest, LONG).await;
    instance.read(0, 4096).await.expect_err(read)
}

#[tokio::test]
async fn read_of_another_length_breaks_the_contract() {
    let length = |got| Expected::Breach(Breach::ReadLength { wanted: 4096, got });
    let huge = repeated(2, 12, "(call $hole (local.get $chunk) (i32.const -1))");
    let cases = [
        (hole("(i32.const 4095)"), length(4095)),
        (hole("(i32.const 4097)"), length(4097)),
        (data("0x10000", "4095"), length(4095)),
        (data("0x10000", "4097"), length(4097)),
        ("(call $list (i32.const 0x1000) (i32.const 0))".into(), length(0)),
        (huge, length(2 * u64::from(u32::MAX))),
        (hole("(i32.const 0)"), Expected::Breach(Breach::EmptyChunk { index: 0 })),
        (data("0x10000", "0"), Expected::Breach(Breach::EmptyChunk { index: 0 })),
        (
            repeated(4097, 12, "(call $hole (local.get $chunk) (i32.const 1))"),
            Expected::Breach(Breach::TooManyChunks(4097)),
        ),
    ];
    for (read, expected) in cases {
        for lends_chunks in [false, true] {
            expected.check(&read_fault(&read, lends_chunks).await, &read);
        }
    }
}

#[tokio::test]
async fn read_that_cannot_be_decoded_is_a_fault() {
    let store8 = |at: &str, value: u32, then: &str| {
        format!("{then} (i32.store8 (i32.const {at}) (i32.const {value}))")
    };
    let cases = [
        data("0x7fffffff", "4096"),
        data("0xfffffff0", "4096"),
        data("0x27ffff", "4096"),
        "(call $list (i32.const 0xfffffff0) (i32.const 1))".into(),
        "(call $list (i32.const 0x1000) (i32.const -1))".into(),
        "(call $list (i32.const 0x1001) (i32.const 1))".into(),
        "(i32.const 0xfffffff0)".into(),
        "(i32.const 0x101)".into(),
        store8("0x1000", 2, &hole("(i32.const 4096)")),
        store8("0x100", 2, &hole("(i32.const 4096)")),
        "(call $fail (i32.const 8))".into(),
        "(call $fail (i32.const 255))".into(),
    ];
    for read in cases {
        for lends_chunks in [false, true] {
            Expected::Trap.check(&read_fault(&read, lends_chunks).await, &read);
        }
    }
}

/// Thousands of chunks that are one and the same megabyte: gigabytes, if the host copied them.
#[tokio::test]
async fn aliased_chunks_cost_the_host_no_gigabytes() {
    let read = repeated(
        4096,
        12,
        "(call $data (local.get $chunk) (i32.const 0x80000) (i32.const 0x100000))",
    );
    let before = peak_memory();
    Expected::Trap.check(&read_fault(&read, false).await, "copied");
    let fault = read_fault(&read, true).await;
    assert!(
        matches!(
            fault,
            Fault::Trap { .. } | Fault::Breach { breach: Breach::ReadLength { .. }, .. }
        ),
        "{fault:?}"
    );
    let taken = peak_memory().saturating_sub(before);
    assert!(taken < 1 << 30, "the host took {taken} bytes");
}

/// The most memory that the process had so far, in bytes; 0 where there is no telling.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[tokio::test]
async fn longest_read_of_the_most_chunks_is_taken() {
    let read = repeated(
        4096,
        12,
        "(call $data (local.get $chunk) (i32.const 0x80000) (i32.const 0x4000))",
    );
    for guest in [Guest::new(), Guest::new().lending()] {
        let guest = guest.with("read", read.as_str()).opened(|disk| disk.size = 64 * MIB);
        let mut instance = opened(&guest, LONG).await;
        instance.read(0, 64 << 20).await.unwrap().unwrap();
        assert!(matches!(instance.chunk(4095), Some(Chunk::Data(data)) if data.len() == 0x4000));
        assert_eq!(instance.chunk(4096), None);
    }
}

/// What is lent is what the guest's memory holds, whatever the guest does with it before the next
/// call.
#[tokio::test]
async fn wrongly_lent_chunks_are_wrong_data_and_nothing_else() {
    let guest = Guest::new()
        .lending()
        .with("post-read", "(memory.fill (i32.const 0x1000) (i32.const 0xee) (i32.const 0x20000))");
    let mut instance = opened(&guest, LONG).await;
    // The list itself is overwritten, too.
    let fault = instance.read(0, 4096).await.unwrap_err();
    assert!(matches!(fault, Fault::Trap { .. }), "{fault:?}");

    let guest = guest.with(
        "post-read",
        "(memory.fill (i32.const 0x10000) (i32.const 0xee) (i32.const 0x1000))
         (drop (memory.grow (i32.const 16)))",
    );
    let mut instance = opened(&guest, LONG).await;
    instance.write(0, &[1; 8192], false).await.unwrap().unwrap();
    instance.read(0, 8192).await.unwrap().unwrap();
    assert_eq!(instance.chunk(0), Some(Chunk::Data(&[0xee; 4096])));
    assert_eq!(instance.chunk(1), Some(Chunk::Data(&[1; 4096])));
}

/// The extents that a disk of 1 MiB with blocks of 512 bytes answers from an offset on.
async fn extents_fault(extents: &str, offset: u64) -> Fault {
    let guest = Guest::new()
        .with("extents", extents.replace("$chunk", "$extent"))
        .opened(|disk| disk.minimum_block = 512);
    let mut instance = opened(&guest, LONG).await;
    instance.extents(Span { offset, length: 512 }).await.expect_err(extents)
}

fn extents(lengths: &[u64]) -> String {
    let mut text = String::new();
    for (index, length) in lengths.iter().enumerate() {
        let at = 0x2000 + 16 * index;
        text += &format!("(call $extent (i32.const {at}) (i64.const {length}) (i32.const 0))\n");
    }
    text + &format!("(call $list (i32.const 0x2000) (i32.const {}))", lengths.len())
}

#[tokio::test]
async fn extents_against_the_rules_break_the_contract() {
    let many =
        repeated(4097, 16, "(call $extent (local.get $chunk) (i64.const 512) (i32.const 0))");
    let beyond = |index, length, rest| Breach::ExtentBeyondEnd { index, length, rest };
    let cases = [
        (extents(&[]), 0, Breach::ExtentCount(0)),
        (many, 0, Breach::ExtentCount(4097)),
        (extents(&[0]), 0, Breach::EmptyExtent { index: 0 }),
        (extents(&[512, 0]), 0, Breach::EmptyExtent { index: 1 }),
        (extents(&[u64::MAX]), 0, beyond(0, u64::MAX, MIB)),
        (extents(&[512, u64::MAX]), 0, beyond(1, u64::MAX, MIB - 512)),
        (extents(&[1 << 63, 1 << 63]), 0, beyond(0, 1 << 63, MIB)),
        (extents(&[MIB + 512]), 0, beyond(0, MIB + 512, MIB)),
        (extents(&[MIB]), 512, beyond(0, MIB, MIB - 512)),
        (extents(&[100]), 0, Breach::ExtentUnaligned { index: 0, length: 100, minimum: 512 }),
    ];
    for (answer, offset, breach) in cases {
        Expected::Breach(breach).check(&extents_fault(&answer, offset).await, &answer);
    }
    let cases = [
        "(call $list (i32.const 0xfffffff0) (i32.const 1))",
        "(call $list (i32.const 0x2001) (i32.const 1))",
        "(call $list (i32.const 0x10000) (i32.const 0x10000000))",
        "(call $fail (i32.const 8))",
    ];
    for answer in cases {
        Expected::Trap.check(&extents_fault(answer, 0).await, answer);
    }
}

#[tokio::test]
async fn extents_may_reach_beyond_what_was_asked_for() {
    let guest = Guest::new().with("extents", extents(&[MIB - 512]));
    let mut instance = opened(&guest, LONG).await;
    let extents = instance.extents(Span { offset: 512, length: 512 }).await.unwrap().unwrap();
    assert_eq!(extents.len(), 1);
    assert_eq!(extents[0].length, MIB - 512);
}
