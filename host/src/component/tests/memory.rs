//! Components and the memory they may have.

use super::guest::Guest;
use super::{BUDGET, LONG, load, opened, started};
use crate::block::ErrorCode;
use crate::component::{Fault, Limit, LoadError, MemoryBudget};

/// Grows the memory until that is refused.
const GROW: &str =
    "(loop $grow (br_if $grow (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))";

#[tokio::test]
async fn growth_without_end_stops_at_the_budget_and_is_given_back() {
    let component =
        load(&Guest::new().with("flush", format!("{GROW} (unreachable)")), LONG).await.unwrap();
    let budget = MemoryBudget::new(BUDGET);
    let mut instance = component.start(budget.clone()).await.unwrap();
    instance.open("", false, &[]).await.unwrap().unwrap();
    assert!(!instance.has_grown());
    let fault = instance.flush().await.unwrap_err();
    assert!(matches!(fault, Fault::OutOfMemory { limit: Limit::Budget(BUDGET), .. }), "{fault:?}");
    assert!(fault.to_string().contains("--max-memory"), "{fault}");
    assert!(instance.has_grown());
    assert!(budget.used() <= BUDGET);
    assert!(budget.used() > BUDGET - (1 << 20), "used {}", budget.used());
    drop(instance);
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn component_may_answer_that_memory_is_out() {
    let guest = Guest::new().with("flush", format!("{GROW} (call $fail (i32.const 4))"));
    let mut instance = opened(&guest, LONG).await;
    assert_eq!(instance.flush().await.unwrap(), Err(ErrorCode::NoSpc.into()));
    assert!(instance.was_refused_memory());
    instance.read(0, 4096).await.unwrap().unwrap();
    assert!(!instance.was_refused_memory());
}

#[tokio::test]
async fn trap_that_has_nothing_to_do_with_memory_is_not_blamed_on_it() {
    let guest = Guest::new()
        .with("flush", format!("{GROW} (call $fail (i32.const 4))"))
        .with("cache", "(unreachable)");
    let mut instance = opened(&guest, LONG).await;
    instance.flush().await.unwrap().unwrap_err();
    let fault = instance.cache(super::SPAN).await.unwrap_err();
    assert!(matches!(fault, Fault::Trap { .. }), "{fault:?}");
}

#[tokio::test]
async fn component_larger_than_the_budget_cannot_start() {
    let component = load(&Guest::new(), LONG).await.unwrap();
    let budget = MemoryBudget::new(1 << 20);
    let fault = component.start(budget.clone()).await.err().unwrap();
    assert!(
        matches!(fault, Fault::OutOfMemory { limit: Limit::Budget(0x10_0000), .. }),
        "{fault:?}"
    );
    assert!(fault.to_string().contains("--max-memory"), "{fault}");
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn component_that_needs_memory_to_open_says_so() {
    let guest = Guest::new().with("open", format!("{GROW} (unreachable)"));
    let mut instance = started(&guest, LONG).await;
    let fault = instance.open("", false, &[]).await.unwrap_err();
    assert!(matches!(fault, Fault::OutOfMemory { limit: Limit::Budget(BUDGET), .. }), "{fault:?}");
}

#[tokio::test]
async fn description_may_not_take_all_memory() {
    let guest = Guest::new().with("describe", format!("{GROW} (unreachable)"));
    let error = load(&guest, LONG).await.unwrap_err();
    assert!(matches!(error, LoadError::Fault(Fault::OutOfMemory { .. })), "{error:?}");
    assert!(!error.to_string().contains("--max-memory"), "which says nothing here: {error}");
    let error = load(&Guest::new().with("memory", "65536"), LONG).await.unwrap_err();
    assert!(matches!(error, LoadError::Fault(Fault::OutOfMemory { .. })), "{error:?}");
}

/// What a memory may not have by its own type is not charged.
#[tokio::test]
async fn growth_over_the_own_maximum_costs_nothing() {
    let guest = Guest::new()
        .with("memory", "30 31")
        .with("flush", format!("{GROW} (drop (memory.grow (i32.const 65536))) (call $done)"));
    let component = load(&guest, LONG).await.unwrap();
    let budget = MemoryBudget::new(u64::MAX);
    let mut instance = component.start(budget.clone()).await.unwrap();
    for _ in 0..100 {
        instance.flush().await.unwrap().unwrap();
    }
    assert!(!instance.was_refused_memory());
    assert!(budget.used() <= 31 << 16, "used {}", budget.used());

    // 4 GiB is the end of any.
    let guest = Guest::new().with("flush", "(drop (memory.grow (i32.const 65535))) (call $done)");
    let component = load(&guest, LONG).await.unwrap();
    let budget = MemoryBudget::new(u64::MAX);
    let mut instance = component.start(budget.clone()).await.unwrap();
    instance.flush().await.unwrap().unwrap();
    assert!(budget.used() <= 40 << 16, "used {}", budget.used());
}
