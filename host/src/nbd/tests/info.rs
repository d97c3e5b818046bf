//! NBD_OPT_INFO and NBD_OPT_GO, "Size constraints".

use super::transcript::{Setup, talk};
use super::*;

/// Holds a conversation with INFO and with GO in place of `OPTION`.
fn both(transcript: &str) {
    for option in ["00000006", "00000007"] {
        talk(&transcript.replace("OPTION", option));
    }
}

#[test]
fn info_and_go_tell_the_export() {
    for name in ["''", "'disk'"] {
        both(&format!(
            "C: 'IHAVEOPT' OPTION [ [{name}] 0000 ]
             S: 0003e889045565a9 OPTION 00000003 0000000c  # NBD_REP_INFO
             S: 0000                                       # NBD_INFO_EXPORT
             S: 0000000000020000                           # size
             S: 0d6d                                       # transmission flags
             S: 0003e889045565a9 OPTION 00000001 00000000  # NBD_REP_ACK"
        ));
    }
}

#[test]
fn requested_information_is_told_once() {
    for requests in ["0004 0000 0001 0002 0003", "0007 0001 0001 0003 0000 0002 0000 0003"] {
        both(&format!(
            "C: 'IHAVEOPT' OPTION [ [''] {requests} ]
             S: 0003e889045565a9 OPTION 00000003 [ 0000 0000000000020000 0d6d ]
             S: 0003e889045565a9 OPTION 00000003 [ 0001 'disk' ]
             S: 0003e889045565a9 OPTION 00000003 [ 0002 'a disk for tests' ]
             S: 0003e889045565a9 OPTION 00000003 [ 0003 00000001 00001000 04000000 ]
             S: 0003e889045565a9 OPTION 00000001 00000000"
        ));
    }
}

#[test]
fn unknown_information_requests_are_ignored() {
    both(
        "C: 'IHAVEOPT' OPTION [ ['disk'] 0003 7777 0000 ffff ]
         S: 0003e889045565a9 OPTION 00000003 [ 0000 0000000000020000 0d6d ]
         S: 0003e889045565a9 OPTION 00000001 00000000",
    );
}

#[test]
fn empty_description_is_withheld() {
    both(
        "C: 'IHAVEOPT' OPTION [ ['other'] 0001 0002 ]
         S: 0003e889045565a9 OPTION 00000003 [ 0000 0000000000020000 0d6d ]
         S: 0003e889045565a9 OPTION 00000001 00000000",
    );
}

#[test]
fn info_stays_in_haggling_and_go_agrees_with_it() {
    let tell = |option| {
        format!(
            "C: 'IHAVEOPT' {option} [ ['disk'] 0003 0000 0001 0003 ]
             S: 0003e889045565a9 {option} 00000003 [ 0000 0000000000020000 0d6d ]
             S: 0003e889045565a9 {option} 00000003 [ 0001 'disk' ]
             S: 0003e889045565a9 {option} 00000003 [ 0003 00000001 00001000 04000000 ]
             S: 0003e889045565a9 {option} 00000001 00000000\n"
        )
    };
    let server = talk(&(tell("00000006").repeat(3) + &tell("00000007")));
    assert!(server.session.is_some());
}

#[test]
fn go_is_followed_by_transmission_without_padding() {
    Setup::default().talk_from_greeting(
        "S: 'NBDMAGIC' 'IHAVEOPT' 0003
         C: 00000001
         C: 'IHAVEOPT' 00000007 [ ['disk'] 0000 ]
         S: 0003e889045565a9 00000007 00000003 [ 0000 0000000000020000 0d6d ]
         S: 0003e889045565a9 00000007 00000001 00000000
         C: 25609513 0000 0000 00000000000000aa 0000000000000000 00000008  # READ
         S: 67446698 00000000 00000000000000aa 0*8",
    );
}

#[test]
fn export_that_cannot_be_had_is_refused_and_haggling_goes_on() {
    for (name, reply) in [
        ("'conformance-no-such-export'", "80000006"),
        ("'broken'", "80000006"),
        ("'mute'", "80000006"),
        ("'forbidden'", "80000002"),
        ("'secret'", "80000002"),
    ] {
        both(&format!(
            "C: 'IHAVEOPT' OPTION [ [{name}] 0002 0000 0003 ]
             S: 0003e889045565a9 OPTION {reply} [*]
             C: 'IHAVEOPT' 00000003 00000000
             S: 0003e889045565a9 00000003 00000002 [ ['disk'] 'a disk for tests' ]
             S: 0003e889045565a9 00000003 00000002 [ ['other'] ]
             S: 0003e889045565a9 00000003 00000001 00000000
             C: 'IHAVEOPT' 00000007 [ ['disk'] 0000 ]
             S: 0003e889045565a9 00000007 00000003 [ 0000 0000000000020000 0d6d ]
             S: 0003e889045565a9 00000007 00000001 00000000"
        ));
    }
}

#[test]
fn malformed_data_is_refused_and_haggling_goes_on() {
    let long = format!("['{}'] 0000", "n".repeat(5000));
    for data in [
        "",                        // nothing
        "0000000000",              // five bytes
        "00000068 'disk' 0000",    // a name beyond the data
        "ffffffff 'disk' 0000",    // a name of 4 GiB
        "['disk'] 0005 0001",      // more requests announced than sent
        "['disk'] ffff",           // as many as can be announced
        "['disk'] 0001 00",        // half a request
        "['disk'] 0000 'junk'",    // trailing bytes
        "['disk'] 0001 0003 00",   // a trailing byte
        "['disk' 00 'tail'] 0000", // a name with NUL
        "['disk' ff] 0000",        // a name that is not UTF-8
        "['disk'] 00",             // half a count
        long.as_str(),             // a name that is too long
    ] {
        both(&format!(
            "C: 'IHAVEOPT' OPTION [{data}]
             S: 0003e889045565a9 OPTION 80000003 [*]
             C: 'IHAVEOPT' 00000006 [ ['disk'] 0000 ]
             S: 0003e889045565a9 00000006 00000003 [ 0000 0000000000020000 0d6d ]
             S: 0003e889045565a9 00000006 00000001 00000000"
        ));
    }
}

#[test]
fn names_of_4096_bytes_and_of_any_script_are_looked_for() {
    for name in [&"n".repeat(4096), "\u{3be}\u{3ad}\u{3bd}\u{3bf}\u{3c2}-\u{570b}-\u{2603}", "/"] {
        both(&format!(
            "C: 'IHAVEOPT' OPTION [ ['{name}'] 0000 ]
             S: 0003e889045565a9 OPTION 80000006 [*]"
        ));
    }
}

#[test]
fn block_sizes_of_the_disk_are_told() {
    let mut setup = Setup::default();
    setup.geometry.block_sizes = BlockSizes { minimum: 512, preferred: 65536, maximum: 1 << 20 };
    setup.talk(
        "C: 'IHAVEOPT' 00000007 [ ['disk'] 0001 0003 ]
         S: 0003e889045565a9 00000007 00000003 [ 0000 0000000000020000 0d6d ]
         S: 0003e889045565a9 00000007 00000003 0000000e  # NBD_REP_INFO
         S: 0003                                         # NBD_INFO_BLOCK_SIZE
         S: 00000200                                     # minimum
         S: 00010000                                     # preferred
         S: 00100000                                     # maximum payload
         S: 0003e889045565a9 00000007 00000001 00000000",
    );
}

#[test]
fn advertised_payload_is_never_above_our_own_limit() {
    let mut setup = Setup::default();
    setup.geometry.block_sizes = BlockSizes { minimum: 1, preferred: 1 << 31, maximum: u32::MAX };
    let server = setup.talk(
        "C: 'IHAVEOPT' 00000007 [ ['disk'] 0001 0003 ]
         S: 0003e889045565a9 00000007 00000003 [ 0000 0000000000020000 0d6d ]
         S: 0003e889045565a9 00000007 00000003 [ 0003 00000001 04000000 04000000 ]
         S: 0003e889045565a9 00000007 00000001 00000000",
    );
    assert_eq!(server.session.map(|session| session.maximum_payload()), Some(64 << 20));
}

#[test]
fn each_transmission_flag_follows_its_capability() {
    use codes::transmission_flag::*;
    let flags = |change: fn(&mut Capabilities), style| {
        let mut geometry = geometry();
        change(&mut geometry.capabilities);
        session(&geometry, style).transmission_flags()
    };
    let all = 0x0d6d;
    let simple = ReplyStyle::Simple;
    assert_eq!(flags(|_| {}, simple), all);
    assert_eq!(flags(|c| c.flush = false, simple), all & !SEND_FLUSH);
    assert_eq!(flags(|c| c.fua = false, simple), all & !SEND_FUA);
    assert_eq!(flags(|c| c.trim = false, simple), all & !SEND_TRIM);
    assert_eq!(flags(|c| c.zero = false, simple), all & !SEND_WRITE_ZEROES & !SEND_FAST_ZERO);
    assert_eq!(flags(|c| c.fast_zero = false, simple), all & !SEND_FAST_ZERO);
    assert_eq!(flags(|c| c.cache = false, simple), all & !SEND_CACHE);
    assert_eq!(flags(|c| c.multi_conn = false, simple), all & !CAN_MULTI_CONN);
    assert_eq!(flags(|c| c.rotational = true, simple), all | ROTATIONAL);
    let read_only = all & !SEND_TRIM & !SEND_WRITE_ZEROES & !SEND_FAST_ZERO | READ_ONLY;
    assert_eq!(flags(|c| c.writable = false, simple), read_only);
    assert_eq!(flags(|c| *c = Capabilities::default(), simple), HAS_FLAGS | READ_ONLY);
    assert_eq!(flags(|_| {}, ReplyStyle::Structured), all | SEND_DF);
    assert_eq!(flags(|_| {}, ReplyStyle::Extended), all | SEND_DF | BLOCK_STATUS_PAYLOAD);

    let negotiated = Negotiated { style: ReplyStyle::Extended, ..Negotiated::default() };
    let session = Session::new(&geometry(), negotiated);
    assert_eq!(session.transmission_flags(), all | SEND_DF, "no context, no filter");
}
