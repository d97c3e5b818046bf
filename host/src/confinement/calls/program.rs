//! A program for the kernel that allows system calls by their numbers, as a binary search.

use std::collections::BTreeSet;

use seccompiler::{BpfProgram, sock_filter};

use super::Number;

/// The processor whose calls the numbers are (AUDIT_ARCH_* of linux/audit.h).
const PROCESSOR: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(0xc000_00b7)
} else {
    None
};

/// The places of the number and of the processor in struct seccomp_data, in bytes.
const NUMBER_AT: u32 = 0;
const PROCESSOR_AT: u32 = 4;

/// The results of a program (linux/seccomp.h).
const ALLOW: u32 = 0x7fff_0000;
const REFUSE: u32 = 0x0005_0000 | libc::ENOSYS.cast_unsigned();
const KILL_PROCESS: u32 = 0x8000_0000;

/// The instructions: load a word, compare for equal and for greater or equal, jump, and end.
const LOAD: u16 = 0x20;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;

/// Returns a program that allows these calls and refuses others, or `None` if the numbers of this processor
/// are not known.
pub(super) fn allowing(calls: &BTreeSet<Number>) -> Option<BpfProgram> {
    let mut program = vec![
        instruction(LOAD, 0, 0, PROCESSOR_AT),
        instruction(IF_EQUAL, 1, 0, PROCESSOR?),
        instruction(RETURN, 0, 0, KILL_PROCESS),
        instruction(LOAD, 0, 0, NUMBER_AT),
    ];
    program.extend(search(&ranges(calls)));
    Some(program)
}

/// A range of numbers: the first one, and whether they are allowed. It ends where the next one begins.
type Range = (u32, bool);

fn ranges(calls: &BTreeSet<Number>) -> Vec<Range> {
    let mut ranges = vec![(0, false)];
    for number in calls.iter().filter_map(|call| u32::try_from(*call).ok()) {
        if ranges.last() == Some(&(number, false)) {
            ranges.pop();
        }
        if ranges.last().is_none_or(|(_, allowed)| !allowed) {
            ranges.push((number, true));
        }
        ranges.push((number + 1, false));
    }
    ranges
}

/// Returns a program that finds out in which of these ranges a number is.
fn search(ranges: &[Range]) -> BpfProgram {
    if let [(_, allowed)] = ranges {
        return vec![instruction(RETURN, 0, 0, if *allowed { ALLOW } else { REFUSE })];
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let first_of_upper = upper[0].0;
    let (lower, upper) = (search(lower), search(upper));
    let mut program = match u8::try_from(lower.len()) {
        Ok(length) => vec![instruction(IF_AT_LEAST, length, 0, first_of_upper)],
        // It is too far for a conditional jump.
        Err(_) => vec![
            instruction(IF_AT_LEAST, 0, 1, first_of_upper),
            instruction(JUMP, 0, 0, lower.len() as u32),
        ],
    };
    program.extend(lower);
    program.extend(upper);
    program
}

fn instruction(code: u16, if_true: u8, if_false: u8, operand: u32) -> sock_filter {
    sock_filter { code, jt: if_true, jf: if_false, k: operand }
}

#[cfg(test)]
mod tests {
    use super::super::Calls;
    use super::*;

    /// Runs a program as the kernel does.
    fn run(program: &BpfProgram, processor: u32, number: u32) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            let jump = |met: bool| usize::from(if met { jt } else { jf });
            at += 1;
            match code {
                LOAD => loaded = if k == NUMBER_AT { number } else { processor },
                IF_EQUAL => at += jump(loaded == k),
                IF_AT_LEAST => at += jump(loaded >= k),
                JUMP => at += k as usize,
                _ => return k,
            }
        }
    }

    #[test]
    fn calls_are_allowed_by_their_numbers() {
        let Some(processor) = PROCESSOR else { return };
        let many = (0..2000).step_by(3).collect();
        let sets = [Calls::serving().allowed, Calls::compiling().allowed, many, [0, 1, 5].into()];
        for calls in sets {
            let program = allowing(&calls).unwrap();
            // BPF_MAXINSNS.
            assert!(program.len() < 4096);
            for number in (0..2100).chain([1 << 30, (1 << 30) + 1, u32::MAX]) {
                let expected = if calls.contains(&i64::from(number)) { ALLOW } else { REFUSE };
                assert_eq!(run(&program, processor, number), expected, "{number}");
            }
            assert_eq!(run(&program, 0x4000_0003, 1), KILL_PROCESS, "a call of 32 bits");
        }
    }
}
