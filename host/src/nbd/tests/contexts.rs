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
        "00000000",
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
    for query in ["base:no-such-context", "x-conformance:anything", "nocolon", "qemu:", ":", ""] {
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
    for queries in ["00000000", "00000001 ['base:']"] {
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
             C: 'IHAVEOPT' {option} [ ['disk'] 00000000 ]
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
