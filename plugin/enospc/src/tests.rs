use memnbd_guest::{Capabilities, ErrorCode, Value, testing};

use super::*;

const SIZE: u64 = (1 << 20) + 100;

fn open(arguments: &[(&str, Value)]) -> Enospc {
    let capabilities = Capabilities::WRITABLE | Capabilities::ZERO | Capabilities::TRIM;
    let base = testing::device(SIZE, capabilities);
    let request = OpenRequest::default().with("base", Value::Device(base));
    let request =
        arguments.iter().fold(request, |request, (name, value)| request.with(name, value.clone()));
    Enospc::open(&request).unwrap()
}

fn after(size: u64) -> (&'static str, Value) {
    ("enospc-after", Value::Size(size))
}

fn serve(disk: &mut Enospc, request: Request) -> bool {
    match testing::serve(disk, &request, &mut vec![1; request.length as usize]) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.code, ErrorCode::Enospc);
            false
        }
    }
}

fn write(disk: &mut Enospc, offset: u64, length: u64) -> bool {
    serve(disk, Request::new(Operation::Write, offset, length))
}

fn written(disk: &Enospc) -> usize {
    let mut bytes = vec![0; SIZE as usize];
    disk.base.read(0, &mut bytes).unwrap();
    bytes.iter().filter(|byte| **byte == 1).count()
}

#[test]
fn space_is_taken_by_new_blocks() {
    let mut disk = open(&[after(16 << 10)]);
    assert!(write(&mut disk, 0, 8192) && write(&mut disk, 100, 8000));
    assert!(write(&mut disk, 100_000, 1) && write(&mut disk, 100_001, 100));
    assert!(!write(&mut disk, 4000, 10_000), "two more");
    assert_eq!(written(&disk), 8192 + 101);
    assert!(write(&mut disk, SIZE - 1, 1));
    assert!(!write(&mut disk, 500_000, 1));
    assert!(write(&mut disk, 0, 8192), "where something was written before");
    assert_eq!(disk.execute("status", &[]).unwrap(), "16384 of 16384 bytes are used");
    assert!(
        disk.stable(Operation::Read, 0).is_some() && disk.stable(Operation::Write, 0).is_none()
    );
}

#[test]
fn trims_and_zeroing_give_space_back() {
    let mut disk = open(&[after(8192)]);
    assert!(write(&mut disk, 0, 8192) && !write(&mut disk, 8192, 1));
    assert!(serve(&mut disk, Request::new(Operation::Trim, 1, 8190)), "parts of blocks");
    assert!(!write(&mut disk, 8192, 1));
    assert!(serve(&mut disk, Request::new(Operation::Trim, 1, 8191)));
    assert!(write(&mut disk, 8192, 1) && !write(&mut disk, 20_000, 1));
    let zero = Request::new(Operation::Zero, 0, SIZE);
    assert!(!serve(&mut disk, Request { keep_allocated: true, ..zero }));
    assert!(serve(&mut disk, zero));
    assert_eq!(disk.execute("status", &[]).unwrap(), "0 of 8192 bytes are used");
    assert!(write(&mut disk, SIZE - 100, 100));
    assert!(serve(&mut disk, Request::new(Operation::Trim, SIZE - 100, 100)));
    assert_eq!(disk.space.used(), 0);
    let mut never = open(&[after(4096), ("enospc-reclaim", Value::Boolean(false))]);
    assert!(write(&mut never, 0, 1) && serve(&mut never, Request::new(Operation::Trim, 0, SIZE)));
    assert!(!write(&mut never, 4096, 1));
}

#[test]
fn writes_from_an_offset_on_fail() {
    let mut disk = open(&[("enospc-offset", Value::Size(1000))]);
    assert!(write(&mut disk, 0, 1000) && !write(&mut disk, 0, 1001) && !write(&mut disk, 5000, 1));
    assert!(!serve(&mut disk, Request::new(Operation::Zero, 999, 2)));
    assert!(serve(&mut disk, Request::new(Operation::Trim, 0, SIZE)));
    assert_eq!(disk.stable(Operation::Write, 10).unwrap().length, 990);
    assert!(disk.stable(Operation::Write, 1000).is_none());
    assert_eq!(disk.stable(Operation::Trim, 1000).unwrap().length, SIZE - 1000);
    assert_eq!(disk.execute("status", &[]).unwrap(), "space is not limited");
}

#[test]
fn writes_can_be_partial() {
    let partial = ("enospc-partial", Value::Boolean(true));
    let mut disk = open(&[after(8192), partial.clone()]);
    assert!(!write(&mut disk, 4000, 10_000));
    assert_eq!(written(&disk), 4192);
    assert!(!write(&mut disk, 20_000, 1) && write(&mut disk, 0, 8192));
    let mut zeroed = open(&[after(8192), partial.clone()]);
    let zero = Request { keep_allocated: true, ..Request::new(Operation::Zero, 0, 10_000) };
    assert!(!serve(&mut zeroed, zero) && zeroed.space.used() == 0);
    let mut disk = open(&[("enospc-offset", Value::Size(1000)), partial]);
    assert!(!write(&mut disk, 500, 1000));
    assert_eq!(written(&disk), 500);
}

#[test]
fn pool_becomes_larger_under_way() {
    let mut disk = open(&[after(4096)]);
    assert!(write(&mut disk, 0, 1) && !write(&mut disk, 4096, 1));
    let larger = Argument { name: "enospc-after".into(), value: Value::Size(8192) };
    disk.execute("set", &[larger]).unwrap();
    assert!(write(&mut disk, 4096, 1) && !write(&mut disk, 8192, 1));
    let block = Argument { name: "enospc-block".into(), value: Value::Size(512) };
    disk.execute("set", &[block]).unwrap();
    assert_eq!(disk.execute("status", &[]).unwrap(), "0 of 8192 bytes are used");
    let block = Argument { name: "enospc-block".into(), value: Value::Size(3) };
    assert!(disk.execute("set", &[block]).unwrap_err().message.unwrap().contains("power of two"));
}

#[test]
fn without_parameters_everything_passes() {
    let mut disk = open(&[]);
    for operation in Operation::ALL {
        assert_eq!(disk.stable(operation, 5).unwrap().length, SIZE - 5);
    }
}
