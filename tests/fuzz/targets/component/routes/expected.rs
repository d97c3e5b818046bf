//! What becomes of requests, by the contract and the answers of the component.

use memnbd::block::{Command, ErrorCode, Operation, Span};

use super::model::{Answers, Known, Location, OPERATIONS, Place, find};
use super::{Request, SCRIPT};

/// The bits of the contract's capabilities.
const WRITABLE: u16 = 1;
const FLUSH: u16 = 2;
const TRIM: u16 = 8;
const ZERO: u16 = 16;
const CACHE: u16 = 64;
const EXTENTS: u16 = 128;

/// The longest delay for which the fuzzer waits, in nanoseconds.
const PATIENCE: u64 = 1_000_000;

/// The stable routes of each operation, or `None` if the device cannot be opened.
pub(super) fn stable(answers: &Answers, capabilities: u16) -> Option<[Vec<Known>; 6]> {
    if !answers.has_rules() {
        return None;
    }
    let mut lists: [Vec<Known>; 6] = Default::default();
    for (number, operation) in OPERATIONS.iter().enumerate() {
        let wanted = match operation {
            Operation::Read => 0,
            Operation::Write => WRITABLE,
            Operation::Zero => WRITABLE | ZERO,
            Operation::Trim => WRITABLE | TRIM,
            Operation::Cache => CACHE,
            _ => EXTENTS,
        };
        if capabilities & wanted == wanted {
            lists[number] = answers.stable(number)?;
        }
    }
    Some(lists)
}

/// What becomes of a request.
pub(super) struct Expected {
    /// The bytes of a read.
    pub(super) outcome: Result<Option<Vec<u8>>, ErrorCode>,
    pub(super) kills: bool,
    /// What may be executed: where, what, and on which bytes.
    pub(super) allowed: Vec<(u32, Operation, Span)>,
    /// How often the whole script is prefetched.
    told: usize,
}

impl Expected {
    pub(super) fn of(outcome: Result<Option<Vec<u8>>, ErrorCode>) -> Self {
        Self { outcome, kills: false, allowed: Vec::new(), told: 0 }
    }

    fn killed(self) -> Self {
        Self { outcome: Err(ErrorCode::Io), kills: true, ..self }
    }

    fn allow(&mut self, location: Location, operations: &[Operation], length: u64) {
        let span = Span { offset: location.offset, length };
        let allowed = operations.iter().map(|&operation| (location.device, operation, span));
        self.allowed.extend(allowed);
    }

    pub(super) fn allows(&self, index: usize, command: &Command) -> bool {
        let span = command.span();
        // Further instances may be started, which read the script.
        let is_own = matches!(command, Command::Read { .. } | Command::Cache { .. });
        (index == 2 && span == SCRIPT_SPAN && is_own)
            || self.allowed.iter().any(|&(device, operation, within)| {
                device as usize == index
                    && operation == command.operation()
                    && (operation == Operation::Flush
                        || (within.offset <= span.offset && span.end() <= within.end()))
            })
    }

    pub(super) fn check_accesses(&self, answers: &Answers, request: &Request) {
        let mut told = 0;
        for (index, lower) in answers.lowers.iter().enumerate() {
            for command in lower.take_log() {
                assert!(self.allows(index, &command), "{command:?} on {index} for {request:?}");
                let fua = match command {
                    Command::Write { fua, .. }
                    | Command::Zero { fua, .. }
                    | Command::Trim { fua, .. } => fua,
                    _ => false,
                };
                assert!(!fua || request.fua, "{command:?} for {request:?}");
                let tells = Command::Cache { span: SCRIPT_SPAN };
                told += usize::from(index == 2 && command == tells);
            }
        }
        assert_eq!(told, self.told, "calls of done for {request:?}");
    }
}

const SCRIPT_SPAN: Span = Span { offset: 0, length: SCRIPT as u64 };

/// What the devices are to be.
pub(super) struct Model<'a> {
    pub(super) answers: &'a Answers,
    pub(super) capabilities: u16,
    pub(super) stable: [Vec<Known>; 6],
    pub(super) contents: [Vec<u8>; 3],
}

impl Model<'_> {
    fn has(&self, capability: u16) -> bool {
        self.capabilities & capability != 0
    }

    /// Says what becomes of a request, or `None` if that would take too long.
    pub(super) fn expect(&mut self, request: &Request) -> Option<Expected> {
        let mut expected = Expected::of(Ok(None));
        match request.operation() {
            Operation::Flush => {
                for (index, lower) in (0..).zip(&self.answers.lowers) {
                    if !self.has(FLUSH) && lower.offers().writable {
                        let location = Location { device: index, offset: 0 };
                        expected.allow(location, &[Operation::Flush], 0);
                    }
                }
                return Some(expected);
            }
            // All is data.
            Operation::Extents if !self.has(EXTENTS) => return Some(expected),
            Operation::Zero if !self.has(ZERO) => {
                if request.fast {
                    return Some(Expected::of(Err(ErrorCode::NotSup)));
                }
                // Zeroes are written.
                let (keep_allocated, byte) = (false, 0);
                let write = Request { number: 1, keep_allocated, byte, ..*request };
                return self.expect(&write);
            }
            _ => {}
        }
        if let Some(place) = find(&self.stable[request.number], request.span) {
            let stored = !matches!(place, Place::Hole) || !request.keep_allocated;
            expected.outcome = match stored && (!request.fast || self.is_fast(place)) {
                true => {
                    let content =
                        self.apply(request, &[(place, request.span.length)], &mut expected);
                    Ok(content)
                }
                false if stored => Err(ErrorCode::NotSup),
                false => Err(ErrorCode::NoSpc),
            };
            return Some(expected);
        }
        self.expect_routed(request)
    }

    fn expect_routed(&mut self, request: &Request) -> Option<Expected> {
        let answers = self.answers;
        let mut expected = Expected::of(Ok(None));
        let plan = match answers.route(request.number) {
            Some(Ok(plan)) if answers.is_in_order(&plan, request) => plan,
            Some(Err(ErrorCode::NotSup)) if request.operation() != Operation::Zero => {
                return Some(Expected::of(Err(ErrorCode::Inval)));
            }
            Some(Err(code)) => return Some(Expected::of(Err(code))),
            Some(Ok(_)) | None => return Some(expected.killed()),
        };
        // Nobody releases it, and the answer of `done` is always the same.
        let is_endless =
            plan.is_held || (plan.has_token && matches!(answers.done(), Some(Ok(true))));
        if plan.delay > PATIENCE || is_endless {
            return None;
        }
        if request.fast && !plan.segments.iter().all(|&(place, _)| self.is_fast(place)) {
            expected.outcome = Err(ErrorCode::NotSup);
        } else {
            for copy in &plan.copies {
                let (from, to) = (copy.from, copy.to);
                expected.allow(from, &[Operation::Read], copy.length);
                expected.allow(to, &[Operation::Write, Operation::Zero], copy.length);
                self.allow_flush(to.device, request, &mut expected);
                let bytes = bytes_at(&mut self.contents, from, copy.length).to_vec();
                bytes_at(&mut self.contents, to, copy.length).copy_from_slice(&bytes);
            }
            expected.outcome = Ok(self.apply(request, &plan.segments, &mut expected));
        }
        if plan.has_token {
            expected.told += 1;
            match answers.done() {
                Some(Ok(_)) => {}
                Some(Err(_)) if expected.outcome.is_err() => {}
                Some(Err(ErrorCode::NotSup)) => expected.outcome = Err(ErrorCode::Inval),
                Some(Err(code)) => expected.outcome = Err(code),
                None => {
                    expected.kills = true;
                    if expected.outcome.is_ok() {
                        expected.outcome = Err(ErrorCode::Io);
                    }
                }
            }
        }
        Some(expected)
    }

    fn is_fast(&self, place: Place) -> bool {
        match place {
            Place::Lower(location) => {
                self.answers.lowers[location.device as usize].offers().fast_zero
            }
            Place::Own | Place::Hole => true,
        }
    }

    fn allow_flush(&self, device: u32, request: &Request, expected: &mut Expected) {
        if request.fua && !self.answers.lowers[device as usize].offers().fua {
            expected.allow(Location { device, offset: 0 }, &[Operation::Flush], 0);
        }
    }

    /// Changes the contents as segments say. Returns the bytes of a read.
    fn apply(
        &mut self,
        request: &Request,
        segments: &[(Place, u64)],
        expected: &mut Expected,
    ) -> Option<Vec<u8>> {
        let operation = request.operation();
        let mut read = Vec::new();
        for &(place, length) in segments {
            let Place::Lower(location) = place else {
                read.resize(read.len() + length as usize, 0);
                continue;
            };
            let allowed: &[Operation] = match operation {
                Operation::Zero => &[Operation::Zero, Operation::Write],
                _ => &[operation],
            };
            expected.allow(location, allowed, length);
            let is_script = location.device == 2 && location.offset == 0;
            let whole = is_script && length == SCRIPT as u64;
            expected.told += usize::from(whole && operation == Operation::Cache);
            self.allow_flush(location.device, request, expected);
            let trims = self.answers.lowers[location.device as usize].offers().trim;
            let bytes = bytes_at(&mut self.contents, location, length);
            match operation {
                Operation::Read => read.extend_from_slice(bytes),
                Operation::Write => bytes.fill(request.byte),
                Operation::Zero => bytes.fill(0),
                Operation::Trim if trims => bytes.fill(0),
                _ => {}
            }
        }
        (operation == Operation::Read).then_some(read)
    }
}

fn bytes_at(contents: &mut [Vec<u8>; 3], location: Location, length: u64) -> &mut [u8] {
    &mut contents[location.device as usize][location.offset as usize..][..length as usize]
}
