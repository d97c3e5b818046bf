//! Whatever threads do at once, a tree of budgets gives no more than there is, and loses nothing.

use loom::thread;
use memnbd_loom::budget::{Budget, Held};

#[test]
fn children_never_hold_more_than_the_root_has() {
    loom::model(|| {
        let root = Budget::new(3);
        let children = [root.child(3, 1), root.child(3, 1)];
        let threads = children.map(|child| {
            thread::spawn(move || {
                let first = Held::take(&child, 1);
                assert!(first.is_some(), "it is guaranteed");
                let second = Held::take(&child, 1);
                drop(first);
                second.is_some()
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(root.used(), 0, "all was given back, the guarantees too");
    });
}

#[test]
fn those_who_share_a_child_never_hold_more_than_it_may() {
    loom::model(|| {
        let root = Budget::new(3);
        let child = root.child(2, 0);
        let threads = [1, 2].map(|amount| {
            let child = child.clone();
            thread::spawn(move || Held::take(&child, amount))
        });
        let held = threads.map(|thread| thread.join().unwrap());
        let sum = held.iter().zip([1, 2]).map(|(held, n)| if held.is_some() { n } else { 0 });
        assert!((1..=2).contains(&sum.sum()), "one of them has something");
        assert!(child.used() <= 2 && root.used() == child.used());
        drop(held);
        assert_eq!((child.used(), root.used()), (0, 0));
    });
}
