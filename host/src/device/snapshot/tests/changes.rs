//! What was changed since a snapshot: bitmaps, depths and differences against models.

use std::collections::BTreeSet;

use super::*;
use crate::block::{Extents, Status};
use crate::device::{Described, MetaContext, describe};

const BLOCKS: u64 = 64;
const SIZE: u64 = BLOCKS * BLOCK;

/// Returns the state of each block in a context, asked in requests of random length.
async fn states(
    device: &Arc<dyn Device>,
    context: &Arc<MetaContext>,
    limit: usize,
) -> Result<Vec<u32>, Error> {
    let mut states = Vec::new();
    while (states.len() as u64) < BLOCKS {
        let offset = states.len() as u64 * BLOCK;
        let span = Span { offset, length: SIZE - offset };
        let asked = [(7, context.clone())];
        let answer = describe(device, &asked, span, limit, &Cancelled::default()).await?;
        let Answer::Described(described) = answer else { panic!("it is described") };
        let [(7, Described::State(extents))] = &described[..] else { panic!("in one context") };
        assert!((1..=limit).contains(&extents.as_slice().len()));
        for extent in extents.as_slice() {
            assert_eq!(extent.length % BLOCK, 0);
            states.resize(states.len() + (extent.length / BLOCK) as usize, extent.status);
        }
    }
    Ok(states)
}

async fn dirty(device: &Arc<dyn Device>, snapshot: &Snapshot) -> BTreeSet<u64> {
    let context = Arc::new(MetaContext::DirtyBitmap(snapshot.mark()));
    let states = states(device, &context, 1 << 14).await.unwrap();
    let few = self::states(device, &context, 1).await.unwrap();
    assert_eq!(states, few, "whatever the limit");
    (0..).zip(states).filter(|(_, state)| *state == 1).map(|(block, _)| block).collect()
}

/// Returns the blocks that may differ, asked for in small parts.
async fn different(from: &Snapshot, to: Side<'_>, most: usize) -> BTreeSet<u64> {
    let mut blocks = BTreeSet::new();
    let mut start = 0;
    loop {
        let side = match &to {
            Side::Snapshot(snapshot) => Side::Snapshot(snapshot),
            Side::Disk(layer) => Side::Disk(layer),
        };
        let found = from.difference(side, start, most).await.unwrap();
        assert_eq!((found.size, found.granularity), (SIZE, BLOCK));
        assert!(found.extents.len() <= most);
        for span in &found.extents {
            assert!(span.offset >= start && span.offset % BLOCK == 0 && span.length > 0);
            blocks.extend(span.offset / BLOCK..span.end() / BLOCK);
        }
        match found.next {
            Some(next) => assert!(next > start),
            None => return blocks,
        }
        start = found.next.unwrap();
    }
}

async fn change(device: &Arc<dyn Device>, random: &mut fastrand::Rng) -> (Vec<u64>, bool) {
    let offset = random.u64(0..SIZE - 1) & !511;
    let length = (random.u64(1..BLOCK * 4).min(SIZE - offset) & !511).max(512);
    let span = Span { offset, length };
    let blocks = (offset / BLOCK..span.end().div_ceil(BLOCK)).collect();
    let (keep_allocated, fast, fua) = (random.bool(), false, false);
    match random.u8(0..4) {
        0 | 1 => {
            let bytes = vec![random.u8(..); length as usize];
            execute(device, Command::Write { span, fua }, bytes).await;
            (blocks, true)
        }
        2 => {
            execute(device, Command::Zero { span, fua, keep_allocated, fast }, Vec::new()).await;
            (blocks, true)
        }
        _ => {
            execute(device, Command::Trim { span, fua }, Vec::new()).await;
            // Only blocks that were written since the snapshot are discarded.
            (blocks, false)
        }
    }
}

#[tokio::test]
async fn bitmaps_and_differences_are_those_of_a_set_of_blocks() {
    let context = context();
    let mut random = fastrand::Rng::with_seed(7);
    // Each disk with the blocks that were changed since each snapshot from which it descends.
    struct Disk {
        layer: Layer,
        since: Vec<(usize, BTreeSet<u64>)>,
    }
    let memory = memory(&context, &SIZE.to_string()).await;
    write(&memory, 0, 255).await;
    let first = Snapshot::of(memory).await.unwrap();
    let layer = first.layer(&context).await.unwrap();
    let mut snapshots = vec![(first, vec![(0, BTreeSet::new())])];
    let mut disks = vec![Disk { layer, since: vec![(0, BTreeSet::new())] }];
    for step in 0..400 {
        let index = random.usize(..disks.len());
        let may_clone = disks.len() < 6;
        let disk = &mut disks[index];
        match random.u8(0..10) {
            0 => {
                // As when a snapshot of a disk in use is taken.
                let taken = disk.layer.freeze().await.unwrap();
                disk.layer = taken.layer(&context).await.unwrap();
                disk.since.push((snapshots.len(), BTreeSet::new()));
                snapshots.push((taken, disk.since.clone()));
            }
            1 if may_clone => {
                let (snapshot, since) = &snapshots[random.usize(..snapshots.len())];
                let layer = snapshot.layer(&context).await.unwrap();
                disks.push(Disk { layer, since: since.clone() });
            }
            2 => {
                let device = disk.layer.device();
                for (number, changed) in &disk.since {
                    assert_eq!(dirty(device, &snapshots[*number].0).await, *changed, "{step}");
                }
            }
            3 => {
                // Of any two that stem from the same data.
                let number = random.usize(..snapshots.len());
                let (from, its) = &snapshots[number];
                let most = random.usize(1..5);
                let compare = |mine: &[(usize, BTreeSet<u64>)]| {
                    let common = mine.iter().rev().find_map(|(one, changed)| {
                        let (_, other) = its.iter().find(|(other, _)| other == one)?;
                        Some(changed.union(other).copied().collect::<BTreeSet<_>>())
                    });
                    common.expect("all descend from the first")
                };
                let found = different(from, Side::Disk(&disk.layer), most).await;
                assert_eq!(found, compare(&disk.since), "{step}");
                let (other, mine) = &snapshots[random.usize(..snapshots.len())];
                assert_eq!(different(from, Side::Snapshot(other), most).await, compare(mine));
                let is_ancestor = mine.iter().any(|(one, _)| *one == number);
                assert_eq!(from.is_ancestor_of(other), is_ancestor);
            }
            _ => {
                let (blocks, marks) = change(disk.layer.device(), &mut random).await;
                for (_, changed) in disk.since.iter_mut().filter(|_| marks) {
                    changed.extend(&blocks);
                }
            }
        }
    }
    assert!(snapshots.len() > 20 && disks.len() == 6);
}

#[tokio::test]
async fn bitmaps_reach_back_beyond_the_most_overlays() {
    let context = context();
    let memory = memory(&context, &SIZE.to_string()).await;
    let mut snapshots = vec![Snapshot::of(memory).await.unwrap()];
    let mut layer = snapshots[0].layer(&context).await.unwrap();
    // Enough for the uppermost disk to become a base twice.
    const COUNT: u64 = 2 * MAX_OVERLAYS as u64 + 20;
    for number in 0..COUNT {
        write(layer.device(), number % BLOCKS * BLOCK, 1).await;
        let snapshot = layer.freeze().await.unwrap();
        layer = snapshot.layer(&context).await.unwrap();
        snapshots.push(snapshot);
    }
    write(layer.device(), 5 * BLOCK, 1).await;
    let last = snapshots.last().unwrap();
    for back in [0, 1, 10, 40, 130, 200, COUNT] {
        let from = &snapshots[(COUNT - back) as usize];
        assert!(from.is_ancestor_of(last) && (back == 0 || !last.is_ancestor_of(from)));
        let mut changed: BTreeSet<u64> =
            (COUNT - back..COUNT).map(|number| number % BLOCKS).collect();
        assert_eq!(different(from, Side::Snapshot(last), 3).await, changed, "{back} before");
        assert_eq!(different(last, Side::Snapshot(from), 3).await, changed, "the other way");
        changed.insert(5);
        assert_eq!(dirty(layer.device(), from).await, changed, "{back} before");
        assert_eq!(different(from, Side::Disk(&layer), 3).await, changed);
    }
    let reader = last.read_only(&context).await.unwrap();
    assert_eq!(dirty(&reader, last).await, BTreeSet::new());
}

#[tokio::test]
async fn depth_counts_layers_from_the_uppermost() {
    let context = context();
    let memory = memory(&context, &SIZE.to_string()).await;
    let depth = Arc::new(MetaContext::AllocationDepth);
    let whole =
        |block: u64| (Span { offset: block * BLOCK, length: BLOCK }, vec![1; BLOCK as usize]);
    for block in [0, 1, 2] {
        let (span, bytes) = whole(block);
        execute(&memory, Command::Write { span, fua: false }, bytes).await;
    }
    assert_eq!(states(&memory, &depth, 9).await.unwrap()[..5], [1, 1, 1, 0, 0]);
    let first = Snapshot::of(memory).await.unwrap();
    let layer = first.layer(&context).await.unwrap();
    assert_eq!(states(layer.device(), &depth, 9).await.unwrap()[..5], [2, 2, 2, 0, 0]);
    write(layer.device(), 2 * BLOCK, 2).await;
    let (span, _) = whole(1);
    let (fua, keep_allocated, fast) = (false, false, false);
    execute(layer.device(), Command::Zero { span, fua, keep_allocated, fast }, vec![]).await;
    assert_eq!(states(layer.device(), &depth, 9).await.unwrap()[..5], [2, 1, 1, 0, 0]);
    let second = layer.freeze().await.unwrap();
    let reader = second.read_only(&context).await.unwrap();
    assert_eq!(states(&reader, &depth, 9).await.unwrap()[..5], [2, 1, 1, 0, 0]);
    let next = second.layer(&context).await.unwrap();
    write(next.device(), 3 * BLOCK, 2).await;
    assert_eq!(states(next.device(), &depth, 9).await.unwrap()[..5], [3, 2, 2, 1, 0]);
}

#[tokio::test]
async fn several_contexts_are_described_at_once() {
    let context = context();
    let snapshot = Snapshot::of(memory(&context, &SIZE.to_string()).await).await.unwrap();
    let layer = snapshot.layer(&context).await.unwrap();
    write(layer.device(), BLOCK, 1).await;
    let asked = [
        (1, Arc::new(MetaContext::Allocation)),
        (2, Arc::new(MetaContext::AllocationDepth)),
        (3, Arc::new(MetaContext::DirtyBitmap(snapshot.mark()))),
    ];
    let span = Span { offset: BLOCK, length: 2 * BLOCK };
    let answer = describe(layer.device(), &asked, span, 9, &Cancelled::default()).await.unwrap();
    let Answer::Described(described) = answer else { panic!("it is described") };
    let states = |first| {
        let mut states = Extents::new(span.length, 9);
        states.push(BLOCK, first);
        states.push(BLOCK, 0);
        Described::State(states)
    };
    assert_eq!(described[1..], [(2, states(1)), (3, states(1))]);
    let (1, Described::Allocation(allocation)) = &described[0] else { panic!("it is the first") };
    assert_eq!(allocation.as_slice()[0].status, Status::DATA);
    let gone = [(2, Arc::new(MetaContext::Gone))];
    let refused = describe(layer.device(), &gone, span, 9, &Cancelled::default()).await;
    assert!(refused.is_err_and(|error| error.code == crate::block::ErrorCode::Inval));
}

#[tokio::test]
async fn bitmap_of_a_disk_that_was_reset_to_an_earlier_snapshot_is_refused() {
    let context = context();
    let first = Snapshot::of(memory(&context, &SIZE.to_string()).await).await.unwrap();
    let layer = first.layer(&context).await.unwrap();
    write(layer.device(), 0, 1).await;
    let second = layer.freeze().await.unwrap();
    // Where the second snapshot has block 0, this has what the first one has.
    let reset = first.layer(&context).await.unwrap();
    let bitmap = Arc::new(MetaContext::DirtyBitmap(second.mark()));
    let error = states(reset.device(), &bitmap, 9).await.unwrap_err();
    assert_eq!(error.code, crate::block::ErrorCode::Inval);
    assert_eq!(dirty(reset.device(), &first).await, BTreeSet::new());
}

#[tokio::test]
async fn unrelated_snapshots_are_not_compared() {
    let context = context();
    let one = Snapshot::of(memory(&context, &SIZE.to_string()).await).await.unwrap();
    let other = Snapshot::of(memory(&context, &SIZE.to_string()).await).await.unwrap();
    assert!(!one.is_ancestor_of(&other) && one.is_ancestor_of(&one));
    let compared = one.difference(Side::Snapshot(&other), 0, 1).await;
    assert!(matches!(compared, Err(NotCompared::Unrelated)));
    let beyond = one.difference(Side::Snapshot(&one), SIZE, 1).await;
    assert!(matches!(beyond, Err(NotCompared::BeyondEnd(SIZE))));
}
