//! Where the bytes of a disk are, as descriptions need it.

use super::*;
use crate::block::Status;
use crate::component::Place;
use crate::device::{Described, LowerLayer, MetaContext, describe};

/// The body of a `route`: the first half is on device 1 at the same offset, then come an own part and a hole.
const THREE: &str = "
    (call $segment (i32.const 0) (i32.const 0) (i32.const 1) (local.get $offset)
      (i64.shr_u (local.get $length) (i64.const 1)))
    (call $segment (i32.const 1) (i32.const 1) (i32.const 0) (i64.const 0)
      (i64.shr_u (local.get $length) (i64.const 2)))
    (call $segment (i32.const 2) (i32.const 2) (i32.const 0) (i64.const 0)
      (i64.shr_u (local.get $length) (i64.const 2)))
    (call $routed (i32.const 3) (i32.const 0) (i64.const 0) (i64.const 0))";

async fn locate(client: &Client, span: Span) -> Answer {
    let order =
        Order::new(Command::Extents { span, limit: 9 }, Vec::new().into(), Cancelled::default());
    client.0.clone().execute(Order { locate: true, ..order }, None).await.unwrap()
}

/// Returns the places and lengths of the segments, and the levels of the devices.
async fn located(client: &Client, span: Span) -> (Vec<(Place, u64)>, Vec<(u32, bool)>) {
    let Answer::Located(located) = locate(client, span).await else { panic!("it is located") };
    let segments = located.segments.iter().map(|segment| (segment.place, segment.length));
    let level = |lower: &LowerLayer| (lower.level, lower.hides);
    (segments.collect(), located.lowers.iter().map(level).collect())
}

fn at(device: usize, offset: u64) -> Place {
    Place::Lower(crate::component::Location { device, offset })
}

#[tokio::test]
async fn segments_are_told_and_no_lower_device_is_asked() {
    let (first, second) = (Native::new(MIB), Native::new(MIB));
    let guest = routing(1, [0; 5], THREE);
    let client = client(&guest, &[&first, &second]).await;
    let span = Span { offset: 4096, length: 8192 };
    let (segments, levels) = located(&client, span).await;
    assert_eq!(segments, [(at(1, 4096), 4096), (Place::Own, 2048), (Place::Hole, 2048)]);
    assert_eq!(levels, [(1, false), (1, false)], "they are no layers");
    assert!(first.take_log().is_empty() && second.take_log().is_empty());
}

#[tokio::test]
async fn stable_routes_are_told_as_well() {
    let disk = Native::new(MIB);
    let client = client(&routing(1, [0; 5], "unreachable").with("stable", STABLE), &[&disk]).await;
    let (segments, _) = located(&client, Span { offset: 4096, length: 8192 }).await;
    assert_eq!(segments, [(at(0, 4096), 8192)]);
    assert!(disk.take_log().is_empty() && !client.is_dead());
}

#[tokio::test]
async fn device_that_does_not_route_extents_has_them_itself() {
    let guest = routing(1, [0; 5], PASS).opened(|disk| disk.capabilities = can::WRITABLE);
    let disk = Native::new(MIB);
    let client = client(&guest, &[&disk]).await;
    let span = Span { offset: 0, length: 8192 };
    let Answer::Extents(extents) = locate(&client, span).await else { panic!("all is data") };
    assert_eq!(extents.as_slice(), [Extent { length: 8192, status: Status::DATA }]);
}

/// A device whose parameters are called so.
async fn chain(names: &[&str], writable: bool, route: &str) -> Client {
    let lowers = || names.iter().map(|_| Lower { device: Native::new(MIB), link: None });
    let arguments = names
        .iter()
        .map(|&name| Argument { name: name.into(), value: Value::Device("other".into(), WRITES) });
    let mut guest = routing(1, [0; 5], route);
    if !writable {
        guest = guest.opened(|disk| disk.capabilities = can::EXTENTS);
    }
    let component = load(&guest).await;
    let config = DiskConfig { arguments: arguments.collect(), ..config(component, 64 << 20) };
    let lowers = Lowers::new(lowers().map(|lower| (lower, WRITES)).collect());
    Client(StackedDevice::open(config, lowers).await.unwrap())
}

#[tokio::test]
async fn layers_of_a_chain_are_counted_from_the_uppermost() {
    let span = Span { offset: 0, length: 4096 };
    for (names, writable, levels) in [
        (&["base"][..], true, &[(1, false)][..]),
        (&["base", "overlay"], true, &[(2, false), (1, true)]),
        (
            &["base", "layer", "layer", "inherit", "overlay", "metadata"],
            true,
            &[(4, false), (3, true), (2, true), (1, false), (1, true), (1, false)],
        ),
        (&["base", "layer", "overlay"], false, &[(3, false), (2, true), (1, true)]),
        (&["base", "backing"], false, &[(1, true), (2, false)]),
    ] {
        let (_, told) = located(&chain(names, writable, PASS).await, span).await;
        assert_eq!(told, levels, "{names:?}");
    }
}

#[tokio::test]
async fn depth_of_own_parts_is_that_of_the_disk_and_holes_have_none() {
    let chain = chain(&["base", "overlay"], true, THREE).await;
    let device: Arc<dyn Device> = chain.0.clone();
    let asked = [(5, Arc::new(MetaContext::AllocationDepth))];
    let span = Span { offset: 0, length: 16384 };
    let answer = describe(&device, &asked, span, 9, &Cancelled::default()).await.unwrap();
    let Answer::Described(described) = answer else { panic!("it is described") };
    let [(5, Described::State(states))] = &described[..] else { panic!("in one context") };
    let states: Vec<(u64, u32)> =
        states.as_slice().iter().map(|extent| (extent.length, extent.status)).collect();
    assert_eq!(states, [(12288, 1), (4096, 0)], "what the overlay has hides the base");
}
