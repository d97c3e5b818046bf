//! What readers get of what is told.

use super::*;

fn relabelled(hub: &Hub, disk: &str) {
    hub.tell(Some(disk.into()), Happening::DiskRelabelled);
}

fn connected(hub: &Hub, connection: u64) {
    hub.tell(None, Happening::ClientConnected { connection, peer: "p".into() });
}

/// Returns what a reader gets now: for each event its number and type, for lost ones how many.
fn read(reader: &mut Reader) -> Vec<(u64, String)> {
    let next = || match reader.try_next()? {
        Read::Event(id, kept) => Some((id.number, kept.name.to_owned())),
        Read::Lost(id, kept) => {
            let event: serde_json::Value = serde_json::from_str(kept.json()).unwrap();
            let restarted = if event["restarted"] == true { ", restarted" } else { "" };
            Some((id.number, format!("{} lost{restarted}", event["events"])))
        }
    };
    std::iter::from_fn(next).collect()
}

fn numbered(list: &[(u64, &str)]) -> Vec<(u64, String)> {
    list.iter().map(|&(number, text)| (number, text.to_owned())).collect()
}

#[test]
fn events_are_read_in_their_order() {
    let hub = Hub::new(10, 1 << 20);
    let mut early = hub.read(After::Nothing);
    assert_eq!(read(&mut early), []);
    relabelled(&hub, "a");
    connected(&hub, 0);
    relabelled(&hub, "b");
    let all = [(1, "disk-relabelled"), (2, "client-connected"), (3, "disk-relabelled")];
    assert_eq!(read(&mut early), numbered(&all));
    assert_eq!(read(&mut hub.read(After::Nothing)), numbered(&all));
    let mut late = hub.read(After::Now);
    assert_eq!(read(&mut late), []);
    let after = After::Id(hub.id(2));
    assert_eq!(read(&mut hub.read(after)), numbered(&all[2..]));
    connected(&hub, 1);
    for reader in [&mut early, &mut late] {
        assert_eq!(read(reader), numbered(&[(4, "client-connected")]));
    }
}

#[test]
fn slow_readers_are_told_how_much_they_missed() {
    let hub = Hub::new(3, 1 << 20);
    let mut slow = hub.read(After::Nothing);
    (0..10).for_each(|index| connected(&hub, index));
    let rest =
        [(7, "7 lost"), (8, "client-connected"), (9, "client-connected"), (10, "client-connected")];
    assert_eq!(read(&mut slow), numbered(&rest));
    let old = After::Id(hub.id(2));
    let mut rest = numbered(&rest);
    rest[0].1 = "5 lost".into();
    assert_eq!(read(&mut hub.read(old)), rest);
    // Whoever goes on after what was lost loses nothing more.
    let told = After::Id(hub.id(7));
    assert_eq!(read(&mut hub.read(told)), &rest[1..]);
}

#[test]
fn clients_do_not_push_out_what_others_do() {
    let hub = Hub::new(3, 1 << 20);
    relabelled(&hub, "a");
    (0..10).for_each(|index| connected(&hub, index));
    hub.tell_of_client(Some("made".into()), Happening::DiskCreated);
    relabelled(&hub, "b");
    let expected = [
        (1, "disk-relabelled"),
        (9, "8 lost"),
        (10, "client-connected"),
        (11, "client-connected"),
        (12, "disk-created"),
        (13, "disk-relabelled"),
    ];
    assert_eq!(read(&mut hub.read(After::Nothing)), numbered(&expected));
}

#[test]
fn memory_is_bounded() {
    let hub = Hub::new(1_000_000, 100_000);
    let before = hub.read(After::Nothing);
    for index in 0..10_000 {
        hub.tell(Some("x".repeat(index)), Happening::failed("y"));
        let rings = hub.rings();
        assert!(rings.of_clients.bytes() <= 100_000);
    }
    assert_eq!(before.next, 1);
    // The newest is kept, unless it is larger than all together.
    let kept = read(&mut hub.read(After::Nothing));
    assert_eq!(kept.last(), Some(&(10_000, "disk-failed".into())));
}

#[test]
fn ids_of_another_run_are_not_mistaken_for_ones_of_this() {
    let hub = Hub::new(3, 1 << 20);
    relabelled(&hub, "a");
    let other = Id { run: hub.0.run - 1, number: 1 };
    let expected = [(0, "0 lost, restarted"), (1, "disk-relabelled")];
    assert_eq!(read(&mut hub.read(After::Id(other))), numbered(&expected));
    let future = After::Id(hub.id(2));
    assert_eq!(read(&mut hub.read(future)), numbered(&expected));
    for text in ["", "1", "-", "1-", "-1", "+1-1", "1-x", "1-1-1", "99999999999999999999-1"] {
        assert!(text.parse::<Id>().is_err(), "{text}");
    }
    assert_eq!(other.to_string().parse(), Ok(other));
}

#[tokio::test]
async fn readers_wait_for_events_and_for_the_end() {
    let hub = Hub::default();
    let mut reader = hub.read(After::Nothing);
    let waiting = tokio::spawn(async move {
        let more = reader.more().await;
        (more, read(&mut reader), reader.more().await)
    });
    tokio::task::yield_now().await;
    relabelled(&hub, "a");
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    hub.end();
    hub.ended().await;
    let (more, events, after) = waiting.await.unwrap();
    assert!(more && !after);
    assert_eq!(events, numbered(&[(1, "disk-relabelled")]));
    // What is there can still be read.
    let mut late = hub.read(After::Nothing);
    assert!(late.more().await);
    assert_eq!(read(&mut late).len(), 1);
    assert!(!late.more().await);
}
