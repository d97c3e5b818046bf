//! "Metadata querying", NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT.

use super::transcript::{Setup, talk};
use super::*;

const STRUCTURED: &str = "C: 'IHAVEOPT' 00000008 00000000
    S: 0003e889045565a9 00000008 00000001 00000000\n";
const SET: &str = "C: 'IHAVEOPT' 0000000a [ ['disk'] 00000001 ['base:allocation'] ]
    S: 0003e889045565a9 0000000a 00000004 [ 00000001 'base:allocation' ]
    S: 0003e889045565a9 0000000a 00000001 00000000\n";
const GO: &str = "C: 'IHAVEOPT' 00000007 [ ['disk'] 0000 ]
    S: 0003e889045565a9 00000007 00000003 [ 0000 0000000000020000 0ded ]
    S: 0003e889045565a9 00000007 00000001 00000000\n";
const STATUS: &str = "C: 25609513 0000 0007 00000000000000aa 0000000000000000 00020000
    S: 668e33ef 0001 0005 00000000000000aa [ 00000001 00020000 00000003 ]\n";
const NO_STATUS: &str = "C: 25609513 0000 0007 00000000000000aa 0000000000000000 00020000
    S: 668e33ef 0001 8001 00000000000000aa
    S: [ 00000016 ('no metadata context is selected for this export') ]\n";

fn after_structured(transcript: &str) {
    talk(&format!("{STRUCTURED}{transcript}"));
}

#[test]
fn list_tells_what_matches() {
    for queries in [
        "00000001 ['base:']",
        "00000001 ['base:allocation']",
        "00000003 ['x-conformance:a'] ['base:allocation'] ['base:no-such-context']",
        "00000002 ['base:allocation'] ['base:']",
    ] {
        after_structured(&format!(
            "C: 'IHAVEOPT' 00000009 [ ['disk'] {queries} ]
             S: 0003e889045565a9 00000009 00000004 [ 00000000 'base:allocation' ]
             S: 0003e889045565a9 00000009 00000001 00000000"
        ));
    }
}

#[test]
fn unknown_queries_are_ignored() {
    for query in [
        "base:no-such-context",
        "x-conformance:anything",
        "nocolon",
        "qemu:no-such-context",
        "qemu:allocation-depth:",
        "qemu:dirty-bitmap",
        "qemu:dirty-bitmap:no-such-bitmap",
        "QEMU:allocation-depth",
        ":",
        "",
    ] {
        for option in ["00000009", "0000000a"] {
            after_structured(&format!(
                "C: 'IHAVEOPT' {option} [ ['disk'] 00000001 ['{query}'] ]
                 S: 0003e889045565a9 {option} 00000001 00000000"
            ));
        }
    }
}

#[test]
fn set_ignores_the_wildcard_and_selects_nothing_without_queries() {
    for queries in ["00000000", "00000001 ['base:']", "00000002 ['qemu:'] ['qemu:dirty-bitmap:']"] {
        after_structured(&format!(
            "C: 'IHAVEOPT' 0000000a [ ['disk'] {queries} ]
             S: 0003e889045565a9 0000000a 00000001 00000000
             {GO}{NO_STATUS}"
        ));
    }
}

#[test]
fn set_selects_a_context_once() {
    for queries in [
        "00000001 ['base:allocation']",
        "00000002 ['base:allocation'] ['base:allocation']",
        "00000003 ['x-conformance:a'] ['base:no-such'] ['base:allocation']",
    ] {
        after_structured(&format!(
            "C: 'IHAVEOPT' 0000000a [ ['disk'] {queries} ]
             S: 0003e889045565a9 0000000a 00000004 [ 00000001 'base:allocation' ]
             S: 0003e889045565a9 0000000a 00000001 00000000
             {GO}{STATUS}"
        ));
    }
}

#[test]
fn many_queries_are_answered() {
    let unknown = "['x-conformance:unknown-context']".repeat(99);
    after_structured(&format!(
        "C: 'IHAVEOPT' 0000000a [ ['disk'] 00000064 {unknown} ['base:allocation'] ]
         S: 0003e889045565a9 0000000a 00000004 [ 00000001 'base:allocation' ]
         S: 0003e889045565a9 0000000a 00000001 00000000"
    ));
    let most = format!("0*{}", 4 * limits::MAX_QUERIES);
    let empty = format!("0*{}", 4 * (limits::MAX_QUERIES + 1));
    for option in ["00000009", "0000000a"] {
        after_structured(&format!(
            "C: 'IHAVEOPT' {option} [ ['disk'] 00001000 {most} ]
             S: 0003e889045565a9 {option} 00000001 00000000
             C: 'IHAVEOPT' {option} [ ['disk'] 00001001 {empty} ]
             S: 0003e889045565a9 {option} 80000009 [*]
             C: 'IHAVEOPT' {option} [0*65537]
             S: 0003e889045565a9 {option} 80000009 [*]"
        ));
    }
}

#[test]
fn malformed_data_is_refused_and_haggling_goes_on() {
    let long = format!("['disk'] 00000001 ['{}']", "q".repeat(4097));
    for data in [
        "",                                             // nothing
        "['disk'] 0000",                                // half a count
        "000003e8 'disk' 00000000",                     // a name beyond the data
        "ffffffff 'disk' 00000000",                     // a name of 4 GiB
        "['disk'] 00000003 ['base:allocation']",        // three announced, one sent
        "['disk'] 00000001 000003e8 'base:allocation'", // a query beyond the data
        "['disk'] 00000001 ffffffff 'base:allocation'", // a query of 4 GiB
        "['disk'] ffffffff ['base:allocation']",        // 4 Gi queries
        "['disk'] 00002000 0*16384", // more queries announced than allowed, and than sent
        "['disk'] 00000001 ['base:allocation'] 'junk'", // trailing bytes
        "['disk'] 00000000 'junk'",  // trailing bytes
        "['disk'] 00000001 ['base:allocation' 00]", // NUL
        "['disk'] 00000001 ['base:' ff]", // not UTF-8
        "['disk' 00] 00000001 ['base:allocation']", // a name with NUL
        long.as_str(),               // a query that is too long
    ] {
        for option in ["00000009", "0000000a"] {
            after_structured(&format!(
                "C: 'IHAVEOPT' {option} [{data}]
                 S: 0003e889045565a9 {option} 80000003 [*]
                 {SET}{GO}{STATUS}"
            ));
        }
    }
}

#[test]
fn contexts_need_replies_with_payload() {
    for option in ["00000009", "0000000a"] {
        talk(&format!(
            "C: 'IHAVEOPT' {option} [ ['disk'] 00000001 ['base:allocation'] ]
             S: 0003e889045565a9 {option} 80000003 [*]"
        ));
        talk(&format!(
            "C: 'IHAVEOPT' 0000000b 00000000
             S: 0003e889045565a9 0000000b 00000001 00000000
             C: 'IHAVEOPT' {option} [ ['disk'] 00000001 ['base:'] ]
             S: {} 0003e889045565a9 {option} 00000001 00000000",
            match option {
                "00000009" => "0003e889045565a9 00000009 00000004 [ 00000000 'base:allocation' ]",
                _ => "",
            }
        ));
    }
}

#[test]
fn each_set_replaces_the_selection_even_if_it_fails() {
    for (data, reply) in [
        ("['disk'] 00000000", "00000001 00000000"),
        ("['disk'] 00000001 ['base:no-such']", "00000001 00000000"),
        ("['disk'] 00000001", "80000003 [*]"),
        ("", "80000003 [*]"),
        ("0*65537", "80000009 [*]"),
        ("['no such'] 00000001 ['base:allocation']", "80000006 [*]"),
        ("['secret'] 00000001 ['base:allocation']", "80000002 [*]"),
    ] {
        after_structured(&format!(
            "{SET}C: 'IHAVEOPT' 0000000a [{data}]
             S: 0003e889045565a9 0000000a {reply}
             {GO}{NO_STATUS}"
        ));
    }
}

#[test]
fn selection_for_another_name_does_not_count() {
    for name in ["other", ""] {
        after_structured(&format!(
            "C: 'IHAVEOPT' 0000000a [ ['{name}'] 00000001 ['base:allocation'] ]
             S: 0003e889045565a9 0000000a 00000004 [ 00000001 'base:allocation' ]
             S: 0003e889045565a9 0000000a 00000001 00000000
             {GO}{NO_STATUS}"
        ));
    }
}

#[test]
fn selection_survives_other_options() {
    after_structured(&format!(
        "{SET}C: 'IHAVEOPT' 00000006 [ ['other'] 0000 ]
         S: 0003e889045565a9 00000006 00000003 [ 0000 0000000000020000 0ded ]
         S: 0003e889045565a9 00000006 00000001 00000000
         C: 'IHAVEOPT' 00000009 [ ['other'] 00000000 ]
         S: 0003e889045565a9 00000009 00000004 [ 00000000 'base:allocation' ]
         S: 0003e889045565a9 00000009 00000001 00000000
         C: 'IHAVEOPT' 00007e57 [ 0*9 ]
         S: 0003e889045565a9 00007e57 80000001 [*]
         C: 'IHAVEOPT' 00000007 [ ['no such'] 0000 ]
         S: 0003e889045565a9 00000007 80000006 [*]
         {STRUCTURED}{GO}{STATUS}"
    ));
}

#[test]
fn unknown_export_has_no_contexts() {
    for option in ["00000009", "0000000a"] {
        after_structured(&format!(
            "C: 'IHAVEOPT' {option} [ ['no such'] 00000000 ]
             S: 0003e889045565a9 {option} 80000006 [*]"
        ));
    }
}

#[test]
fn contexts_are_unknown_where_no_reply_could_carry_them() {
    let config = HandshakeConfig {
        structured_replies: false,
        extended_headers: false,
        ..HandshakeConfig::default()
    };
    Setup { config, ..Setup::default() }.talk(
        "C: 'IHAVEOPT' 00000009 [ ['disk'] 00000000 ]
         S: 0003e889045565a9 00000009 80000001 [*]",
    );
}

/// The names of all bitmaps of the disk.
fn bitmaps() -> Vec<String> {
    let numbers = (0..20).map(|number| number.to_string());
    ["since".to_owned()].into_iter().chain(numbers).collect()
}

fn told(option: u32, id: u32, name: &str) -> String {
    format!("S: 0003e889045565a9 {option:08x} 00000004 [ {id:08x} '{name}' ]\n")
}

#[test]
fn list_tells_contexts_of_qemu_each_once() {
    let all: String =
        bitmaps().iter().map(|name| told(9, 0, &format!("qemu:dirty-bitmap:{name}"))).collect();
    let base = told(9, 0, "base:allocation");
    let depth = told(9, 0, "qemu:allocation-depth");
    let since = told(9, 0, "qemu:dirty-bitmap:since");
    for (queries, told) in [
        ("00000000", format!("{base}{depth}{all}")),
        ("00000001 ['qemu:']", format!("{depth}{all}")),
        ("00000002 ['qemu:allocation-depth'] ['qemu:']", format!("{depth}{all}")),
        ("00000001 ['qemu:dirty-bitmap:']", all.clone()),
        ("00000002 ['qemu:dirty-bitmap:since'] ['qemu:dirty-bitmap:']", all.clone()),
        ("00000002 ['qemu:dirty-bitmap:'] ['qemu:allocation-depth']", format!("{all}{depth}")),
        ("00000001 ['qemu:dirty-bitmap:since']", since.clone()),
        (
            "00000003 ['qemu:dirty-bitmap:no'] ['qemu:dirty-bitmap:since'] ['base:allocation']",
            format!("{base}{since}"),
        ),
    ] {
        after_structured(&format!(
            "C: 'IHAVEOPT' 00000009 [ ['disk'] {queries} ]
             {told}S: 0003e889045565a9 00000009 00000001 00000000"
        ));
    }
    // This export has none of them.
    for queries in ["00000001 ['qemu:']", "00000001 ['qemu:allocation-depth']"] {
        for option in ["00000009", "0000000a"] {
            after_structured(&format!(
                "C: 'IHAVEOPT' {option} [ ['other'] {queries} ]
                 S: 0003e889045565a9 {option} 00000001 00000000"
            ));
        }
    }
}

#[test]
fn several_contexts_are_selected_and_answered_together() {
    let set = format!(
        "C: 'IHAVEOPT' 0000000a [ ['disk'] 00000004 ['qemu:dirty-bitmap:since'] \
         ['base:allocation'] ['qemu:allocation-depth'] ['qemu:dirty-bitmap:7'] ]
         {}{}{}{}S: 0003e889045565a9 0000000a 00000001 00000000",
        told(10, 1, "base:allocation"),
        told(10, 2, "qemu:allocation-depth"),
        told(10, 3, "qemu:dirty-bitmap:7"),
        told(10, 4, "qemu:dirty-bitmap:since"),
    );
    after_structured(&format!(
        "{set}
         {GO}C: 25609513 0000 0007 00000000000000aa 0000000000000000 00002000
         S: 668e33ef 0000 0005 00000000000000aa [ 00000001 00002000 00000000 ]
         S: 668e33ef 0000 0005 00000000000000aa [ 00000002 00001000 00000000 00001000 00000002 ]
         S: 668e33ef 0000 0005 00000000000000aa [ 00000003 00001000 00000000 00001000 00000003 ]
         S: 668e33ef 0001 0005 00000000000000aa [ 00000004 00001000 00000000 00001000 00000004 ]
         C: 25609513 0008 0007 00000000000000aa 0000000000000800 00001800  # REQ_ONE
         S: 668e33ef 0000 0005 00000000000000aa [ 00000001 00001800 00000000 ]
         S: 668e33ef 0000 0005 00000000000000aa [ 00000002 00000800 00000000 ]
         S: 668e33ef 0000 0005 00000000000000aa [ 00000003 00000800 00000000 ]
         S: 668e33ef 0001 0005 00000000000000aa [ 00000004 00000800 00000000 ]"
    ));
    // With extended headers, a request may be for some of them.
    let request = "21e41c71 0020 0007 00000000000000aa 0000000000000000";
    let reply = |flags: &str| format!("6e8a278c {flags} 0006 00000000000000aa 0000000000000000");
    talk(&format!(
        "C: 'IHAVEOPT' 0000000b 00000000
         S: 0003e889045565a9 0000000b 00000001 00000000
         {set}
         C: 'IHAVEOPT' 00000007 [ ['disk'] 0000 ]
         S: 0003e889045565a9 00000007 00000003 [ 0000 0000000000020000 1ded ]
         S: 0003e889045565a9 00000007 00000001 00000000
         C: {request} 0000000000000010 0000000000001000 00000004 00000001
         S: {} 0000000000000018 00000001 00000001 0000000000001000 0000000000000000
         S: {} 0000000000000018 00000004 00000001 0000000000001000 0000000000000000
         C: {request} 000000000000000c 0000000000000001 00000003
         S: {} 0000000000000018 00000003 00000001 0000000000000001 0000000000000000",
        reply("0000"),
        reply("0001"),
        reply("0001"),
    ));
}

#[test]
fn filters_name_selected_contexts_once() {
    let request = "21e41c71 0020 0007 00000000000000aa 0000000000000000";
    for filter in [
        "000000000000000c 0000000000001000 00000001", // not selected
        "0000000000000010 0000000000001000 00000002 00000002", // twice
        "0000000000000010 0000000000001000 00000002 00000004", // unknown
        "0000000000000008 0000000000001000",          // none
        "000000000000000b 0000000000001000 000000",   // less than one
        "000000000000000e 0000000000001000 00000002 0000", // one and a half
        "000000000000000c 0000000000001000 00000020", // ids are small
        "000000000000000c 0000000000001000 ffffffff",
    ] {
        talk(&format!(
            "C: 'IHAVEOPT' 0000000b 00000000
             S: 0003e889045565a9 0000000b 00000001 00000000
             C: 'IHAVEOPT' 0000000a [ ['disk'] 00000002 ['qemu:dirty-bitmap:1'] ['qemu:dirty-bitmap:2'] ]
             {}{}S: 0003e889045565a9 0000000a 00000001 00000000
             C: 'IHAVEOPT' 00000007 [ ['disk'] 0000 ]
             S: 0003e889045565a9 00000007 00000003 [ 0000 0000000000020000 1ded ]
             S: 0003e889045565a9 00000007 00000001 00000000
             C: {request} {filter}
             S: 6e8a278c 0001 8001 00000000000000aa 0000000000000000 0000000000000045
             S: 00000016 ('the payload does not list selected metadata contexts, each once')",
            told(10, 2, "qemu:dirty-bitmap:1"),
            told(10, 3, "qemu:dirty-bitmap:2"),
        ));
    }
}

#[test]
fn only_so_many_contexts_can_be_selected() {
    let queries = |count: usize| {
        let names = bitmaps();
        let queries = names.iter().take(count);
        queries.map(|name| format!("['qemu:dirty-bitmap:{name}']")).collect::<String>()
    };
    let mut names = bitmaps()[..limits::MAX_CONTEXTS].to_vec();
    names.sort();
    let told: String = (2..)
        .zip(&names)
        .map(|(id, name)| told(10, id, &format!("qemu:dirty-bitmap:{name}")))
        .collect();
    after_structured(&format!(
        "C: 'IHAVEOPT' 0000000a [ ['disk'] 00000011 ['base:allocation'] {} ]
         {}{told}S: 0003e889045565a9 0000000a 00000001 00000000
         C: 'IHAVEOPT' 0000000a [ ['disk'] 00000011 {} ]
         S: 0003e889045565a9 0000000a 80000009 ['at most 16 contexts can be selected']
         {GO}{NO_STATUS}",
        queries(limits::MAX_CONTEXTS),
        self::told(10, 1, "base:allocation"),
        queries(limits::MAX_CONTEXTS + 1),
    ));
}
