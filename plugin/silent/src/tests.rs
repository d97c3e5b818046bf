use memnbd_guest::{Capabilities, Value, testing};

use super::*;

const SIZE: u64 = 64 << 10;

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn try_open(fault: &str, arguments: &[(&str, Value)]) -> Result<Silent, Error> {
    let capabilities = Capabilities::WRITABLE | Capabilities::ZERO | Capabilities::TRIM;
    let base = testing::device(SIZE, capabilities);
    let request = OpenRequest { memory_limit: 1 << 30, ..OpenRequest::default() }
        .with("base", Value::Device(base))
        .with("silent-seed", Value::Number(1))
        .with("silent-fault", text(fault));
    let request =
        arguments.iter().fold(request, |request, (name, value)| request.with(name, value.clone()));
    Silent::open(&request)
}

/// Opens a disk whose sectors have their numbers, and the fault.
fn open(fault: &str, arguments: &[(&str, Value)]) -> Silent {
    let disk = try_open(fault, arguments).unwrap();
    for sector in 0..SIZE / 512 {
        disk.base.write(sector * 512, &[sector as u8; 512], false).unwrap();
    }
    disk
}

fn always() -> (&'static str, Value) {
    ("silent-rate", Value::Probability(1.0))
}

fn serve(disk: &mut Silent, operation: Operation, offset: u64, bytes: &mut [u8]) {
    let request = Request::new(operation, offset, bytes.len() as u64);
    testing::serve(disk, &request, bytes).unwrap();
}

fn write(disk: &mut Silent, offset: u64, length: usize) {
    serve(disk, Operation::Write, offset, &mut vec![0xff; length]);
}

fn read(disk: &mut Silent, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    serve(disk, Operation::Read, offset, &mut bytes);
    bytes
}

/// The first bytes of some sectors on the disk beneath.
fn beneath<const N: usize>(disk: &Silent, sectors: [u64; N]) -> [u8; N] {
    sectors.map(|sector| {
        let mut byte = [0];
        disk.base.read(sector * 512, &mut byte).unwrap();
        byte[0]
    })
}

#[test]
fn requests_pass_without_a_rate() {
    for (fault, _) in FAULTS {
        let mut disk = open(fault, &[]);
        for operation in Operation::ALL {
            let stable = disk.stable(operation, 10).unwrap();
            assert_eq!(stable, StableRoute::new(disk.base.at(10), SIZE - 10));
        }
    }
}

#[test]
fn phantom_writes_change_nothing() {
    let mut disk = open("phantom-write", &[("silent-nth", Value::Number(2))]);
    write(&mut disk, 512, 512);
    write(&mut disk, 1024, 512);
    serve(&mut disk, Operation::Zero, 1536, &mut [0; 512]);
    serve(&mut disk, Operation::Zero, 2048, &mut [0; 512]);
    serve(&mut disk, Operation::Trim, 2560, &mut [0; 512]);
    serve(&mut disk, Operation::Trim, 3072, &mut [0; 512]);
    assert_eq!(beneath(&disk, [1, 2, 3, 4, 5, 6]), [0xff, 2, 0, 4, 0, 6]);
    assert!(
        disk.stable(Operation::Read, 0).is_some() && disk.stable(Operation::Write, 0).is_none()
    );
}

#[test]
fn torn_writes_change_the_first_sectors() {
    let mut disk = open("torn-write", &[always()]);
    write(&mut disk, 512, 2048);
    assert_eq!(beneath(&disk, [1, 2, 3, 4]), [0xff, 0xff, 3, 4]);
    write(&mut disk, 5120, 512);
    assert_eq!(beneath(&disk, [10]), [10]);
    serve(&mut disk, Operation::Zero, 10_240, &mut [0; 1024]);
    assert_eq!(beneath(&disk, [20, 21]), [0, 21]);
    let mut three = open("torn-write", &[always(), ("silent-sectors", Value::Number(3))]);
    write(&mut three, 100, 4096);
    let bytes = read(&mut three, 0, 2048);
    assert!(bytes[100..1536].iter().all(|byte| *byte == 0xff) && bytes[1536] == 3);
    write(&mut three, 10_240, 512);
    assert_eq!(beneath(&three, [20]), [0xff], "there are no more");
}

#[test]
fn misdirected_writes_change_another_sector() {
    let distance = ("silent-distance", Value::Size(1024));
    let mut disk = open("misdirected-write", &[always(), distance]);
    write(&mut disk, 512, 512);
    assert_eq!(beneath(&disk, [1, 2, 3, 4]), [1, 2, 0xff, 4]);
    write(&mut disk, SIZE - 512, 512);
    assert_eq!(beneath(&disk, [125, 126, 127]), [0xff, 126, 127]);
    write(&mut disk, 0, SIZE as usize);
    assert_eq!(beneath(&disk, [0, 127]), [0xff, 0xff], "there is no other place");
    let mut random = open("misdirected-write", &[always()]);
    for _ in 0..1000 {
        write(&mut random, 512, 512);
    }
    assert_eq!(beneath(&random, [1]), [1]);
    let changed = (0..128).filter(|sector| beneath(&random, [*sector]) == [0xff]).count();
    assert!((125..=127).contains(&changed), "{changed}");
}

#[test]
fn misdirected_reads_return_another_sector() {
    let mut disk = open("misdirected-read", &[always(), ("silent-distance", Value::Size(512))]);
    assert_eq!(read(&mut disk, 5120, 2), [11, 11]);
    assert_eq!(read(&mut disk, SIZE - 1, 1), [126]);
    let mut random = open("misdirected-read", &[always()]);
    for offset in [0, 100, 512, SIZE - 100] {
        let read: Vec<u8> = (0..200).map(|_| read(&mut random, offset, 1)[0]).collect();
        assert!(read.iter().all(|sector| u64::from(*sector) != offset / 512));
    }
    write(&mut random, 0, 512);
    assert_eq!(beneath(&random, [0]), [0xff]);
}

#[test]
fn stale_reads_return_what_was_before() {
    let mut disk = open("stale-read", &[("silent-nth", Value::Number(2))]);
    assert_eq!(read(&mut disk, 0, 1), [0], "nothing is stale, so it is not counted");
    write(&mut disk, 512, 512);
    assert_eq!(read(&mut disk, 512, 1), [0xff]);
    assert_eq!(read(&mut disk, 0, 2048), {
        let mut all = vec![0; 2048];
        all.chunks_mut(512).zip(0..).for_each(|(sector, number)| sector.fill(number));
        all
    });
    assert_eq!(read(&mut disk, 512, 1), [0xff]);
    serve(&mut disk, Operation::Zero, 512, &mut [0; 512]);
    assert_eq!(read(&mut disk, 512, 1), [0xff], "before it was zeroed");
    assert_eq!(read(&mut disk, 512, 1), [0]);
    assert!(disk.stable(Operation::Write, 0).is_none());
}

#[test]
fn only_a_range_has_the_fault() {
    let mut disk = open("phantom-write", &[("silent-range", text("4k:512"))]);
    write(&mut disk, 0, 4096);
    write(&mut disk, 4096, 512);
    write(&mut disk, 4608, 512);
    assert_eq!(beneath(&disk, [7, 8, 9]), [0xff, 8, 0xff]);
    assert_eq!(disk.stable(Operation::Write, 0).unwrap().length, 4096);
}

#[test]
fn commands_change_the_fault_and_the_state() {
    let mut disk = open("phantom-write", &[("silent-state", Value::Number(7))]);
    write(&mut disk, 0, 512);
    let state = Argument { name: "state".into(), value: Value::Number(7) };
    disk.execute("state", &[state]).unwrap();
    write(&mut disk, 512, 512);
    assert_eq!(beneath(&disk, [0, 1]), [0xff, 1]);
    let fault = Argument { name: "silent-fault".into(), value: text("misdirected-write") };
    let state = Argument { name: "silent-state".into(), value: Value::Number(1) };
    let distance = Argument { name: "silent-distance".into(), value: Value::Size(512) };
    disk.execute("set", &[fault, state, distance]).unwrap();
    write(&mut disk, 1024, 512);
    assert_eq!(beneath(&disk, [2, 3]), [2, 0xff]);
}

#[test]
fn mistakes_are_told() {
    for (name, value, message) in [
        ("silent-sector", Value::Size(1000), "silent-sector=1000 must be a power of two"),
        ("silent-distance", Value::Size(0), "leads to the same place"),
        ("silent-range", text("64k:1"), "ends beyond the device"),
    ] {
        let error = try_open("torn-write", &[(name, value)]).unwrap_err();
        assert!(error.message.as_deref().unwrap().contains(message), "{error:?}");
    }
}
