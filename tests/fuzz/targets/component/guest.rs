//! The guest whose answers are chosen.

use std::sync::OnceLock;
use std::time::Duration;

use memnbd::component::{Component, Engine, Fault, Instance, MemoryBudget};
use tokio::runtime::{Builder, Runtime};

use super::memory::Memory;

/// How long a call may take. Each returns at once.
const LIMIT: Duration = Duration::from_secs(60);

/// More than the guest has.
const BUDGET: u64 = 1 << 20;

struct Host {
    runtime: Runtime,
    /// One that copies what is read, and one that lends it.
    components: [Component; 2],
}

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let lending = r#"(export "memnbd:block/lending@0.2.0" (instance $i))"#;
        let components = ["", lending].map(|lending| {
            let text = include_str!("../../guest.wat").replace("{{lending}}", lending);
            let wasm = wat::parse_str(text).unwrap();
            runtime.block_on(Engine::new(LIMIT).load("guest", &wasm)).unwrap()
        });
        Host { runtime, components }
    })
}

/// A disk that `open` returns.
pub(super) struct Opened {
    pub(super) size: u64,
    pub(super) minimum_block: u32,
    pub(super) lends_chunks: bool,
}

impl Opened {
    /// The memory of a guest that opens it.
    fn memory(&self) -> Memory {
        let mut image = vec![0; 64];
        image[0] = 8;
        image[16..24].copy_from_slice(&self.size.to_le_bytes());
        image[24..28].copy_from_slice(&self.minimum_block.to_le_bytes());
        image[28..32].copy_from_slice(&(1_u32 << 16).to_le_bytes());
        Memory::new(&image)
    }
}

/// Runs a future with a fresh instance, perhaps one that has opened a disk.
pub(super) fn with_instance<T>(opened: Option<&Opened>, run: impl AsyncFnOnce(Instance) -> T) -> T {
    let Host { runtime, components: [copying, lending] } = host();
    let component = match opened {
        Some(Opened { lends_chunks: true, .. }) => lending,
        _ => copying,
    };
    runtime.block_on(async {
        let mut instance = component.start(MemoryBudget::new(BUDGET)).await.expect("it starts");
        if let Some(opened) = opened {
            write(&mut instance, &opened.memory()).await;
            instance.open("", false, &[]).await.expect("no fault").expect("it opens");
        }
        run(instance).await
    })
}

/// Makes the guest's memory what it is to be.
pub(super) async fn write(instance: &mut Instance, memory: &Memory) {
    instance.write(0, memory.image(), false).await.expect("no fault").expect("it can be written");
}

/// An answer that cannot be lifted is a trap, one that can a breach of the contract; and both are
/// told in one short line.
pub(super) fn check_fault(fault: &Fault, is_lifted: bool) {
    match fault {
        Fault::Trap { .. } => assert!(!is_lifted, "it can be lifted: {fault}"),
        // The host counts before it lifts everything.
        Fault::Breach { .. } => {}
        other => panic!("{other:?}"),
    }
    let text = fault.to_string();
    assert!(text.len() < 1000 && !text.chars().any(char::is_control), "{text}");
}
