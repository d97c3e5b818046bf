//! Components that take commands, and those that list their exports.

use super::guest::{Guest, can};
use super::{LONG, opened, started};
use crate::block::ErrorCode;
use crate::component::{Breach, Call, Fault, Instance};
use crate::parameters::{Argument, Parameter, ParameterType, Value};

const TEXT: u8 = 0;

/// Answers with the name of the command.
const ECHO: &str = "(call $answer (local.get $name) (local.get $name-length))";

async fn breach(guest: &Guest) -> Breach {
    match started(guest, LONG).await.open("", false, &[]).await.unwrap_err() {
        Fault::Breach { call: Call::Commands, breach } => breach,
        other => panic!("{other}"),
    }
}

async fn control(instance: &mut Instance, command: &str) -> Result<String, ErrorCode> {
    let argument = Argument { name: "value".into(), value: Value::Text("x".into()) };
    let answer = instance.control(command, &[argument]).await.unwrap();
    answer.map_err(|error| error.code)
}

#[tokio::test]
async fn commands_are_known_once_the_disk_is_open() {
    let guest = Guest::new().controlled(&[("set", TEXT), ("reset", 5)], ECHO);
    let disk = started(&guest, LONG).await.open("", false, &[]).await.unwrap().unwrap();
    let names: Vec<&str> = disk.commands.iter().map(|command| command.name.as_str()).collect();
    assert_eq!(names, ["set", "reset"]);
    let [Parameter { name, kind, required, .. }] = &disk.commands[1].parameters[..] else {
        panic!("one parameter");
    };
    assert_eq!((name.as_str(), kind, required), ("value", &ParameterType::Duration, &false));
}

#[tokio::test]
async fn commands_that_break_the_rules_are_refused() {
    let of = |commands: &[(&str, u8)]| Guest::new().controlled(commands, ECHO);
    assert_eq!(breach(&of(&[("", TEXT)])).await, Breach::CommandName("".into()));
    assert_eq!(breach(&of(&[("a b", TEXT)])).await, Breach::CommandName("a b".into()));
    let twice = breach(&of(&[("a", TEXT), ("a", TEXT)])).await;
    assert_eq!(twice, Breach::CommandTwice("a".into()));
    // A device, a file and a secret.
    for kind in 7..=9 {
        let granted = breach(&of(&[("a", kind)])).await;
        let (command, parameter) = ("a".into(), "value".into());
        assert_eq!(granted, Breach::CommandParameter { command, parameter });
    }
}

#[tokio::test]
async fn disk_with_commands_has_one_instance() {
    let guest = Guest::new().controlled(&[("set", TEXT)], ECHO);
    let interchangeable = guest.clone().opened(|disk| disk.capabilities |= can::INTERCHANGEABLE);
    assert_eq!(breach(&interchangeable).await, Breach::CommandsShared);
    let striped = guest.opened(|disk| disk.stripe = 65536);
    assert_eq!(breach(&striped).await, Breach::CommandsShared);
}

#[tokio::test]
async fn answer_to_a_command_is_text_of_several_lines() {
    let mut instance = opened(&Guest::new().controlled(&[("set", TEXT)], ECHO), LONG).await;
    assert_eq!(control(&mut instance, "set").await, Ok("set".into()));
    assert_eq!(control(&mut instance, "a\nb\x1b[1m").await, Ok("a\nb [1m".into()));
    assert_eq!(control(&mut instance, "").await, Ok(String::new()));
    // It is as usable as before.
    instance.read(0, 512).await.unwrap().unwrap();
}

#[tokio::test]
async fn error_of_a_command_is_an_answer() {
    let guest = Guest::new().controlled(&[("set", TEXT)], "(call $fail (i32.const 3))");
    let mut instance = opened(&guest, LONG).await;
    assert_eq!(control(&mut instance, "set").await, Err(ErrorCode::Inval));
    instance.read(0, 512).await.unwrap().unwrap();
}

#[tokio::test]
async fn answers_that_are_too_long_or_no_text_are_faults() {
    for (length, is_breach) in [(65536, false), (65537, true), (1 << 20, true), (1 << 30, false)] {
        let execute = format!("(call $answer (i32.const 0x10000) (i32.const {length}))");
        let guest = Guest::new().controlled(&[("set", TEXT)], execute);
        let answer = opened(&guest, LONG).await.control("set", &[]).await;
        match answer {
            Ok(answer) => assert_eq!((length, answer.unwrap().len()), (65536, 65536)),
            Err(Fault::Breach { call: Call::Control, breach }) => {
                assert_eq!((breach, is_breach), (Breach::CommandAnswer(length), true));
            }
            // The text ends beyond the memory.
            Err(Fault::Trap { call: Call::Control, .. }) => assert_eq!(length, 1 << 30),
            Err(other) => panic!("{other}"),
        }
    }
    let execute = "(i32.store (i32.const 0x10000) (i32.const -1))
        (call $answer (i32.const 0x10000) (i32.const 4))";
    let guest = Guest::new().controlled(&[("set", TEXT)], execute);
    let fault = opened(&guest, LONG).await.control("set", &[]).await.unwrap_err();
    assert!(matches!(fault, Fault::Trap { call: Call::Control, .. }), "{fault}");
}

#[tokio::test]
async fn component_without_commands_takes_none() {
    let mut instance = opened(&Guest::new(), LONG).await;
    assert_eq!(control(&mut instance, "set").await, Err(ErrorCode::Inval));
}

#[tokio::test]
async fn exports_are_listed_with_a_default() {
    let guest = Guest::new().listing(&[b"a", b"b c"], Some("a"));
    let mut instance = started(&guest, LONG).await;
    let listed = instance.list_exports(false, &[]).await.unwrap().unwrap().unwrap();
    let names: Vec<&str> = listed.exports.iter().map(|export| export.name.as_str()).collect();
    assert_eq!((names, listed.default.as_deref()), (vec!["a", "b c"], Some("a")));
    let mut without = started(&Guest::new(), LONG).await;
    assert_eq!(without.list_exports(false, &[]).await.unwrap(), Ok(None));
}

#[tokio::test]
async fn lists_that_break_the_rules_are_faults() {
    let of = |names: &[&[u8]]| Guest::new().listing(names, None);
    for (guest, expected) in [
        (of(&[b"a", b"b", b"a"]), Breach::ListedTwice("a".into())),
        (of(&[b"a\0"]), Breach::ListedName("a ".into())),
        (Guest::new().listing(&[], Some("\0")), Breach::ListedName(" ".into())),
    ] {
        match started(&guest, LONG).await.list_exports(false, &[]).await.unwrap_err() {
            Fault::Breach { call: Call::ListExports, breach } => assert_eq!(breach, expected),
            other => panic!("{other}"),
        }
    }
    let refuses = of(&[]).with("exports", "(call $fail (i32.const 1))");
    let refused = started(&refuses, LONG).await.list_exports(false, &[]).await.unwrap();
    assert!(refused.unwrap_err().contains("gave no reason"));
}

/// The texts are kept while the disk is open, and nobody pays for them.
#[tokio::test]
async fn long_texts_are_refused() {
    let text = |length: u32| {
        format!(
            "(i32.store (i32.load (i32.const 0x2800)) (i32.const 0x10000))
             (i32.store offset=4 (i32.load (i32.const 0x2800)) (i32.const 3))
             (i32.store offset=8 (i32.load (i32.const 0x2800)) (i32.const 0x20000))
             (i32.store offset=12 (i32.load (i32.const 0x2800)) (i32.const {length}))
             (memory.fill (i32.const 0x10000) (i32.const 0x61) (i32.const 0x20000))"
        )
    };
    let guest = |length| {
        let begin = format!("{} (i32.const 0x200)", text(length));
        Guest::new().controlled(&[("set", TEXT)], ECHO).with("open", begin)
    };
    // The name has 3 bytes, and the parameter 15: its name, its summary and its default.
    assert_eq!(breach(&guest(65519)).await, Breach::CommandTexts(65537));
    assert!(started(&guest(65518), LONG).await.open("", false, &[]).await.unwrap().is_ok());

    let long = vec![b'x'; 500];
    let exports = Guest::new().listing(&[&long], None).with(
        "exports",
        "(i32.store offset=12 (i32.load (i32.const 0x2c04)) (i32.const 0x100000))
         (i32.store offset=8 (i32.load (i32.const 0x2c04)) (i32.const 0x10000))
         (memory.fill (i32.const 0x10000) (i32.const 0x61) (i32.const 0x100000))
         (i32.const 0x2c00)",
    );
    match started(&exports, LONG).await.list_exports(false, &[]).await.unwrap_err() {
        Fault::Breach { breach, .. } => assert_eq!(breach, Breach::ListedTexts((1 << 20) + 500)),
        other => panic!("{other}"),
    }
}
