//! Snapshots of disks in memory.

mod changes;

use super::*;
use crate::block::Span;
use crate::component::tests::LONG;
use crate::device::{Answer, OwnDisk};

fn context() -> LayerContext {
    LayerContext {
        engine: Engine::new(LONG),
        export_name: "disk".into(),
        budgets: Budgets::alone(4 << 30),
    }
}

async fn memory(context: &LayerContext, size: &str) -> Arc<dyn Device> {
    let component = context.built_in("memory").await.unwrap();
    let arguments = component.description().parse_arguments(&[format!("size={size}")]);
    let config = DiskConfig {
        arguments: arguments.unwrap(),
        component,
        export_name: "disk".into(),
        read_only: false,
        budgets: context.budgets.clone(),
        lowers: Vec::new(),
        client: None,
    };
    OwnDisk(config).open(None).await.unwrap().device
}

async fn execute(device: &Arc<dyn Device>, command: Command, payload: Vec<u8>) -> Answer {
    let order = Order::new(command, payload.into(), Cancelled::default());
    lower::execute(device.clone(), order).await.unwrap()
}

async fn write(device: &Arc<dyn Device>, offset: u64, byte: u8) {
    let span = Span { offset, length: 512 };
    execute(device, Command::Write { span, fua: false }, vec![byte; 512]).await;
}

async fn read(device: &Arc<dyn Device>, offset: u64) -> u8 {
    let span = Span { offset, length: 512 };
    let Answer::Read(content) = execute(device, Command::Read { span }, Vec::new()).await else {
        panic!("it is a read")
    };
    let mut bytes = Vec::new();
    for part in content.into_parts() {
        match crate::component::OwnedChunk::from(part) {
            crate::component::OwnedChunk::Data(data) => bytes.extend(data),
            crate::component::OwnedChunk::Hole(length) => {
                bytes.resize(bytes.len() + length as usize, 0);
            }
        }
    }
    assert_eq!(bytes, vec![bytes[0]; 512]);
    bytes[0]
}

/// A disk on a snapshot, of which every other block was changed since: with the lengths and states that its
/// bitmap has.
pub(in crate::device) async fn fragmented() -> (Layer, Snapshot, Vec<(u64, u32)>) {
    let context = context();
    let snapshot = Snapshot::of(memory(&context, "4M").await).await.unwrap();
    let layer = snapshot.layer(&context).await.unwrap();
    let blocks = (4 << 20) / BLOCK;
    for block in (0..blocks).step_by(2) {
        write(layer.device(), block * BLOCK, 1).await;
    }
    let states = (0..blocks as u32).map(|block| (BLOCK, 1 - block % 2));
    (layer, snapshot, states.collect())
}

#[tokio::test]
async fn disks_on_a_snapshot_do_not_see_each_other() {
    let context = context();
    let disk = memory(&context, "1G").await;
    write(&disk, 0, 1).await;
    write(&disk, 5 * BLOCK, 2).await;
    let snapshot = Snapshot::of(disk).await.unwrap();
    assert_eq!(snapshot.size(), 1 << 30);
    let mut layers = Vec::new();
    for number in 10..20 {
        let layer = snapshot.layer(&context).await.unwrap();
        write(layer.device(), 0, number).await;
        write(layer.device(), u64::from(number) * BLOCK, number).await;
        layers.push(layer);
    }
    for (number, layer) in (10..20).zip(&layers) {
        for (block, byte) in [(0, number), (5, 2), (u64::from(number), number), (9, 0), (20, 0)] {
            assert_eq!(read(layer.device(), block * BLOCK).await, byte, "{block} of {number}");
        }
        let other = 10 + (number - 9) % 10;
        assert_eq!(read(layer.device(), u64::from(other) * BLOCK).await, 0);
    }
    drop(layers);
    let reader = snapshot.read_only(&context).await.unwrap();
    assert!(!reader.geometry().capabilities.writable);
    assert_eq!((read(&reader, 0).await, read(&reader, 10 * BLOCK).await), (1, 0));
}

#[tokio::test]
async fn every_snapshot_of_a_long_chain_keeps_what_it_held() {
    let context = context();
    let disk = memory(&context, "64M").await;
    write(&disk, 0, 255).await;
    let mut snapshots = vec![Snapshot::of(disk).await.unwrap()];
    for number in 1..=MAX_OVERLAYS as u8 + 40 {
        let layer = snapshots.last().unwrap().layer(&context).await.unwrap();
        assert!(layer.device().depth() <= 3, "however many there are");
        write(layer.device(), u64::from(number) * BLOCK, number).await;
        write(layer.device(), BLOCK * 500, number).await;
        snapshots.push(layer.freeze().await.unwrap());
    }
    for (number, snapshot) in snapshots.iter().enumerate().skip(1).step_by(7) {
        let reader = snapshot.read_only(&context).await.unwrap();
        assert_eq!(read(&reader, 0).await, 255);
        assert_eq!(read(&reader, BLOCK * 500).await, number as u8);
        for other in [1, number.max(2) - 1, number, number + 1] {
            let held = if (1..=number).contains(&other) { other as u8 } else { 0 };
            assert_eq!(read(&reader, other as u64 * BLOCK).await, held, "{other} of {number}");
        }
    }
}

#[tokio::test]
async fn layer_offers_what_a_disk_in_memory_does() {
    let context = context();
    let disk = memory(&context, "1G").await;
    let layer = Snapshot::of(disk.clone()).await.unwrap().layer(&context).await.unwrap();
    assert_eq!(disk.geometry().obstacle_to(layer.device().geometry()), None);
    let next = layer.freeze().await.unwrap().layer(&context).await.unwrap();
    assert_eq!(layer.device().geometry().obstacle_to(next.device().geometry()), None);
}
