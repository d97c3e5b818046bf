//! Commands to the filters `error`, `delay` and `readonly` while they are in use.

use std::time::{Duration, Instant};

use super::*;
use crate::component::BuiltIn;
use crate::device::{Control, ControlError};
use crate::parameters::{Argument, Value};

/// Opens a filter above a device.
async fn filter(name: &str, below: &Arc<Native>) -> Client {
    filter_with(name, below, Vec::new()).await
}

/// Opens a filter above a device, with other arguments than the device.
async fn filter_with(name: &str, below: &Arc<Native>, more: Vec<Argument>) -> Client {
    let built_in = BuiltIn::find(name).unwrap();
    let component = Engine::new(LONG).load_built_in(built_in).await.unwrap();
    let base = Argument { name: "base".into(), value: Value::Device(String::new(), WRITES) };
    let arguments = [vec![base], more].concat();
    let config = DiskConfig { arguments, ..config(component, 64 << 20) };
    let lower = Lower { device: below.clone(), link: None };
    StackedDevice::open(config, Lowers::new(vec![(lower, WRITES)])).await.map(Client).unwrap()
}

fn control(client: &Client) -> Control {
    let [control] = &client.0.clone().controls()[..] else {
        panic!("one component takes commands")
    };
    control.clone()
}

async fn set(control: &Control, words: &[&str]) -> Result<String, ControlError> {
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    control.execute("set", &words).await
}

#[tokio::test]
async fn faults_are_switched_on_and_off_under_way() {
    let below = Native::new(MIB);
    let client = filter("error", &below).await;
    let control = control(&client);
    assert_eq!(control.component(), "error");
    client.write(0, &[1; 512], false).await.unwrap();
    set(&control, &["error-pwrite-rate=100%", "error=ENOSPC"]).await.unwrap();
    assert_eq!(client.write(0, &[2; 512], false).await, Err(ErrorCode::NoSpc));
    assert_eq!(client.read(0, 512).await, Ok(vec![1; 512]));
    // The error stays as it was set.
    set(&control, &["error-pread-rate=1"]).await.unwrap();
    assert_eq!(client.read(0, 512).await, Err(ErrorCode::NoSpc));
    set(&control, &["error-pread-rate=0", "error-pwrite-rate=0"]).await.unwrap();
    client.write(0, &[3; 512], false).await.unwrap();
    assert_eq!(client.read(0, 512).await, Ok(vec![3; 512]));
}

#[tokio::test]
async fn wrong_commands_change_nothing() {
    let client = filter("error", &Native::new(MIB)).await;
    let control = control(&client);
    let messages = [
        control.execute("sett", &[]).await.unwrap_err().to_string(),
        set(&control, &["error-rat=1"]).await.unwrap_err().to_string(),
        set(&control, &["error-rate=2"]).await.unwrap_err().to_string(),
        set(&control, &["base=other"]).await.unwrap_err().to_string(),
        set(&control, &["error-rate=1", "error-range=x"]).await.unwrap_err().to_string(),
    ];
    let expected = [
        "did you mean \"set\"?",
        "did you mean \"error-rate\"?",
        "\"2\"",
        "\"base\"",
        "error-range",
    ];
    for (message, words) in messages.iter().zip(expected) {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(client.read(0, 512).await, Ok(vec![0; 512]));
}

#[tokio::test]
async fn what_was_counted_is_told_and_forgotten() {
    let client = filter("stats", &Native::new(MIB)).await;
    let control = control(&client);
    client.write(0, &[1; 512], false).await.unwrap();
    client.flush().await.unwrap();
    let shown = control.execute("show", &[]).await.unwrap();
    assert!(shown.contains("write: 1 ops, ") && shown.contains("flush: 1 ops, "), "{shown}");
    assert!(shown.contains("     9 bits: 100.0% (1 reqs, 512 bytes total)\n"), "{shown}");
    control.execute("reset", &[]).await.unwrap();
    let shown = control.execute("show", &[]).await.unwrap();
    assert!(shown.starts_with("total: 0 ops, ") && shown.lines().count() == 1, "{shown}");
    set(&control, &["statsthreshold=0"]).await.unwrap();
    assert!(control.execute("write", &[]).await.unwrap_err().to_string().contains("no statsfile"));
}

#[tokio::test]
async fn disk_becomes_read_only_and_writable_under_way() {
    let below = Native::new(MIB);
    let at_first = Argument { name: "readonly".into(), value: Value::Boolean(false) };
    let client = filter_with("readonly", &below, vec![at_first]).await;
    let control = control(&client);
    let change = async |expected: Result<(), ErrorCode>| {
        assert_eq!(client.write(0, &[1; 512], false).await, expected);
        assert_eq!(client.zero(4096, 512).await, expected);
        assert_eq!(client.trim(8192, 512).await, expected);
        assert_eq!(client.read(0, 512).await, Ok(vec![1; 512]));
    };
    change(Ok(())).await;
    for _ in 0..3 {
        set(&control, &["readonly=true"]).await.unwrap();
        change(Err(ErrorCode::Perm)).await;
        set(&control, &["readonly=false"]).await.unwrap();
        change(Ok(())).await;
    }
    let client = filter("readonly", &below).await;
    assert!(!client.0.geometry().capabilities.writable);
    let [control] = &client.0.clone().controls()[..] else { panic!("it takes commands") };
    let message = set(control, &["readonly=false"]).await.unwrap_err().to_string();
    assert!(message.contains("for good"), "{message}");
}

#[tokio::test]
async fn delays_change_under_way() {
    let client = filter("delay", &Native::new(MIB)).await;
    let control = control(&client);
    set(&control, &["rdelay=200ms"]).await.unwrap();
    let start = Instant::now();
    client.read(0, 512).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(200));
    set(&control, &["rdelay=10min"]).await.unwrap_err();
    set(&control, &["rdelay=599"]).await.unwrap();
    set(&control, &["rdelay=0"]).await.unwrap();
    client.read(0, 512).await.unwrap();
}

/// It is told to many readers and writers, none of which sees another error than the filter's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_while_parameters_change() {
    let below = Native::new(MIB);
    let client = filter("error", &below).await;
    let control = control(&client);
    let users: Vec<_> = (0..8_u64)
        .map(|user| {
            client.spawn(move |client| async move {
                let (offset, mut written) = (user * 4096, vec![0; 512]);
                for round in 0..300_u32 {
                    let data = vec![round as u8; 512];
                    match client.write(offset, &data, false).await {
                        Ok(()) => written = data,
                        Err(error) => assert_eq!(error, ErrorCode::Io),
                    }
                    assert_eq!(client.read(offset, 512).await, Ok(written.clone()));
                }
            })
        })
        .collect();
    for round in 0..100 {
        let rate = if round % 2 == 0 { "error-pwrite-rate=1" } else { "error-pwrite-rate=0" };
        set(&control, &[rate]).await.unwrap();
    }
    for user in users {
        user.await.unwrap();
    }
}

#[tokio::test]
async fn what_was_not_flushed_is_gone_after_a_crash() {
    let below = Native::new(MIB);
    let lie = Argument { name: "flush-mode".into(), value: Value::Text("lie".into()) };
    let client = filter_with("flush", &below, vec![lie]).await;
    let control = control(&client);
    client.write(0, &[1; 5000], true).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(client.read(0, 5000).await, Ok(vec![1; 5000]));
    assert_eq!(control.execute("crash", &[]).await.unwrap(), "8192 bytes are lost");
    assert_eq!(client.read(0, 5000).await, Ok(vec![0; 5000]));
    client.write(0, &[2; 512], false).await.unwrap();
    set(&control, &["flush-rate=0"]).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(control.execute("crash", &[]).await.unwrap(), "0 bytes are lost");
    assert_eq!(client.read(0, 512).await, Ok(vec![2; 512]));
    set(&control, &["flush-mode=fail", "flush-rate=1"]).await.unwrap();
    assert_eq!(client.flush().await, Err(ErrorCode::Io));
}

#[tokio::test]
async fn sectors_become_bad_under_way() {
    let client = filter("badblocks", &Native::new(MIB)).await;
    let control = control(&client);
    assert_eq!(client.read(0, 8192).await, Ok(vec![0; 8192]));
    let range = ["range=4k:1".to_owned()];
    control.execute("add", &range).await.unwrap();
    assert_eq!(client.read(0, 8192).await, Err(ErrorCode::Io));
    assert_eq!(control.execute("list", &[]).await.unwrap(), "4096:512\n");
    client.write(4096, &[1; 512], false).await.unwrap();
    assert_eq!(client.read(4096, 512).await, Ok(vec![1; 512]));
    control.execute("add", &range).await.unwrap();
    assert_eq!(client.read(4096, 512).await, Err(ErrorCode::Io));
    control.execute("remove", &range).await.unwrap();
    assert_eq!(client.read(4096, 512).await, Ok(vec![1; 512]));
}

#[tokio::test]
async fn corruption_begins_and_ends_under_way() {
    let client = filter("evil", &Native::new(MIB)).await;
    let control = control(&client);
    set(&control, &["evil=stuck-bits", "evil-probability=1"]).await.unwrap();
    let stuck = client.read(0, 4096).await.unwrap();
    assert_ne!(stuck, [0; 4096]);
    client.write(0, &[7; 4096], false).await.unwrap();
    assert_eq!(client.read(0, 4096).await, Ok(stuck));
    set(&control, &["evil-probability=0"]).await.unwrap();
    assert_eq!(client.read(0, 4096).await, Ok(vec![7; 4096]));
    set(&control, &["evil=cosmic-rays", "evil-probability=1"]).await.unwrap();
    assert_eq!(client.read(0, 4096).await, Ok(vec![!7; 4096]));
    set(&control, &["evil=bit-rot"]).await.unwrap();
    assert_eq!(client.read(0, 4096).await, Ok(vec![!7; 4096]));
    client.write(0, &[7; 4096], false).await.unwrap();
    assert_eq!(client.read(0, 4096).await, Ok(vec![7; 4096]));
}

#[tokio::test]
async fn state_of_a_rule_is_told_and_set() {
    let client = filter("error", &Native::new(MIB)).await;
    let control = control(&client);
    set(&control, &["error-pread-rate=1", "error-state=2"]).await.unwrap();
    client.read(0, 512).await.unwrap();
    let told = control.execute("state", &["state=2".into()]).await.unwrap();
    assert_eq!(told, "state 2, 0 requests matched, 0 affected");
    assert_eq!(client.read(0, 512).await, Err(ErrorCode::Io));
    let told = control.execute("state", &[]).await.unwrap();
    assert_eq!(told, "state 2, 1 requests matched, 1 affected");
}

#[tokio::test]
async fn paused_requests_go_on_when_the_disk_is_resumed() {
    let client = filter("pause", &Native::new(MIB)).await;
    let control = control(&client);
    client.write(0, &[1; 512], false).await.unwrap();
    assert_eq!(control.execute("pause", &[]).await.unwrap(), "paused");
    let writes: Vec<_> = (0..20_u8)
        .map(|n| client.spawn(move |client| async move { client.write(0, &[n; 512], false).await }))
        .collect();
    while control.execute("status", &[]).await.unwrap() != "paused, 20 requests wait" {
        tokio::task::yield_now().await;
    }
    assert!(writes.iter().all(|write| !write.is_finished()));
    client.flush().await.unwrap();
    assert_eq!(control.execute("resume", &[]).await.unwrap(), "resumed");
    for write in writes {
        assert_eq!(write.await.unwrap(), Ok(()));
    }
    assert_eq!(control.execute("status", &[]).await.unwrap(), "not paused, 0 requests wait");
    client.read(0, 512).await.unwrap();
}

#[tokio::test]
async fn requests_that_hang_are_released() {
    let client = filter("pause", &Native::new(MIB)).await;
    let control = control(&client);
    set(&control, &["pause-range=4k:512", "pause-operation=pread"]).await.unwrap();
    for _ in 0..3 {
        let read = client.spawn(|client| async move { client.read(4096, 512).await });
        while control.execute("status", &[]).await.unwrap() != "not paused, 1 requests wait" {
            tokio::task::yield_now().await;
        }
        client.write(4096, &[1; 512], false).await.unwrap();
        client.read(0, 4096).await.unwrap();
        assert!(!read.is_finished());
        control.execute("release", &[]).await.unwrap();
        assert_eq!(read.await.unwrap(), Ok(vec![1; 512]));
    }
}

#[tokio::test]
async fn full_disk_becomes_larger_under_way() {
    let client = filter("enospc", &Native::new(MIB)).await;
    let control = control(&client);
    set(&control, &["enospc-after=8k"]).await.unwrap();
    client.write(0, &[1; 8192], false).await.unwrap();
    assert_eq!(client.write(8192, &[1; 512], false).await, Err(ErrorCode::NoSpc));
    assert_eq!(control.execute("status", &[]).await.unwrap(), "8192 of 8192 bytes are used");
    set(&control, &["enospc-after=12k"]).await.unwrap();
    client.write(8192, &[1; 512], false).await.unwrap();
    assert_eq!(client.write(12_288, &[1; 512], false).await, Err(ErrorCode::NoSpc));
}
