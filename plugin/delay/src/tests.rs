use memnbd_guest::testing;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn request() -> OpenRequest {
    let capabilities = Capabilities::WRITABLE | Capabilities::ZERO;
    OpenRequest::default().with("base", Value::Device(testing::device(1000, capabilities)))
}

/// Opens a disk with these delays.
fn open(delays: &[(&str, Duration)]) -> Result<Delay, Error> {
    let request = delays
        .iter()
        .fold(request(), |request, (name, delay)| request.with(name, Value::Duration(*delay)));
    Delay::open(&request)
}

/// The delay of each operation in seconds. `None` is a stable route.
fn seconds(disk: &mut Delay) -> [Option<u64>; 6] {
    Operation::ALL.map(|operation| match disk.stable(operation, 10) {
        Some(stable) => {
            assert_eq!(stable, StableRoute::new(disk.base.at(10), 990));
            None
        }
        None => {
            let route = disk.route(&Request::new(operation, 10, 20)).unwrap();
            assert_eq!(route.segments, Route::lower(disk.base.at(10), 20).segments);
            Some(route.delay.as_secs())
        }
    })
}

#[test]
fn only_operations_with_a_delay_are_routed_one_by_one() {
    assert_eq!(seconds(&mut open(&[]).unwrap()), [None; 6]);
    assert_eq!(seconds(&mut open(&[("rdelay", Duration::ZERO)]).unwrap()), [None; 6]);
    let mut reads = open(&[("delay-read", 3 * SECOND)]).unwrap();
    assert_eq!(seconds(&mut reads), [Some(3), None, None, None, None, None]);
    let mut others = open(&[("delay-extents", 4 * SECOND), ("delay-cache", 5 * SECOND)]).unwrap();
    assert_eq!(seconds(&mut others), [None, None, None, None, Some(5), Some(4)]);
}

#[test]
fn wdelay_sets_three_delays_and_the_last_argument_holds() {
    let (short, long) = (SECOND, 2 * SECOND);
    let mut disk = open(&[("wdelay", short), ("delay-zero", long)]).unwrap();
    assert_eq!(seconds(&mut disk), [None, Some(1), Some(2), Some(1), None, None]);
    let mut disk = open(&[("delay-zero", long), ("wdelay", short)]).unwrap();
    assert_eq!(seconds(&mut disk), [None, Some(1), Some(1), Some(1), None, None]);
}

#[test]
fn delays_beyond_ten_minutes_are_refused() {
    assert!(open(&[("delay-trim", 600 * SECOND)]).is_ok());
    let error = open(&[("delay-trim", 601 * SECOND)]).unwrap_err();
    assert_eq!(error.message.unwrap(), "delay-trim must be at most 10 minutes");
    assert!(open(&[("rdelay", 300 * SECOND), ("delay-jitter", 300 * SECOND)]).is_ok());
    assert!(open(&[("rdelay", 300 * SECOND), ("delay-jitter", 301 * SECOND)]).is_err());
    assert!(open(&[("rdelay", Duration::MAX), ("delay-jitter", Duration::MAX)]).is_err());
}

#[test]
fn jitter_is_added_to_the_delays_that_are_given() {
    let mut disk = open(&[("rdelay", Duration::ZERO), ("delay-jitter", SECOND)]).unwrap();
    assert!(disk.stable(Operation::Read, 0).is_none());
    assert!(disk.stable(Operation::Write, 0).is_some());
    let delays: Vec<Duration> = (0..1000)
        .map(|_| disk.route(&Request::new(Operation::Read, 0, 1)).unwrap().delay)
        .collect();
    assert!(delays.iter().all(|delay| *delay <= SECOND));
    let mean = delays.iter().sum::<Duration>() / 1000;
    assert!(mean.abs_diff(SECOND / 2) < SECOND / 10, "{mean:?}");
    assert!(open(&[("delay-jitter", SECOND)]).is_err());
}

#[test]
fn fast_zeroing_fails_at_once_if_it_is_not_to_be_delayed() {
    let open = |delay: Duration, fast_zero| {
        let request = request()
            .with("delay-zero", Value::Duration(delay))
            .with("delay-fast-zero", Value::Boolean(fast_zero));
        Delay::open(&request).unwrap()
    };
    let zero = Request::new(Operation::Zero, 0, 10);
    let fast = Request { fast: true, ..zero };
    let mut delayed = open(SECOND, true);
    assert_eq!(delayed.route(&fast).unwrap().delay, SECOND);
    assert!(!delayed.disk().capabilities.contains(Capabilities::FAST_ZERO));
    let mut refused = open(SECOND, false);
    assert_eq!(refused.route(&fast), Err(Error::ENOTSUP));
    assert_eq!(refused.route(&zero).unwrap().delay, SECOND);
    assert!(refused.disk().capabilities.contains(Capabilities::FAST_ZERO));
    let mut undelayed = open(Duration::ZERO, false);
    assert!(undelayed.stable(Operation::Zero, 0).is_some());
    assert!(!undelayed.disk().capabilities.contains(Capabilities::FAST_ZERO));
}

/// The delay of a read of one byte, in milliseconds.
fn read_at(disk: &mut Delay, offset: u64) -> u128 {
    disk.route(&Request::new(Operation::Read, offset, 1)).unwrap().delay.as_millis()
}

fn open_with(arguments: &[(&str, Value)]) -> Result<Delay, Error> {
    let request = arguments
        .iter()
        .fold(request(), |request, (name, value)| request.with(name, value.clone()));
    Delay::open(&request)
}

fn time(seconds: u64) -> Value {
    Value::Duration(Duration::from_secs(seconds))
}

#[test]
fn only_requests_of_the_rule_are_delayed() {
    let range = ("delay-range", Value::Text("100:10".into()));
    let mut disk = open_with(&[("rdelay", time(1)), range]).unwrap();
    assert_eq!([99, 100, 109, 110].map(|at| read_at(&mut disk, at)), [0, 1000, 1000, 0]);
    assert_eq!(disk.stable(Operation::Read, 10).unwrap().length, 90);
    assert_eq!(disk.stable(Operation::Write, 10).unwrap().length, 990);
    let mut nth = open_with(&[("rdelay", time(1)), ("delay-nth", Value::Number(3))]).unwrap();
    assert_eq!([0; 6].map(|at| read_at(&mut nth, at)), [0, 0, 1000, 0, 0, 1000]);
    let seed = ("delay-seed", Value::Number(1));
    let rate = ("delay-rate", Value::Probability(0.5));
    let delays = || {
        let mut disk = open_with(&[("rdelay", time(1)), rate.clone(), seed.clone()]).unwrap();
        [0; 100].map(|at| read_at(&mut disk, at))
    };
    assert_eq!(delays(), delays());
    assert!((30..70).contains(&delays().iter().filter(|delay| **delay > 0).count()));
}

#[test]
fn requests_wait_for_the_end_of_a_stall() {
    testing::advance(Duration::ZERO);
    let stalls = [("delay-stall-every", time(10)), ("delay-stall-for", time(4))];
    let mut disk = open_with(&[&stalls[..], &[("wdelay", time(1))]].concat()).unwrap();
    assert!(disk.stable(Operation::Read, 0).is_none());
    assert!(disk.stable(Operation::Extents, 0).is_some());
    assert_eq!(read_at(&mut disk, 0), 0);
    testing::advance(Duration::from_secs(11));
    assert_eq!(read_at(&mut disk, 0), 3000);
    let write = disk.route(&Request::new(Operation::Write, 0, 1)).unwrap();
    assert_eq!(write.delay, Duration::from_secs(4));
    testing::advance(Duration::from_secs(3));
    assert_eq!(read_at(&mut disk, 0), 0);
}

#[test]
fn trace_is_for_the_delays_that_are_given() {
    let text = b"1\n20ms\n";
    let file = testing::device(text.len() as u64, Capabilities::WRITABLE);
    file.write(0, text, false).unwrap();
    let trace = ("delay-trace", Value::Device(file));
    let mut disk = open_with(&[("rdelay", time(0)), trace.clone()]).unwrap();
    assert_eq!([0; 3].map(|at| read_at(&mut disk, at)), [1000, 20, 1000]);
    assert!(disk.stable(Operation::Write, 0).is_some());
    assert!(
        open_with(std::slice::from_ref(&trace)).unwrap_err().message.unwrap().contains("rdelay=0")
    );
    assert!(open_with(&[trace, ("rdelay", time(0)), ("delay-jitter", time(1))]).is_err());
}

#[test]
fn distribution_and_shape_belong_together() {
    let distribution = |name: &str| ("delay-distribution", Value::Text(name.into()));
    let shape = ("delay-shape", Value::Number(2));
    let given = [("rdelay", time(1)), ("delay-jitter", time(1))];
    let open = |more: &[(&str, Value)]| open_with(&[&given[..], more].concat());
    let mut pareto = open(&[distribution("pareto"), shape.clone()]).unwrap();
    assert!((0..100).all(|at| read_at(&mut pareto, at) >= 1000));
    assert!(open(&[distribution("normal"), shape]).is_err());
    let mut constant = open(&[distribution("constant")]).unwrap();
    assert!((0..100).all(|at| read_at(&mut constant, at) == 1000));
}

#[test]
fn delays_of_clients_are_not_for_the_component() {
    for name in ["delay-open", "delay-close"] {
        assert!(Delay::describe().parameters.iter().any(|parameter| parameter.name == name));
        let given = OpenRequest::default().with(name, Value::Duration(Duration::from_secs(1)));
        let message = Delay::open(&given).unwrap_err().message.unwrap();
        assert!(message.starts_with(&format!("{name} is for the server")), "{message}");
    }
}
