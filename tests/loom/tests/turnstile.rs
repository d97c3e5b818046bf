//! Whatever threads do at once, nobody is inside a closed turnstile that is empty, and who enters later
//! sees what was done meanwhile.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use memnbd_loom::turnstile::Turnstile;

/// What is replaced: its two halves are equal, except in the middle of that.
#[derive(Default)]
struct Shared {
    turnstile: Turnstile,
    halves: [AtomicUsize; 2],
}

impl Shared {
    fn read(&self) -> [usize; 2] {
        [0, 1].map(|half| self.halves[half].load(Ordering::Relaxed))
    }

    fn replace(&self) {
        self.turnstile.close();
        while !self.turnstile.is_empty() {
            thread::yield_now();
        }
        for half in &self.halves {
            half.store(half.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        self.turnstile.open();
    }
}

#[test]
fn nobody_sees_a_replacement_half_done() {
    loom::model(|| {
        let shared = Arc::new(Shared::default());
        let users: Vec<_> = (0..2)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || {
                    if shared.turnstile.try_enter() {
                        let [first, second] = shared.read();
                        assert_eq!(first, second);
                        shared.turnstile.leave();
                    }
                })
            })
            .collect();
        shared.replace();
        for user in users {
            user.join().unwrap();
        }
        assert_eq!(shared.read(), [1, 1]);
        assert!(shared.turnstile.try_enter(), "it is open again");
    });
}

#[test]
fn who_is_inside_may_hand_on_the_use() {
    loom::model(|| {
        let shared = Arc::new(Shared::default());
        assert!(shared.turnstile.try_enter());
        shared.turnstile.enter_again();
        let other = shared.clone();
        let user = thread::spawn(move || {
            let seen = other.read();
            other.turnstile.leave();
            seen
        });
        assert!(!shared.turnstile.leave(), "it is not closed");
        shared.replace();
        assert_eq!(user.join().unwrap(), [0, 0], "that was before the replacement");
    });
}

#[test]
fn the_last_to_leave_is_told() {
    loom::model(|| {
        let shared = Arc::new(Shared::default());
        assert!(shared.turnstile.try_enter() && shared.turnstile.try_enter());
        let other = shared.clone();
        let user = thread::spawn(move || other.turnstile.leave());
        shared.turnstile.close();
        let told = [shared.turnstile.leave(), user.join().unwrap()];
        assert!(shared.turnstile.is_empty());
        assert_ne!(told[0], told[1], "one of them was the last, after it was closed");
        assert!(!shared.turnstile.try_enter());
    });
}
