use std::fs;
use std::time::Instant;

use memnbd::parameters::{Parameter, ParameterType};
use tempfile::TempDir;

use super::*;

fn description() -> Description {
    let parameter = |name: &str| Parameter {
        name: name.into(),
        summary: String::new(),
        kind: ParameterType::Text,
        required: false,
        repeatable: false,
        default: None,
    };
    Description {
        name: COMPONENT.into(),
        version: String::new(),
        summary: String::new(),
        parameters: ["data", "raw", "size", PARAMETER].iter().map(|name| parameter(name)).collect(),
        bare_parameter: Some(EXPRESSION.into()),
        other_parameters: true,
    }
}

fn open(directory: &TempDir, words: &[&str], scripts: bool) -> Result<Inputs, String> {
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let allowed = if scripts { Allowed::Scripts } else { Allowed::Files };
    Inputs::open(&words, &description(), directory.path(), allowed)
}

fn contents(inputs: &Inputs) -> Vec<Vec<u8>> {
    let content = |(_, fd): &(String, Arc<OwnedFd>)| {
        let mut bytes = vec![0; rustix::fs::fstat(fd).unwrap().st_size as usize];
        rustix::io::pread(fd, &mut bytes, 0).unwrap();
        bytes
    };
    inputs.files.iter().map(content).collect()
}

#[test]
fn files_are_opened_in_the_order_of_the_expression() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("a"), "A").unwrap();
    fs::write(directory.path().join("b"), "B").unwrap();
    let words = ["$v <b # <no", "v=<a[:1] \"<no\" </dev/zero[1:3]"];
    let inputs = open(&directory, &words, false).unwrap();
    assert_eq!(contents(&inputs), [&b"A"[..], &[0; 3], b"B"]);
    assert_eq!(inputs.words(), ["input-file=<a", "input-file=</dev/zero", "input-file=<b"]);
    let nothing = [&["raw=<a"][..], &["<a", "input-file=b"], &["size=1M"], &["<a ) <b"]];
    for words in nothing {
        assert_eq!(open(&directory, words, false).unwrap().files.len(), 0, "{words:?}");
    }
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let directory = TempDir::new().unwrap();
    let fails = |expression: &str, words: &[&str]| {
        let error = open(&directory, &[expression], true).unwrap_err();
        for word in words {
            assert!(error.contains(word), "{word:?} is not in {error}");
        }
    };
    fails("1 <none", &["data: <none: ", "No such file"]);
    fails("<.", &["<.: it is a directory"]);
    fails("</dev/zero", &["67108864", "slice it"]);
    fails("</dev/zero[1:67108865]", &["the slice ends at 67108865"]);
    fails("</dev/zero[:67108864] </dev/zero[:1]", &["the slice ends at 1;"]);
    fails("<(exit 3)", &["<(exit 3): the script failed: exit status: 3"]);
    fails("<(cat /dev/zero)", &["67108864", "slice it"]);
}

#[test]
fn scripts_run_only_if_they_are_allowed() {
    let directory = TempDir::new().unwrap();
    let error = open(&directory, &["<(touch file)"], false).unwrap_err();
    assert!(error.starts_with("data: <(touch file): scripts") && error.contains("--allow-scripts"));
    assert!(!directory.path().join("file").exists());
    let start = Instant::now();
    let script = "<(pwd) <(while :; do echo y; done)[:4] <(echo hidden >&2)";
    let inputs = open(&directory, &[script], true).unwrap();
    let pwd = format!("{}\n", directory.path().canonicalize().unwrap().display());
    assert_eq!(contents(&inputs), [pwd.as_bytes(), b"y\ny\n", b""]);
    assert!(start.elapsed() < LIMIT);
}

#[test]
fn variables_of_the_environment_are_passed_on() {
    let directory = TempDir::new().unwrap();
    let home = std::env::var("PATH").unwrap();
    let inputs = open(&directory, &["$PATH $HOME", "HOME=1"], false).unwrap();
    assert_eq!(inputs.words(), [format!("PATH={home}")], "the command line comes first");
}
