//! What `open` and `describe` may say, and what they may not.

use super::guest::{Described, Guest, MIB, Opened, can};
use super::logs::Logs;
use super::{LONG, load, started};
use crate::block::{BlockSizes, MAX_SIZE};
use crate::component::{Breach, Call, Disk, Fault, LoadError, Sharing};

async fn open(guest: &Guest) -> Result<Result<Disk, String>, Fault> {
    started(guest, LONG).await.open("name", false, &[]).await
}

async fn breach(change: impl FnOnce(&mut Opened)) -> Breach {
    match open(&Guest::new().opened(change)).await {
        Err(Fault::Breach { call: Call::Open | Call::StripeSize, breach }) => breach,
        other => panic!("no breach: {other:?}"),
    }
}

#[tokio::test]
async fn absurd_sizes_break_the_contract() {
    for size in [1 << 63, u64::MAX] {
        assert_eq!(breach(|disk| disk.size = size).await, Breach::Size(size));
    }
    for size in [0, 1, 511, MAX_SIZE] {
        let disk = open(&Guest::new().opened(|disk| disk.size = size)).await.unwrap().unwrap();
        assert_eq!(disk.size, size);
    }
}

#[tokio::test]
async fn bytes_after_the_last_whole_block_are_not_served() {
    let guest = Guest::new().opened(|disk| (disk.size, disk.minimum_block) = (MIB + 511, 512));
    let logs = Logs::capture();
    assert_eq!(open(&guest).await.unwrap().unwrap().size, MIB);
    let warnings = logs.take(tracing::Level::WARN);
    let said = "1048576 of the 1049087 bytes of the disk are served: the size is not a multiple of \
                the minimum block of 512 bytes";
    assert!(warnings.len() == 1 && warnings[0].ends_with(said), "{warnings:?}");
}

#[tokio::test]
async fn block_sizes_against_the_rules_break_the_contract() {
    let bad = [
        (0, 4096, 0),
        (3, 4096, 0),
        (1 << 17, 1 << 17, 0),
        (u32::MAX, 4096, 0),
        (1, 0, 0),
        (1, 256, 0),
        (1, 4095, 0),
        (1, 1 << 31, 0),
        (4096, 512, 0),
        (1, 4096, 2048),
        (512, 4096, 4097),
    ];
    for (minimum, preferred, maximum) in bad {
        let breach = breach(|disk| {
            (disk.minimum_block, disk.preferred_block, disk.maximum_transfer) =
                (minimum, preferred, maximum);
        });
        assert!(matches!(breach.await, Breach::BlockSizes { .. }));
    }
    let good = [
        ((1, 512, 0), (1, 512, 64 << 20)),
        ((65536, 65536, 65536), (65536, 65536, 65536)),
        ((512, 4096, u32::MAX - 511), (512, 4096, 64 << 20)),
    ];
    for ((minimum, preferred, maximum), expected) in good {
        let guest = Guest::new().opened(|disk| {
            (disk.minimum_block, disk.preferred_block, disk.maximum_transfer) =
                (minimum, preferred, maximum);
        });
        let (minimum, preferred, maximum) = expected;
        let block_sizes = open(&guest).await.unwrap().unwrap().block_sizes;
        assert_eq!(block_sizes, BlockSizes { minimum, preferred, maximum });
    }
}

#[tokio::test]
async fn stripes_against_the_rules_break_the_contract() {
    for stripe in [1, 4096, 65535, 65537, 3 << 16, u64::MAX] {
        let breach = breach(|disk| disk.stripe = stripe).await;
        assert_eq!(breach, Breach::StripeSize(stripe));
    }
    for shift in [16, 63] {
        let guest = Guest::new().opened(|disk| disk.stripe = 1 << shift);
        let disk = open(&guest).await.unwrap().unwrap();
        assert_eq!(disk.sharing, Sharing::Striped { shift });
    }
    let guest = Guest::new().opened(|disk| {
        (disk.stripe, disk.capabilities) = (1 << 16, can::INTERCHANGEABLE);
    });
    let fault = open(&guest).await.unwrap_err();
    assert!(fault.to_string().contains("stripe-size() returned stripes of 65536 bytes"), "{fault}");
}

#[tokio::test]
async fn capabilities_imply_nothing() {
    let guest = Guest::new().opened(|disk| disk.capabilities = can::FAST_ZERO | can::EXTENTS);
    let disk = open(&guest).await.unwrap().unwrap();
    assert!(!disk.capabilities.fast_zero, "without zero it says nothing");
    assert!(!disk.capabilities.writable);
    assert!(disk.extents);
}

/// Refuses to open with a text of so many bytes of this value.
pub(crate) fn refusal(byte: u8, length: u32) -> Guest {
    Guest::new().with(
        "open",
        format!(
            "(drop (memory.grow (i32.const 256)))
             (memory.fill (i32.const 0x10000) (i32.const {byte}) (i32.const {length}))
             (i32.store (i32.const 0x100) (i32.const 1))
             (i32.store (i32.const 0x108) (i32.const 1))
             (i32.store (i32.const 0x10c) (i32.const 1))
             (i32.store (i32.const 0x110) (i32.const 0x10000))
             (i32.store (i32.const 0x114) (i32.const {length}))
             (i32.const 0x100)"
        ),
    )
}

#[tokio::test]
async fn refusals_are_printable_and_bounded() {
    let no_reason =
        "the component refused to open the disk (input/output error) and gave no reason";
    assert_eq!(open(&refusal(b'x', 0)).await.unwrap().unwrap_err(), no_reason);
    assert_eq!(open(&refusal(b'x', 3)).await.unwrap().unwrap_err(), "xxx");
    assert_eq!(open(&refusal(b'x', 8 << 20)).await.unwrap().unwrap_err(), "x".repeat(1024));
    for control in [0, 7, 9, 10, 13, 27, 127] {
        assert_eq!(open(&refusal(control, 3)).await.unwrap().unwrap_err(), no_reason);
    }
    let fault = open(&refusal(0xff, 3)).await.unwrap_err();
    assert!(matches!(fault, Fault::Trap { .. }), "not UTF-8: {fault:?}");
}

#[tokio::test]
async fn texts_of_a_disk_are_printable_and_bounded() {
    let text = "a\u{1b}[31mb\u{0}c\u{85}d\u{202e}e\u{2028}f";
    let guest = Guest::new().opened(|disk| disk.description = text.into());
    assert_eq!(open(&guest).await.unwrap().unwrap().description, "a [31mb c d e f");
    // A character of three bytes lies across the bound.
    let guest = Guest::new().with(
        "open",
        "(i32.store8 (i32.const 0x20000) (i32.const 0x61))
         (memory.copy (i32.const 0x20001) (i32.const 0x300) (i32.const 3))
         (memory.copy (i32.const 0x20004) (i32.const 0x20001) (i32.const 3))
         (memory.copy (i32.const 0x20007) (i32.const 0x20001) (i32.const 4095))
         (i32.store (i32.const 0x220) (i32.const 0x20000))
         (i32.store (i32.const 0x224) (i32.const 4099))
         (i32.const 0x200)",
    );
    let guest = guest.opened(|disk| disk.description = "\u{20ac}".into());
    let description = open(&guest).await.unwrap().unwrap().description;
    assert!(description.len() <= 4096 && description.starts_with("a\u{20ac}"), "{description:?}");
    let guest = Guest::new().opened(|disk| disk.description = vec![0xc3, 0x28]);
    let fault = open(&guest).await.unwrap_err();
    assert!(matches!(fault, Fault::Trap { .. }), "not UTF-8: {fault:?}");
}

async fn description_breach(described: Described) -> Breach {
    match load(&Guest::new().described(described), LONG).await {
        Err(LoadError::Fault(Fault::Breach { call: Call::Describe, breach })) => breach,
        other => panic!("no breach: {other:?}"),
    }
}

#[tokio::test]
async fn parameter_names_against_the_rules_break_the_contract() {
    let described = |parameters| Described { parameters, ..Described::default() };
    for (name, shown) in [
        ("", ""),
        ("1a", "1a"),
        ("-a", "-a"),
        ("a b", "a b"),
        ("a=b", "a=b"),
        ("\u{e4}", "\u{e4}"),
        ("a\u{0}", "a "),
    ] {
        let breach = description_breach(described(vec!["size", name])).await;
        assert_eq!(breach, Breach::ParameterName(shown.into()));
    }
    let breach = description_breach(described(vec!["a", "b", "a"])).await;
    assert_eq!(breach, Breach::ParameterTwice("a".into()));
    let described = Described {
        parameters: vec!["size"],
        bare_parameter: Some("sise"),
        ..Described::default()
    };
    assert_eq!(description_breach(described).await, Breach::BareParameter("sise".into()));
}

#[tokio::test]
async fn description_is_printable() {
    let described = Described {
        summary: b"one\nline\x1b[0m".to_vec(),
        parameters: vec!["size", "A-b_9"],
        bare_parameter: Some("size"),
        other_parameters: true,
    };
    let component = load(&Guest::new().described(described), LONG).await.unwrap();
    let description = component.description();
    assert_eq!((description.name.as_str(), description.version.as_str()), ("guest", "1.2.3"));
    assert_eq!(description.summary, "one line [0m");
    assert_eq!(description.parameters[1].name, "A-b_9");
    assert_eq!(description.parameters[1].default.as_deref(), Some("A-b_9"));
    assert_eq!(description.bare_parameter.as_deref(), Some("size"));
    assert!(description.other_parameters);
}

/// Hundreds of thousands of parameters, whose names are all different.
#[tokio::test]
async fn masses_of_parameters_break_the_contract_quickly() {
    let describe = "(local $at i32)
        (drop (memory.grow (i32.const 300)))
        (local.set $at (i32.const 0x200000))
        (loop $more
          (i32.store (local.get $at) (i32.const 0x280))
          (i32.store offset=4 (local.get $at) (i32.const 1))
          (local.set $at (i32.add (local.get $at) (i32.const 56)))
          (br_if $more (i32.lt_u (local.get $at) (i32.const 0x1300000))))
        (i32.store (i32.const 0x298) (i32.const 0x200000))
        (i32.store (i32.const 0x29c) (i32.const 300000))
        (i32.const 0x280)";
    let error = load(&Guest::new().with("describe", describe), LONG).await.unwrap_err();
    assert!(
        matches!(
            error,
            LoadError::Fault(Fault::Breach { breach: Breach::TooManyParameters(300_000), .. })
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn megabytes_of_text_are_cut() {
    let summary = |length: u32| {
        let describe = format!(
            "(drop (memory.grow (i32.const 2000)))
             (memory.fill (i32.const 0x10000) (i32.const 0x78) (i32.const {length}))
             (i32.store (i32.const 0x290) (i32.const 0x10000))
             (i32.store (i32.const 0x294) (i32.const {length}))
             (i32.const 0x280)"
        );
        Guest::new().with("describe", describe)
    };
    let component = load(&summary(8 << 20), LONG).await.unwrap();
    assert_eq!(component.description().summary, "x".repeat(4096));
    let error = load(&summary(100 << 20), LONG).await.unwrap_err();
    assert!(matches!(error, LoadError::Fault(Fault::Trap { .. })), "{error:?}");
}
