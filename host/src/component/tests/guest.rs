//! One programmable guest: a RAM disk of up to 1 MiB, of which a test replaces what it wants to be
//! bad.

use std::collections::HashMap;

use crate::component::Instance;

const TEMPLATE: &str = include_str!("guest.wat");

/// The functions that an open disk is asked through.
pub(crate) const FUNCTIONS: [&str; 8] =
    ["read", "write", "zero", "trim", "flush", "extents", "cache", "stored"];

/// The size of the RAM disk.
pub(crate) const MIB: u64 = 1 << 20;

/// A read here gives the log of calls, which it then clears.
const LOG_OFFSET: u64 = 1 << 62;
const LOG_LENGTH: u32 = 0xc000;

/// Where texts begin in the guest's memory.
const TEXTS: u32 = 0x300;

/// The bits of `capabilities`.
pub(crate) mod can {
    pub(crate) const WRITABLE: u16 = 1;
    pub(crate) const FLUSH: u16 = 2;
    pub(crate) const FUA: u16 = 4;
    pub(crate) const TRIM: u16 = 8;
    pub(crate) const ZERO: u16 = 16;
    pub(crate) const FAST_ZERO: u16 = 32;
    pub(crate) const EXTENTS: u16 = 128;
    pub(crate) const INTERCHANGEABLE: u16 = 1024;
    pub(crate) const EVERYTHING: u16 = 255;
}

/// What `open` answers, and `stripe-size`. The default is a RAM disk of 1 MiB that can do everything.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) size: u64,
    pub(crate) minimum_block: u32,
    pub(crate) preferred_block: u32,
    pub(crate) maximum_transfer: u32,
    pub(crate) capabilities: u16,
    /// The length of a stripe; 0 if it has no stripes.
    pub(crate) stripe: u64,
    pub(crate) description: Vec<u8>,
}

/// What `describe` answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Described {
    pub(crate) summary: Vec<u8>,
    pub(crate) parameters: Vec<&'static str>,
    pub(crate) bare_parameter: Option<&'static str>,
    pub(crate) other_parameters: bool,
}

/// The guest, to be compiled.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    opened: Opened,
    described: Described,
    parts: HashMap<&'static str, String>,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let opened = Opened {
            size: MIB,
            minimum_block: 1,
            preferred_block: 4096,
            maximum_transfer: 0,
            capabilities: can::EVERYTHING,
            stripe: 0,
            description: b"a guest".to_vec(),
        };
        let parts = DEFAULTS.iter().map(|&(part, text)| (part, text.to_owned())).collect();
        Self { opened, described: Described::default(), parts }
    }

    /// Replaces a part of the template: mostly the body of the function of that name.
    pub(crate) fn with(mut self, part: &'static str, text: impl Into<String>) -> Self {
        self.parts.insert(part, text.into());
        self
    }

    /// With direct access to its pages.
    pub(crate) fn direct(self) -> Self {
        self.with("direct-functions", DIRECT_FUNCTIONS).with("direct-interface", DIRECT_INTERFACE)
    }

    /// Whose bytes stay where they are when they were read.
    pub(crate) fn lending(self) -> Self {
        self.with("lending-interface", LENDING_INTERFACE)
    }

    /// That routes its requests: it declares the size of granules and the locks, of which each byte is
    /// one (0 none, 1 shared, 2 exclusive), in the order read, write, zero, trim, cache.
    pub(crate) fn routing(self, granule: u64, locks: [u8; 5], route: impl Into<String>) -> Self {
        let mut bytes = [0; 8];
        bytes[..5].copy_from_slice(&locks);
        self.with("granule", granule.to_string())
            .with("locks", u64::from_le_bytes(bytes).to_string())
            .with("route", route)
            .with("routing-functions", ROUTING_FUNCTIONS)
            .with("routing-interface", ROUTING_INTERFACE)
    }

    /// That takes these commands, each with one parameter of a type by its number.
    pub(crate) fn controlled(self, commands: &[(&str, u8)], execute: impl Into<String>) -> Self {
        let mut texts = Texts::at(0x2800 + 8);
        let mut records = Vec::new();
        for (name, kind) in commands {
            let name = texts.put(name.as_bytes());
            let parameter = Described::parameter(&mut texts, "value", *kind);
            let parameters = (texts.put(&parameter).0, 1);
            records.extend([name, name, parameters].iter().flat_map(|(a, b)| [*a, *b]));
        }
        let records: Vec<u8> = records.into_iter().flat_map(u32::to_le_bytes).collect();
        let (list, _) = texts.put(&records);
        let mut data = [list, commands.len() as u32].map(u32::to_le_bytes).concat();
        data.extend(texts.bytes);
        assert!(data.len() <= 0x400, "the commands of a guest have 1 KiB");
        self.with("commands-data", quoted(&data))
            .with("execute", execute)
            .with("control-functions", CONTROL_FUNCTIONS)
            .with("control-interface", r#"(export "memnbd:block/control@0.2.0" (instance $i))"#)
    }

    /// That lists these exports, of which it names a default.
    pub(crate) fn listing(self, names: &[&[u8]], default: Option<&str>) -> Self {
        let mut texts = Texts::at(0x2c00 + 24);
        let mut records = Vec::new();
        for name in names {
            let (pointer, length) = texts.put(name);
            records
                .extend([pointer, length, pointer, length].into_iter().flat_map(u32::to_le_bytes));
        }
        let (list, _) = texts.put(&records);
        let (pointer, length) = texts.put(default.unwrap_or_default().as_bytes());
        let listed = [0, list, names.len() as u32, u32::from(default.is_some()), pointer, length];
        let mut data = listed.map(u32::to_le_bytes).concat();
        data.extend(texts.bytes);
        assert!(data.len() <= 0x400, "the exports of a guest have 1 KiB");
        self.with("exports-data", quoted(&data))
            .with("listing-functions", LISTING_FUNCTIONS)
            .with("listing-interface", r#"(export "memnbd:block/listing@0.2.0" (instance $i))"#)
    }

    /// That is told of flushes and of its end.
    pub(crate) fn told(self) -> Self {
        self.with("event-functions", EVENT_FUNCTIONS)
            .with("event-interface", r#"(export "memnbd:block/events@0.2.0" (instance $i))"#)
    }

    pub(crate) fn opened(mut self, change: impl FnOnce(&mut Opened)) -> Self {
        change(&mut self.opened);
        self
    }

    pub(crate) fn described(mut self, described: Described) -> Self {
        self.described = described;
        self
    }

    pub(crate) fn wasm(&self) -> Vec<u8> {
        let mut texts = Texts::at(TEXTS);
        let mut parts = self.parts.clone();
        parts.insert("stripe-size", format!("(i64.const {})", self.opened.stripe));
        parts.insert("open-data", quoted(&self.opened.encode(&mut texts)));
        parts.insert("describe-data", quoted(&self.described.encode(&mut texts)));
        assert!(texts.bytes.len() <= 0xd00, "the texts of a guest have 3328 bytes");
        parts.insert("texts", quoted(&texts.bytes));
        let mut wat = String::new();
        let mut rest = TEMPLATE;
        while let Some((before, (part, after))) =
            rest.split_once("{{").map(|(before, after)| (before, after.split_once("}}").unwrap()))
        {
            wat.push_str(before);
            wat.push_str(parts.get(part).unwrap_or_else(|| panic!("no part {part}")));
            rest = after;
        }
        wat.push_str(rest);
        wat::parse_str(&wat).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Opened {
    fn encode(&self, texts: &mut Texts) -> Vec<u8> {
        let (pointer, length) = texts.put(&self.description);
        let mut bytes = vec![0; 8];
        bytes.extend(self.size.to_le_bytes());
        for field in [self.minimum_block, self.preferred_block, self.maximum_transfer] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(u32::from(self.capabilities).to_le_bytes());
        bytes.extend(pointer.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes
    }
}

impl Described {
    /// A parameter of a type without a payload, by its number.
    fn parameter(texts: &mut Texts, name: &str, kind: u8) -> Vec<u8> {
        let (pointer, length) = texts.put(name.as_bytes());
        // The name, the summary, the type, neither required nor repeatable, the default.
        let kind = [kind.into(), 0, 0, 0, 0, 0];
        let head = [pointer, length, pointer, length].into_iter().chain(kind);
        head.chain([0, 1, pointer, length]).flat_map(u32::to_le_bytes).collect()
    }

    fn encode(&self, texts: &mut Texts) -> Vec<u8> {
        let name = texts.put(b"guest");
        let version = texts.put(b"1.2.3");
        let summary = texts.put(&self.summary);
        let mut records = Vec::new();
        for parameter in &self.parameters {
            records.extend(Self::parameter(texts, parameter, 0));
        }
        let parameters = (texts.put(&records).0, self.parameters.len() as u32);
        let bare = texts.put(self.bare_parameter.unwrap_or_default().as_bytes());
        let is_some = u32::from(self.bare_parameter.is_some());
        [name, version, summary, parameters]
            .into_iter()
            .flat_map(|(pointer, length)| [pointer, length])
            .chain([is_some, bare.0, bare.1, u32::from(self.other_parameters)])
            .flat_map(u32::to_le_bytes)
            .collect()
    }
}

/// Texts in the guest's memory, from an address on.
struct Texts {
    start: u32,
    bytes: Vec<u8>,
}

impl Texts {
    fn at(start: u32) -> Self {
        Self { start, bytes: Vec::new() }
    }

    /// Returns the address and the length.
    fn put(&mut self, bytes: &[u8]) -> (u32, u32) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let address = self.start + self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        (address, bytes.len() as u32)
    }
}

fn quoted(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:02x}")).collect()
}

/// A function as the log of calls numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Called {
    Read,
    /// With fua?
    Write(bool),
    /// With the bits of `zero-options`.
    Zero(u32),
    /// With fua?
    Trim(bool),
    Flush,
    Extents,
    Cache,
    Page,
    MakePage,
    /// Of this operation.
    Route(u32),
    /// Of so many copies. The offset is the token, the length has the bits of the segments that failed.
    Done(u32),
    FlushBegan,
    /// With 0 for success, or 1 and the number of the error. The offset is the token.
    FlushEnded(u32),
    Closing,
}

/// Takes the log of calls of an instance: functions, offsets and lengths.
pub(crate) async fn take_log(instance: &mut Instance) -> Vec<(Called, u64, u64)> {
    instance.read(LOG_OFFSET, LOG_LENGTH).await.expect("the guest works").expect("and has a log");
    let Some(crate::block::Chunk::Data(log)) = instance.chunk(0) else {
        panic!("the log is one chunk of data");
    };
    let word =
        |record: &[u8], at: usize| u64::from_le_bytes(record[at..at + 8].try_into().unwrap());
    log.chunks_exact(24)
        .take_while(|record| record[0] != 0)
        .map(|record| {
            let flags = u32::from_le_bytes(record[4..8].try_into().unwrap());
            let called = match record[0] {
                1 => Called::Read,
                2 => Called::Write(flags != 0),
                3 => Called::Zero(flags),
                4 => Called::Trim(flags != 0),
                5 => Called::Flush,
                6 => Called::Extents,
                7 => Called::Cache,
                8 => Called::Page,
                9 => Called::MakePage,
                10 => Called::Route(flags),
                12 => Called::FlushBegan,
                13 => Called::FlushEnded(flags),
                14 => Called::Closing,
                _ => Called::Done(flags),
            };
            (called, word(record, 8), word(record, 16))
        })
        .collect()
}

/// The parts of the template as they are in a good guest.
const DEFAULTS: [(&str, &str); 46] = [
    ("imports", ""),
    ("core-imports", ""),
    ("lowered", ""),
    ("with", ""),
    ("pass", ""),
    ("start", ""),
    ("memory", "40"),
    ("interface", "memnbd:block/block-store@0.2.0"),
    ("length-type", "u32"),
    ("post-read", ""),
    ("stored-name", "stored"),
    ("lending-interface", ""),
    ("direct-functions", ""),
    ("direct-interface", ""),
    ("routing-functions", ""),
    ("routing-interface", ""),
    ("control-functions", ""),
    ("control-interface", ""),
    ("commands-data", ""),
    ("execute", "(unreachable)"),
    ("listing-functions", ""),
    ("listing-interface", ""),
    ("exports-data", ""),
    ("event-functions", ""),
    ("event-interface", ""),
    ("closing", ""),
    ("exports", "(i32.const 0x2c00)"),
    ("granule", "1"),
    ("locks", "0"),
    ("route", "(unreachable)"),
    ("done", "(call $finished)"),
    ("stable", "(i32.store (i32.const 0x100) (i32.const 0)) (i32.const 0x100)"),
    ("page-size", "(i32.const 4096)"),
    ("page", PAGE),
    ("make-page", MAKE_PAGE),
    (
        "realloc",
        "(local.set $at (i32.and
            (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
            (i32.sub (i32.const 0) (local.get $align))))
         (global.set $free (i32.add (local.get $at) (local.get $size)))
         (local.get $at)",
    ),
    ("describe", "(i32.const 0x280)"),
    ("open", "(global.set $free (i32.const 0x110000)) (i32.const 0x200)"),
    ("read", READ),
    (
        "write",
        "(call $log (i32.const 2) (local.get $fua) (local.get $offset)
            (i64.extend_i32_u (local.get $length)))
         (memory.copy (call $address (local.get $offset)) (local.get $data) (local.get $length))
         (call $done)",
    ),
    (
        "zero",
        "(call $log (i32.const 3) (local.get $options) (local.get $offset) (local.get $length))
         (memory.fill (call $address (local.get $offset)) (i32.const 0)
            (i32.wrap_i64 (local.get $length)))
         (call $done)",
    ),
    (
        "trim",
        "(call $log (i32.const 4) (local.get $fua) (local.get $offset) (local.get $length))
         (memory.fill (call $address (local.get $offset)) (i32.const 0)
            (i32.wrap_i64 (local.get $length)))
         (call $done)",
    ),
    (
        "flush",
        "(call $log (i32.const 5) (i32.const 0) (i64.const 0) (i64.const 0))
         (call $done)",
    ),
    ("extents", EXTENTS),
    (
        "cache",
        "(call $log (i32.const 7) (i32.const 0) (local.get $offset) (local.get $length))
         (call $done)",
    ),
    ("stored", "(i64.extend_i32_u (i32.eqz (call $is-zero (i64.const 0) (i64.const 0x100000))))"),
];

/// Each block of 4 KiB is a page, unless it is all zero.
const PAGE: &str = "
    (call $log (i32.const 8) (i32.const 0) (local.get $offset) (i64.const 4096))
    (i32.store (i32.const 0x100)
      (i32.eqz (call $is-zero (local.get $offset)
        (i64.add (local.get $offset) (i64.const 4096)))))
    (i32.store (i32.const 0x104) (call $address (local.get $offset)))
    (i32.store (i32.const 0x108) (i32.const 4096))
    (i32.const 0x100)";

/// Any block of 4 KiB may be a page.
const MAKE_PAGE: &str = "
    (call $log (i32.const 9) (i32.const 0) (local.get $offset) (i64.const 4096))
    (i32.store (i32.const 0x100) (i32.const 1))
    (i32.store (i32.const 0x104) (call $address (local.get $offset)))
    (i32.store (i32.const 0x108) (i32.const 4096))
    (i32.const 0x100)";

/// The export of `lending`, whose `read` is the other one.
const LENDING_INTERFACE: &str = r#"(export "memnbd:block/lending@0.2.0" (instance $i))"#;

/// The functions of `direct-access`, and its export.
const DIRECT_FUNCTIONS: &str = r#"
    (func (export "page-size") (result u32) (canon lift (core func $i "page-size")))
    (func (export "page") (param "offset" u64) (result (option (list u8)))
      (canon lift (core func $i "page") (memory $mem)))
    (func (export "make-page") (param "offset" u64) (result (option (list u8)))
      (canon lift (core func $i "make-page") (memory $mem)))"#;
const DIRECT_INTERFACE: &str = r#"(export "memnbd:block/direct-access@0.2.0" (instance $i))"#;

/// The functions of `routing`, and its export.
const ROUTING_FUNCTIONS: &str = r#"
    (type $operation' (enum "read" "write" "zero" "trim" "cache" "extents"))
    (export $operation "operation" (type $operation'))
    (type $request' (record (field "operation" $operation) (field "offset" u64)
      (field "length" u64) (field "fua" bool) (field "keep-allocated" bool) (field "fast" bool)))
    (export $request "request" (type $request'))
    (type $lock' (enum "none" "shared" "exclusive"))
    (export $lock "lock" (type $lock'))
    (type $lock-rules' (record (field "granule" u64) (field "read" $lock) (field "write" $lock)
      (field "zero" $lock) (field "trim" $lock) (field "cache" $lock)))
    (export $lock-rules "lock-rules" (type $lock-rules'))
    (type $location' (record (field "device" u32) (field "offset" u64)))
    (export $location "location" (type $location'))
    (type $place' (variant (case "lower" $location) (case "own") (case "hole")))
    (export $place "place" (type $place'))
    (type $segment' (record (field "place" $place) (field "length" u64)))
    (export $segment "segment" (type $segment'))
    (type $copy' (record (field "from" $location) (field "to" $location) (field "length" u64)))
    (export $copy "copy" (type $copy'))
    (type $plan' (record (field "copies" (list $copy)) (field "segments" (list $segment))
      (field "delay" u64) (field "done" (option u64)) (field "hold" (option u64))))
    (export $plan "plan" (type $plan'))
    (type $results' (record (field "copies" (list (option $error-code)))
      (field "segments" (list (option $error-code)))))
    (export $results "results" (type $results'))
    (type $stable-route' (record (field "length" u64) (field "place" $place)))
    (export $stable-route "stable-route" (type $stable-route'))
    (func (export "rules") (result $lock-rules)
      (canon lift (core func $i "rules") (memory $mem)))
    (func (export "route") (param "request" $request) (result (result $plan (error $error)))
      (canon lift (core func $i "route") (memory $mem)))
    (func (export "done") (param "token" u64) (param "results" $results)
      (result (result (option u64) (error $error)))
      (canon lift (core func $i "done") (memory $mem) (realloc $realloc)))
    (func (export "stable") (param "operation" $operation) (param "offset" u64)
      (result (option $stable-route))
      (canon lift (core func $i "stable") (memory $mem)))"#;
const ROUTING_INTERFACE: &str = r#"(export "memnbd:block/routing@0.2.0" (instance $i))"#;

/// The functions of `control` and `listing`.
const CONTROL_FUNCTIONS: &str = r#"
    (type $command' (record (field "name" string) (field "summary" string)
      (field "parameters" (list $parameter))))
    (export $command "command" (type $command'))
    (func (export "commands") (result (list $command))
      (canon lift (core func $i "commands") (memory $mem)))
    (func (export "execute") (param "command" string) (param "arguments" (list $argument))
      (result (result string (error $error)))
      (canon lift (core func $i "execute") (memory $mem) (realloc $realloc)))"#;
const LISTING_FUNCTIONS: &str = r#"
    (type $listed-export' (record (field "name" string) (field "description" string)))
    (export $listed-export "listed-export" (type $listed-export'))
    (type $listed' (record (field "exports" (list $listed-export))
      (field "default" (option string))))
    (export $listed "listed" (type $listed'))
    (func (export "exports") (param "request" $open-request)
      (result (result $listed (error $error)))
      (canon lift (core func $i "exports") (memory $mem) (realloc $realloc)))"#;

/// The functions of `events`.
const EVENT_FUNCTIONS: &str = r#"
    (func (export "flush-began") (result u64) (canon lift (core func $i "flush-began")))
    (func (export "flush-ended") (param "token" u64) (param "outcome" (option $error-code))
      (canon lift (core func $i "flush-ended")))
    (func (export "closing") (canon lift (core func $i "closing")))"#;

/// Each block of 4 KiB is a chunk of its own: a hole if it is all zero.
const READ: &str = "
    (if (i64.eq (local.get $offset) (i64.const 0x4000000000000000)) (then
      (global.set $log-was-read (i32.const 1))
      (call $data (i32.const 0x1000) (i32.const 0x4000) (local.get $length))
      (return (call $list (i32.const 0x1000) (i32.const 1)))))
    (call $log (i32.const 1) (i32.const 0) (local.get $offset)
      (i64.extend_i32_u (local.get $length)))
    (local.set $at (local.get $offset))
    (local.set $end (i64.add (local.get $offset) (i64.extend_i32_u (local.get $length))))
    (local.set $chunk (i32.const 0x1000))
    (loop $blocks
      (local.set $next (call $block-end (local.get $at) (local.get $end)))
      (if (call $is-zero (local.get $at) (local.get $next))
        (then (call $hole (local.get $chunk)
          (i32.wrap_i64 (i64.sub (local.get $next) (local.get $at)))))
        (else (call $data (local.get $chunk) (call $address (local.get $at))
          (i32.wrap_i64 (i64.sub (local.get $next) (local.get $at))))))
      (local.set $chunk (i32.add (local.get $chunk) (i32.const 12)))
      (local.set $at (local.get $next))
      (br_if $blocks (i64.lt_u (local.get $at) (local.get $end))))
    (call $list (i32.const 0x1000)
      (i32.div_u (i32.sub (local.get $chunk) (i32.const 0x1000)) (i32.const 12)))";

/// Each block of 4 KiB is an extent of its own: hole and zero if it is all zero, else data.
const EXTENTS: &str = "
    (call $log (i32.const 6) (i32.const 0) (local.get $offset) (local.get $length))
    (local.set $at (local.get $offset))
    (local.set $end (i64.add (local.get $offset) (local.get $length)))
    (local.set $extent (i32.const 0x2000))
    (loop $blocks
      (local.set $next (call $block-end (local.get $at) (local.get $end)))
      (call $extent (local.get $extent) (i64.sub (local.get $next) (local.get $at))
        (i32.mul (i32.const 3) (call $is-zero (local.get $at) (local.get $next))))
      (local.set $extent (i32.add (local.get $extent) (i32.const 16)))
      (local.set $at (local.get $next))
      (br_if $blocks (i64.lt_u (local.get $at) (local.get $end))))
    (call $list (i32.const 0x2000)
      (i32.div_u (i32.sub (local.get $extent) (i32.const 0x2000)) (i32.const 16)))";
