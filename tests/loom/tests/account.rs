//! Totals are taken while connections count and end: nothing is lost, nothing is counted twice, and
//! later totals are never less.

use loom::thread;
use memnbd_loom::account::Account;
use memnbd_loom::block::Operation;

#[test]
fn totals_never_decrease() {
    loom::model(|| {
        let account = Account::default();
        let shared = account.clone();
        let counting = thread::spawn(move || {
            let mut meter = shared.open();
            meter.begin();
            meter.answered(meter.entry(Operation::Read), 10, false);
        });
        let requests = || {
            let totals = account.totals();
            let read = totals.of(Operation::Read);
            (read.requests, read.bytes)
        };
        let (first, second) = (requests(), requests());
        assert!(first.0 <= second.0 && first.1 <= second.1 && second.0 <= 1);
        counting.join().unwrap();
        assert_eq!(requests(), (1, 10));
    });
}
