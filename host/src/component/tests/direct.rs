//! Pages that the host reads and writes for itself.

use super::guest::Called::{MakePage, Page, Read, Trim, Write, Zero};
use super::guest::{Called, Guest, MIB, can, take_log};
use super::{LONG, load, opened, started};
use crate::block::{Chunk, Span};
use crate::component::{Breach, Call, Fault, Instance};

const BLOCK: u64 = 4096;

async fn read(instance: &mut Instance, offset: u64, length: u64) -> Vec<u8> {
    let span = Span { offset, length };
    let resident = instance.make_resident(span).await.unwrap();
    if resident.is_none() {
        instance.read(offset, length as u32).await.unwrap().unwrap();
    }
    let chunks = (0..).map_while(|index| match resident {
        Some(resident) => instance.resident_chunk(resident, index),
        None => instance.chunk(index),
    });
    chunks.fold(Vec::new(), |mut bytes, chunk| {
        match chunk {
            Chunk::Data(data) => bytes.extend_from_slice(data),
            Chunk::Hole(length) => bytes.resize(bytes.len() + length as usize, 0),
        }
        bytes
    })
}

async fn write(instance: &mut Instance, offset: u64, data: &[u8]) {
    let span = Span { offset, length: data.len() as u64 };
    match instance.resident(span).filter(|resident| resident.length() == span.length) {
        Some(resident) => instance.write_resident(resident, data),
        None => instance.write(offset, data, false).await.unwrap().unwrap(),
    }
}

/// The calls since this was last called.
async fn calls(instance: &mut Instance) -> Vec<(Called, u64)> {
    // The log that was read is cleared by a call.
    instance.flush().await.unwrap().unwrap();
    let log = take_log(instance).await;
    let [calls @ .., (Called::Flush, 0, 0)] = &log[..] else { panic!("{log:?}") };
    calls.iter().map(|&(called, offset, _)| (called, offset)).collect()
}

#[tokio::test]
async fn known_pages_are_read_and_written_without_a_call() {
    let mut instance = opened(&Guest::new().direct(), LONG).await;
    write(&mut instance, 100, &[1; 100]).await;
    assert_eq!(calls(&mut instance).await, [(Page, 0), (Write(false), 100)], "there was no page");
    assert_eq!(read(&mut instance, 0, 300).await[99..201], [&[0][..], &[1; 100], &[0]].concat());
    assert_eq!(calls(&mut instance).await, [(Page, 0)], "it reads there");
    for round in 2..10 {
        write(&mut instance, 4000, &[round; 96]).await;
        assert_eq!(read(&mut instance, 3999, 97).await, [&[0][..], &[round; 96]].concat());
    }
    assert_eq!(calls(&mut instance).await, []);
}

#[tokio::test]
async fn spans_of_several_pages_take_no_call_once_all_are_known() {
    let mut instance = opened(&Guest::new().direct(), LONG).await;
    write(&mut instance, 0, &[1; 3 * BLOCK as usize]).await;
    write(&mut instance, 4000, &[2; 5000]).await;
    let asked = [(Page, 0), (Write(false), 0), (Page, 0), (Page, BLOCK), (Page, 2 * BLOCK)];
    assert_eq!(calls(&mut instance).await, asked);
    write(&mut instance, 4090, &[3; 5000]).await;
    let expected: Vec<u8> = [vec![2; 90], vec![3; 5000], vec![1; 10]].concat();
    assert_eq!(calls(&mut instance).await, []);
    assert_eq!(read(&mut instance, 4000, 5100).await, expected);
    assert_eq!(calls(&mut instance).await, []);
    // One of three is not known: nothing is written before that is known.
    write(&mut instance, 2 * BLOCK, &[4; 2 * BLOCK as usize]).await;
    let asked = [(Page, 3 * BLOCK), (Write(false), 2 * BLOCK)];
    assert_eq!(calls(&mut instance).await, asked);
    assert_eq!(
        read(&mut instance, 2 * BLOCK + 1, 2 * BLOCK - 2).await,
        [4; 2 * BLOCK as usize - 2]
    );
}

#[tokio::test]
async fn pages_are_forgotten_when_they_are_zeroed_or_trimmed() {
    let mut instance = opened(&Guest::new().direct(), LONG).await;
    for trim in [false, true] {
        for block in 0..4 {
            write(&mut instance, block * BLOCK, &[7; 4096]).await;
            read(&mut instance, block * BLOCK, 1).await;
        }
        calls(&mut instance).await;
        let span = Span { offset: BLOCK + 4095, length: 2 };
        let called = match trim {
            true => instance.trim(span, false).await.map(|_| Trim(false)),
            false => instance.zero(span, false, false, false).await.map(|_| Zero(0)),
        };
        let mut expected = vec![(called.unwrap(), span.offset)];
        for block in 0..4 {
            assert_eq!(read(&mut instance, block * BLOCK + 1, 2).await, [7, 7]);
            if block == 1 || block == 2 {
                expected.push((Page, block * BLOCK));
            }
        }
        assert_eq!(calls(&mut instance).await, expected);
        let whole = Span { offset: 0, length: MIB };
        instance.zero(whole, false, false, false).await.unwrap().unwrap();
        assert_eq!(read(&mut instance, 0, 4).await, [0; 4]);
        let expected = [(Zero(0), 0), (Page, 0), (Read, 0)];
        assert_eq!(calls(&mut instance).await, expected, "and it is a hole now");
    }
}

#[tokio::test]
async fn the_last_page_may_be_shorter() {
    let page = "(i32.store (i32.const 0x100) (i32.const 1))
        (i32.store (i32.const 0x104) (call $address (local.get $offset)))
        (i32.store (i32.const 0x108)
          (select (i32.const 4096) (i32.const 500) (i64.lt_u (local.get $offset) (i64.const 4096))))
        (i32.const 0x100)";
    let guest = Guest::new().direct().with("page", page).opened(|disk| disk.size = 4596);
    let mut instance = opened(&guest, LONG).await;
    write(&mut instance, 4000, &[5; 596]).await;
    assert_eq!(read(&mut instance, 4000, 96).await, [5; 96]);
    assert_eq!(read(&mut instance, 4096, 500).await, [5; 500]);
    assert_eq!(calls(&mut instance).await, [], "all are in pages");
}

#[tokio::test]
async fn sizes_of_pages_against_the_rules_break_the_contract() {
    for size in [0, 1, 2048, 4095, 4097, 3 << 20, 4 << 20, 1 << 31] {
        let guest = Guest::new().direct().with("page-size", format!("(i32.const {size})"));
        let mut instance = started(&guest, LONG).await;
        let fault = instance.open("", false, &[]).await.unwrap_err();
        let breach = Breach::PageSize(size);
        assert!(
            matches!(fault, Fault::Breach { call: Call::PageSize, breach: ref b } if *b == breach),
            "{size}: {fault}"
        );
    }
    let stripes = |shift: u32| Guest::new().direct().opened(|disk| disk.stripe = 1 << shift);
    let long = |guest: Guest| guest.with("page-size", "(i32.const 0x20000)");
    let mut instance = started(&long(stripes(17)), LONG).await;
    instance.open("", false, &[]).await.unwrap().unwrap();
    let mut instance = started(&long(stripes(16)), LONG).await;
    let fault = instance.open("", false, &[]).await.unwrap_err();
    assert!(fault.to_string().contains("page-size() returned pages of 131072 bytes; "), "{fault}");
}

#[tokio::test]
async fn pages_of_another_length_break_the_contract() {
    for length in [0, 1, 4095, 4097, 8192] {
        let page = format!(
            "(i32.store (i32.const 0x100) (i32.const 1))
             (i32.store (i32.const 0x104) (i32.const 0x10000))
             (i32.store (i32.const 0x108) (i32.const {length}))
             (i32.const 0x100)"
        );
        let guest = Guest::new().direct().with("page", page);
        let span = Span { offset: 0, length: 512 };
        let fault = opened(&guest, LONG).await.make_resident(span).await.unwrap_err();
        let end = format!("page(0) returned a page of {length} bytes, not of 4096");
        assert!(fault.to_string().ends_with(&end), "{fault}");
        let fault = opened(&guest, LONG).await.write(0, &[1; 512], false).await.unwrap_err();
        assert!(fault.to_string().ends_with(&end), "{fault}");
    }
}

/// Other instances would not see what is written there.
#[tokio::test]
async fn pages_of_interchangeable_instances_are_not_used() {
    let guest = Guest::new().direct().opened(|disk| disk.capabilities |= can::INTERCHANGEABLE);
    let mut instance = opened(&guest, LONG).await;
    for byte in [1, 2] {
        write(&mut instance, 0, &[byte; 100]).await;
        assert_eq!(read(&mut instance, 0, 100).await, [byte; 100]);
        assert_eq!(calls(&mut instance).await, [(Write(false), 0), (Read, 0)]);
    }
}

/// It is refused before the host goes there.
#[tokio::test]
async fn pages_outside_of_memory_are_a_trap() {
    for address in ["0x27f001", "0xfffff000", "0xffffffff"] {
        let page = format!(
            "(i32.store (i32.const 0x100) (i32.const 1))
             (i32.store (i32.const 0x104) (i32.const {address}))
             (i32.store (i32.const 0x108) (i32.const 4096))
             (i32.const 0x100)"
        );
        let mut instance = opened(&Guest::new().direct().with("page", page), LONG).await;
        let fault = instance.make_resident(Span { offset: 0, length: 512 }).await.unwrap_err();
        assert!(matches!(fault, Fault::Trap { .. }), "{address}: {fault:?}");
    }
}

/// Receives to what the instance gives for a span, from a byte that counts. Returns how many bytes came
/// of the span and of what is behind it.
fn receive(instance: &mut Instance, offset: u64, length: u64) -> Option<(usize, usize)> {
    let mut behind = [0; 28];
    let resident = instance.resident(Span { offset, length })?;
    let all = resident.length() == length;
    let mut scatter = instance.scatter(resident, if all { &mut behind } else { &mut [] })?;
    let mut count = 0;
    for byte in scatter.slices().iter_mut().flat_map(|slice| slice.iter_mut()) {
        *byte = count as u8;
        count += 1;
    }
    let of_span = count.min(length as usize);
    assert!((of_span..count).map(|at| at as u8).eq(behind[..count - of_span].iter().copied()));
    Some((of_span, count - of_span))
}

#[tokio::test]
async fn data_is_received_to_pages_that_are_known() {
    let mut instance = opened(&Guest::new().direct(), LONG).await;
    assert!(receive(&mut instance, 0, 100).is_none(), "none is known");
    assert!(instance.resident(Span { offset: 0, length: 100 }).is_none());
    write(&mut instance, 0, &[1; 3 * BLOCK as usize]).await;
    write(&mut instance, 0, &[1; 3 * BLOCK as usize]).await;
    let resident = instance.resident(Span { offset: 0, length: 100 }).unwrap();
    instance.hint(resident).unwrap().prefetch();
    calls(&mut instance).await;
    for (offset, length) in [(0, 1), (4000, 96), (4000, 5000), (0, 3 * BLOCK), (5, 3 * BLOCK - 9)] {
        assert_eq!(receive(&mut instance, offset, length), Some((length as usize, 28)));
        let expected: Vec<u8> = (0..length).map(|at| at as u8).collect();
        assert!(read(&mut instance, offset, length).await == expected, "{offset}+{length}");
    }
    let written = read(&mut instance, 0, BLOCK).await;
    // The guest sees it, too.
    instance.zero(Span { offset: 4000, length: 1 }, false, false, false).await.unwrap().unwrap();
    assert_eq!(read(&mut instance, 0, 4000).await, written[..4000]);
    // As far as pages are known, and nothing of what is behind.
    instance
        .zero(Span { offset: 2 * BLOCK, length: 1 }, false, false, false)
        .await
        .unwrap()
        .unwrap();
    read(&mut instance, 0, 1).await;
    assert_eq!(receive(&mut instance, 100, 3 * BLOCK - 100), Some((2 * BLOCK as usize - 100, 0)));
    assert!(receive(&mut instance, 2 * BLOCK, BLOCK).is_none());
}

/// Two places that are one could not be lent at once.
#[tokio::test]
async fn pages_in_one_place_are_not_received_to_together() {
    let page = "(i32.store (i32.const 0x100) (i32.const 1))
        (i32.store (i32.const 0x104)
          (i32.add (i32.const 0x10000) (i32.shr_u (i32.wrap_i64 (local.get $offset)) (i32.const 1))))
        (i32.store (i32.const 0x108) (i32.const 4096))
        (i32.const 0x100)";
    let mut instance = opened(&Guest::new().direct().with("page", page), LONG).await;
    for block in 0..4 {
        read(&mut instance, block * BLOCK, 1).await;
    }
    assert_eq!(receive(&mut instance, 0, BLOCK), Some((BLOCK as usize, 28)));
    assert!(receive(&mut instance, 0, 2 * BLOCK).is_none(), "one overlaps the other");
    assert_eq!(receive(&mut instance, BLOCK - 10, 20), Some((20, 28)), "these parts do not");
}

/// A component may keep all pages in one place, and then there are more than it has memory for. They
/// take no more memory of the host than others.
#[tokio::test]
async fn pages_are_known_in_bounded_numbers() {
    let page = "(call $log (i32.const 8) (i32.const 0) (local.get $offset) (i64.const 4096))
        (i32.store (i32.const 0x100) (i32.const 1))
        (i32.store (i32.const 0x104) (i32.const 0x10000))
        (i32.store (i32.const 0x108) (i32.const 4096))
        (i32.const 0x100)";
    let guest = Guest::new().direct().with("page", page).opened(|disk| disk.size = 1 << 40);
    let mut instance = opened(&guest, LONG).await;
    // 40 pages of 64 KiB.
    let fit = 640;
    for block in 0..=fit {
        read(&mut instance, block * BLOCK, 1).await;
    }
    calls(&mut instance).await;
    read(&mut instance, fit * BLOCK, 1).await;
    read(&mut instance, 0, 1).await;
    assert_eq!(calls(&mut instance).await, [(Page, 0)], "the last one had taken the others' place");
}

/// A write to more pages than can be known asks for each once.
#[tokio::test]
async fn a_write_to_more_pages_than_can_be_known_comes_to_an_end() {
    let page = "(i32.store (i32.const 0x100) (i32.const 1))
        (i32.store (i32.const 0x104) (i32.const 0x10000))
        (i32.store (i32.const 0x108) (i32.const 4096))
        (i32.const 0x100)";
    let guest = Guest::new().direct().with("page", page).opened(|disk| disk.size = 1 << 40);
    let mut instance = opened(&guest, LONG).await;
    // 3 MiB are 768 pages, and 640 fit.
    let fault = instance.write(0, &vec![1; 3 << 20], false).await.unwrap_err();
    assert!(matches!(fault, Fault::Trap { .. }), "the guest has no room for the data: {fault:?}");
}

#[tokio::test]
async fn the_type_of_direct_access_is_checked() {
    let functions = r#"
        (func (export "page-size") (result s32) (canon lift (core func $i "page-size")))
        (func (export "page") (param "offset" u64) (result (option (list u8)))
          (canon lift (core func $i "page") (memory $mem)))
        (func (export "make-page") (param "offset" u64) (result (option (list u8)))
          (canon lift (core func $i "make-page") (memory $mem)))"#;
    let guest = Guest::new().direct().with("direct-functions", functions);
    let error = load(&guest, LONG).await.unwrap_err().to_string();
    let words = "its function page-size of memnbd:block/direct-access has another type";
    assert!(error.contains(words), "{error}");
    let guest = Guest::new().direct().with("direct-functions", "");
    let error = load(&guest, LONG).await.unwrap_err().to_string();
    let words = "its interface memnbd:block/direct-access has no function page-size";
    assert!(error.contains(words), "{error}");
}

/// The host writes to a page that it asked for, and the guest is not called.
#[tokio::test]
async fn pages_are_made_before_they_are_written() {
    let mut instance = opened(&Guest::new().direct(), LONG).await;
    let span = Span { offset: 4096, length: 8192 };
    assert!(instance.resident(span).is_none());
    assert!(instance.make_pages(span).await.unwrap());
    assert_eq!(calls(&mut instance).await, [(MakePage, 4096), (MakePage, 8192)]);
    write(&mut instance, 5000, &[5; 7000]).await;
    assert_eq!(read(&mut instance, 4096, 904).await, [0; 904]);
    assert_eq!(read(&mut instance, 5000, 7000).await, [5; 7000]);
    assert_eq!(calls(&mut instance).await, []);
    // A second time there is nothing to ask for.
    assert!(instance.make_pages(span).await.unwrap());
    assert_eq!(calls(&mut instance).await, []);
    let none = "(i32.store (i32.const 0x100) (i32.const 0)) (i32.const 0x100)";
    let mut instance = opened(&Guest::new().direct().with("make-page", none), LONG).await;
    assert!(!instance.make_pages(span).await.unwrap(), "the guest has no place");
    let mut instance = opened(&Guest::new(), LONG).await;
    assert!(!instance.make_pages(span).await.unwrap(), "nor has one without direct access");
}
