//! The filter `partition`.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::backends::served;
use crate::mistakes::complains;
use crate::support::{Server, client, memnbd, require, run, shell};

/// What sfdisk makes of an image: the numbers of the partitions, which are at the beginning of each.
const TABLES: [(&str, &[u32]); 4] = [
    ("label: dos\n,1M\n,2M\n,3M,L,*\n", &[1, 2, 3]),
    ("label: dos\n,1M\n,8M,E\n,1M\n,1M\n,2M\n,1M\n", &[1, 3, 4, 5, 6]),
    ("label: gpt\n,1M\n,2M\n", &[1, 2]),
    ("label: gpt\n5: size=1M, name=\"first\"\n2: size=3M\n", &[2, 5]),
];

fn script(directory: &Path, script: &str) -> String {
    run(&mut shell(directory, &["-c".as_ref(), script.as_ref()])).success()
}

/// Makes an image of 20 MiB with a table, whose other bytes tell their offsets.
fn image(directory: &Path, table: &str) {
    let bytes: Vec<u8> = (0..20_u64 << 17).flat_map(|word| (word * 8).to_be_bytes()).collect();
    fs::write(directory.join("disk"), bytes).unwrap();
    fs::write(directory.join("table"), table).unwrap();
    script(directory, "PATH=$PATH:/usr/sbin:/sbin; sfdisk -q --wipe never disk < table");
}

#[test]
fn partitions_are_those_of_nbdkit() {
    require!("nbdkit", "nbdinfo", "nbdcopy", "sfdisk");
    for (table, numbers) in TABLES {
        let directory = TempDir::new().unwrap();
        image(directory.path(), table);
        for number in numbers {
            let parameter = format!("partition={number}");
            let arguments = ["-r", "--filter=partition", "file", "disk", &parameter];
            let content = r#"nbdinfo --size "$uri" && nbdcopy "$uri" - | sha256sum"#;
            let [ours, theirs] = ["memnbd", "nbdkit"]
                .map(|program| served(program, directory.path(), &arguments, content));
            assert_eq!(ours, theirs, "{table} {number}");
        }
    }
}

#[test]
fn partitions_of_an_image_are_listed_and_served() {
    require!("nbdinfo", "nbdsh", "sfdisk");
    for (table, numbers) in TABLES {
        let directory = TempDir::new().unwrap();
        image(directory.path(), table);
        let arguments = ["-U", "socket", "--export", "*=file,filter=partition,disk"];
        let mut command = memnbd(directory.path(), arguments);
        let server = Server::spawn(directory, &mut command);
        let list = run(client(&server, "nbdinfo").args(["--list", "--json", server.uri()]));
        let list: serde_json::Value = serde_json::from_str(&list.success()).unwrap();
        let exports = list["exports"].as_array().unwrap();
        let names: Vec<_> = exports.iter().map(|export| export["export-name"].as_str()).collect();
        let expected: Vec<String> = numbers.iter().map(u32::to_string).collect();
        let expected: Vec<_> = expected.iter().map(|name| Some(name.as_str())).collect();
        assert_eq!(names, expected, "{table}");
        assert!(exports[0]["export-size"].as_u64() > Some(0), "{list}");
        let expected = format!(
            "
import json, subprocess
table = json.loads(subprocess.check_output(
    'PATH=$PATH:/usr/sbin:/sbin sfdisk --json disk', shell=True))['partitiontable']
places = {{p['node'][4:]: (p['start'] * 512, p['size'] * 512) for p in table['partitions']}}
for number in {numbers:?}:
    c = nbd.NBD()
    c.set_export_name(str(number))
    c.connect_unix('socket')
    start, size = places[str(number)]
    assert c.get_size() == size
    assert c.pread(8, 0) == start.to_bytes(8, 'big')
    assert c.pread(8, size - 8) == (start + size - 8).to_bytes(8, 'big')
    c.pwrite(b'here', 512)
    c.flush()
    with open('disk', 'rb') as disk:
        disk.seek(start + 512)
        assert disk.read(4) == b'here'
assert h.get_size() == places[str({first})][1], 'the default is the first'
try:
    c = nbd.NBD()
    c.set_export_name('9')
    c.connect_unix('socket')
    assert False
except nbd.Error as error:
    pass
",
            first = numbers[0]
        );
        let mut server = server;
        crate::support::nbdsh(&server, &expected);
        server.allow_log("there is no partition 9");
    }
}

/// What the backend `partitioning` makes is found again.
#[test]
fn files_that_were_made_partitions_are_partitions() {
    require!("nbdcopy");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    for index in 1..=7_u8 {
        fs::write(path.join(format!("file{index}")), vec![index; 512 * usize::from(index)])
            .unwrap();
    }
    for (table, numbers) in [("mbr", [1, 2, 3, 5, 6, 7, 8]), ("gpt", [1, 2, 3, 4, 5, 6, 7])] {
        for (number, index) in numbers.into_iter().zip(1..) {
            let (kind, number) = (format!("partition-type={table}"), format!("partition={number}"));
            let files: Vec<String> = (1..=7).map(|index| format!("file{index}")).collect();
            let mut arguments = vec!["--filter=partition", "partitioning", &kind, &number];
            arguments.extend(files.iter().map(String::as_str));
            served("memnbd", path, &arguments, r#"nbdcopy "$uri" out"#);
            let expected = fs::read(path.join(format!("file{index}"))).unwrap();
            assert!(fs::read(path.join("out")).unwrap() == expected, "{table} {number}");
        }
    }
}

#[test]
fn mistakes_are_told() {
    let filtered = ["--filter=partition", "memory", "1M"];
    let with = |rest: &[&'static str]| [&filtered, rest].concat();
    complains(1, &with(&["partition=1"]), &["neither an MBR nor a GPT"]);
    complains(2, &with(&["partition=0"]), &["partition: partition: "]);
    complains(2, &with(&["partition=x"]), &["partition: partition: "]);
    let data = ["--filter=partition", "data", "@0x1fe 0x55 0xaa", "size=1M", "-e", "disk"];
    complains(1, &data, &["give partition=N", "\"disk\""]);
    let numbered = [&data[..], &["partition=3"]].concat();
    complains(1, &numbered, &["there is no partition 3 in the MBR"]);
}
