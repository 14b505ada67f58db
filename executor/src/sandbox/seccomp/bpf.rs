//! Classic BPF for seccomp: from tables of numbers to a program. Knows no names.

use std::collections::BTreeMap;

/// One instruction as in `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip where the comparison holds.
    pub jump_true: u8,
    /// Instructions to skip where it does not.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Allowed.
    Allow,
    /// Refused.
    Errno(u16),
    /// Allowed where the lower half of argument 0 has none of these bits.
    AllowMaskedZero(u32),
    /// Allowed where the lower half of argument 0 is one of these.
    AllowValues(&'static [u32]),
}

/// The calls of one ABI.
#[derive(Debug, Clone)]
pub struct Table {
    /// AUDIT_ARCH_*.
    pub arch: u32,
    /// Numbers from here on belong to an ABI that is not offered (x32): ENOSYS.
    pub ceiling: Option<u32>,
    /// Every number that the profile names.
    pub actions: BTreeMap<u32, Action>,
}

// linux/bpf_common.h: class | size or operation | mode or source.
const LOAD_WORD: u16 = 0x20;
const JUMP_ALWAYS: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

// linux/seccomp.h.
const RET_ALLOW: u32 = 0x7FFF_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_KILL_PROCESS: u32 = 0x8000_0000;

// Offsets in `struct seccomp_data`; arguments are little-endian 64-bit values on every machine served.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGUMENT_0: u32 = 16;

/// Returns one program that dispatches on the architecture and kills what no table serves.
pub fn compile(tables: &[Table]) -> Vec<Instruction> {
    let mut program = vec![statement(LOAD_WORD, OFFSET_ARCH)];
    for table in tables {
        let body = body(table);
        // Conditional jumps reach 255 instructions only, so a far target is reached by an unconditional one.
        program.push(jump(JUMP_EQUAL, table.arch, 1, 0));
        program.push(statement(JUMP_ALWAYS, body.len() as u32));
        program.extend(body);
    }
    program.push(statement(RETURN, RET_KILL_PROCESS));
    program
}

fn body(table: &Table) -> Vec<Instruction> {
    let mut body = vec![statement(LOAD_WORD, OFFSET_NUMBER)];
    body.extend(tree(&ranges(table)));
    body
}

/// Ranges of numbers with one action each: (first number, action), covering all 32-bit numbers.
fn ranges(table: &Table) -> Vec<(u32, Action)> {
    let refused = Action::Errno(libc::EPERM as u16);
    let missing = Action::Errno(libc::ENOSYS as u16);
    let mut ranges: Vec<(u32, Action)> = Vec::new();
    let mut push = |first: u32, action: Action| {
        if ranges.last().is_none_or(|(_, last)| *last != action) {
            ranges.push((first, action));
        }
    };
    let mut next = 0;
    for (number, action) in &table.actions {
        if *number > next {
            push(next, refused);
        }
        push(*number, *action);
        next = number + 1;
    }
    // runc's rule: what is newer than the newest known call answers as if the kernel did not have it.
    push(next, missing);
    if let Some(ceiling) = table.ceiling {
        push(ceiling, missing);
    }
    ranges
}

fn tree(ranges: &[(u32, Action)]) -> Vec<Instruction> {
    if let [(_, action)] = ranges {
        return leaf(*action);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (low, first_high) = (tree(low), high[0].0);
    let mut code = match u8::try_from(low.len()) {
        Ok(distance) => vec![jump(JUMP_GREATER_EQUAL, first_high, distance, 0)],
        Err(_) => vec![jump(JUMP_GREATER_EQUAL, first_high, 0, 1), statement(JUMP_ALWAYS, low.len() as u32)],
    };
    code.extend(low);
    code.extend(tree(high));
    code
}

fn leaf(action: Action) -> Vec<Instruction> {
    let allow = statement(RETURN, RET_ALLOW);
    let errno = |errno: u16| statement(RETURN, RET_ERRNO | u32::from(errno));
    let refuse = errno(libc::EPERM as u16);
    match action {
        Action::Allow => vec![allow],
        Action::Errno(number) => vec![errno(number)],
        Action::AllowMaskedZero(mask) => {
            vec![statement(LOAD_WORD, OFFSET_ARGUMENT_0), jump(JUMP_ANY_BIT, mask, 0, 1), refuse, allow]
        }
        Action::AllowValues(values) => {
            let mut code = vec![statement(LOAD_WORD, OFFSET_ARGUMENT_0)];
            for (index, value) in values.iter().enumerate() {
                let to_allow = (values.len() - index) as u8;
                code.push(jump(JUMP_EQUAL, *value, to_allow, 0));
            }
            code.extend([refuse, allow]);
            code
        }
    }
}

fn statement(code: u16, operand: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, operand }
}

fn jump(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, operand }
}

/// An interpreter, so that programs are tested without loading them.
#[cfg(test)]
pub mod interpret {
    use super::*;

    /// What a program answers.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Verdict {
        /// The call runs.
        Allow,
        /// The call fails.
        Errno(u16),
        /// The process dies.
        Kill,
    }

    /// Runs a program on one call.
    pub fn run(program: &[Instruction], arch: u32, number: u32, arguments: [u64; 6]) -> Verdict {
        let (mut position, mut accumulator) = (0, 0);
        loop {
            let Instruction { code, jump_true, jump_false, operand } = program[position];
            position += 1;
            let taken = match code {
                LOAD_WORD => {
                    accumulator = load(operand, arch, number, arguments);
                    continue;
                }
                JUMP_ALWAYS => {
                    position += operand as usize;
                    continue;
                }
                RETURN => return verdict(operand),
                JUMP_EQUAL => accumulator == operand,
                JUMP_GREATER_EQUAL => accumulator >= operand,
                JUMP_ANY_BIT => accumulator & operand != 0,
                other => unreachable!("the emitter knows no code {other:#x}"),
            };
            position += usize::from(if taken { jump_true } else { jump_false });
        }
    }

    fn load(offset: u32, arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        match offset {
            OFFSET_NUMBER => number,
            OFFSET_ARCH => arch,
            OFFSET_ARGUMENT_0 => arguments[0] as u32,
            other => unreachable!("the emitter loads no offset {other}"),
        }
    }

    fn verdict(operand: u32) -> Verdict {
        match operand & 0xFFFF_0000 {
            RET_ALLOW => Verdict::Allow,
            RET_ERRNO => Verdict::Errno(operand as u16),
            RET_KILL_PROCESS => Verdict::Kill,
            other => unreachable!("the emitter returns no {other:#x}"),
        }
    }
}
