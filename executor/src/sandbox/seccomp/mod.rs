//! The seccomp filter of a step: the profile compiled to BPF.
//!
//! One program serves the native ABI and its 32-bit sibling (32-bit binaries must work in a RUN), answers x32 calls with
//! ENOSYS and kills any other architecture. Numbers are looked up in a balanced tree of ranges, about eight comparisons
//! deep. Calls newer than the newest one in the profile fail with ENOSYS, as in runc, so that libc falls back instead of
//! giving up on EPERM. Holds no system call; loading the program is `sys`'s part.

mod bpf;
mod profile;

use std::collections::BTreeMap;

pub use bpf::Instruction;
use bpf::{Action, Table};
use profile::{ALLOWED, ALLOWED_ARM, ALLOWED_X86, SPECIAL};

/// AUDIT_ARCH_* of linux/audit.h.
const ARCH_X86_64: u32 = 0xC000_003E;
const ARCH_I386: u32 = 0x4000_0003;
const ARCH_AARCH64: u32 = 0xC000_00B7;
const ARCH_ARM: u32 = 0x4000_0028;

/// The bit that marks an x32 call under AUDIT_ARCH_X86_64.
const X32_BIT: u32 = 0x4000_0000;

/// The architectures that the profile can be compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// x86-64 with i386.
    X86_64,
    /// 64-bit ARM with 32-bit ARM.
    Aarch64,
}

impl Machine {
    /// The machine this program was compiled for; `None` where there is no profile.
    pub fn native() -> Option<Machine> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Machine::X86_64),
            "aarch64" => Some(Machine::Aarch64),
            _ => None,
        }
    }
}

/// Returns the default profile as a BPF program for a machine.
pub fn program(machine: Machine) -> Vec<Instruction> {
    let tables = match machine {
        Machine::X86_64 => vec![
            table(ARCH_X86_64, Some(X32_BIT), ALLOWED_X86, number_x86_64),
            table(ARCH_I386, None, ALLOWED_X86, number_i386),
        ],
        Machine::Aarch64 => vec![
            table(ARCH_AARCH64, None, ALLOWED_ARM, number_aarch64),
            table(ARCH_ARM, None, ALLOWED_ARM, number_arm),
        ],
    };
    bpf::compile(&tables)
}

fn table(arch: u32, ceiling: Option<u32>, extra: &[&str], number: fn(&str) -> Option<u32>) -> Table {
    let mut actions = BTreeMap::new();
    for name in ALLOWED.iter().chain(extra) {
        if let Some(number) = number(name) {
            actions.insert(number, Action::Allow);
        }
    }
    for (name, action) in SPECIAL {
        if let Some(number) = number(name) {
            actions.insert(number, *action);
        }
    }
    Table { arch, ceiling, actions }
}

fn number_x86_64(name: &str) -> Option<u32> {
    name.parse::<syscalls::x86_64::Sysno>().ok().map(|number| number.id() as u32)
}

fn number_i386(name: &str) -> Option<u32> {
    name.parse::<syscalls::x86::Sysno>().ok().map(|number| number.id() as u32)
}

fn number_aarch64(name: &str) -> Option<u32> {
    name.parse::<syscalls::aarch64::Sysno>().ok().map(|number| number.id() as u32)
}

fn number_arm(name: &str) -> Option<u32> {
    name.parse::<syscalls::arm::Sysno>().ok().map(|number| number.id() as u32)
}

#[cfg(test)]
mod tests {
    use super::bpf::interpret::{Verdict, run};
    use super::*;

    const EPERM: Verdict = Verdict::Errno(libc::EPERM as u16);
    const ENOSYS: Verdict = Verdict::Errno(libc::ENOSYS as u16);

    fn check(machine: Machine, arch: u32, cases: &[(u32, u64, Verdict)]) {
        let program = program(machine);
        for (number, argument, expected) in cases {
            assert_eq!(
                run(&program, arch, *number, [*argument, 0, 0, 0, 0, 0]),
                *expected,
                "call {number} argument {argument:#x}"
            );
        }
    }

    #[test]
    fn rt_27_x86_64_calls_get_dockers_answers() {
        let number = |name| number_x86_64(name).expect("the table knows the name");
        check(
            Machine::X86_64,
            ARCH_X86_64,
            &[
                (number("read"), 0, Verdict::Allow),
                (number("execve"), 0, Verdict::Allow),
                (number("chroot"), 0, Verdict::Allow),
                (number("statmount"), 0, Verdict::Allow),
                (number("mount"), 0, EPERM),
                (number("unshare"), 0x1000_0000, EPERM),
                (number("setns"), 0, EPERM),
                (number("keyctl"), 0, EPERM),
                (number("add_key"), 0, EPERM),
                (number("bpf"), 0, EPERM),
                (number("io_uring_setup"), 0, EPERM),
                (number("userfaultfd"), 0, EPERM),
                (number("perf_event_open"), 0, EPERM),
                (number("open_by_handle_at"), 0, EPERM),
                (number("clone"), libc::SIGCHLD as u64, Verdict::Allow),
                (number("clone"), libc::CLONE_NEWUSER as u64, EPERM),
                (number("clone"), libc::CLONE_NEWNS as u64, EPERM),
                (number("clone3"), 0, ENOSYS),
                (number("socket"), libc::AF_INET6 as u64, Verdict::Allow),
                (number("socket"), libc::AF_ALG as u64, EPERM),
                (number("socket"), libc::AF_VSOCK as u64, EPERM),
                (number("socket"), 0x1_0000_0000 | libc::AF_ALG as u64, EPERM),
                (number("personality"), 0, Verdict::Allow),
                (number("personality"), 0xFFFF_FFFF, Verdict::Allow),
                (number("personality"), 0x4_0000, EPERM),
                (4000, 0, ENOSYS),
                (X32_BIT, 0, ENOSYS),
                (X32_BIT | 512, 0, ENOSYS),
            ],
        );
    }

    #[test]
    fn rt_27_i386_calls_get_the_same_answers() {
        let number = |name| number_i386(name).expect("the table knows the name");
        check(
            Machine::X86_64,
            ARCH_I386,
            &[
                (number("read"), 0, Verdict::Allow),
                (number("socketcall"), 0, Verdict::Allow),
                (number("clone"), libc::CLONE_NEWUSER as u64, EPERM),
                (number("clone3"), 0, ENOSYS),
                (number("mount"), 0, EPERM),
                (number("socket"), libc::AF_ALG as u64, EPERM),
                (number("keyctl"), 0, EPERM),
            ],
        );
    }

    #[test]
    fn rt_27_arm_calls_get_the_same_answers() {
        let number = |name| number_aarch64(name).expect("the table knows the name");
        check(
            Machine::Aarch64,
            ARCH_AARCH64,
            &[
                (number("read"), 0, Verdict::Allow),
                (number("mount"), 0, EPERM),
                (number("clone"), libc::CLONE_NEWNET as u64, EPERM),
            ],
        );
        check(Machine::Aarch64, ARCH_ARM, &[(number_arm("read").expect("read exists"), 0, Verdict::Allow)]);
    }

    #[test]
    fn other_architectures_are_killed() {
        check(Machine::X86_64, ARCH_AARCH64, &[(0, 0, Verdict::Kill)]);
        check(Machine::Aarch64, ARCH_X86_64, &[(0, 0, Verdict::Kill)]);
    }

    #[test]
    fn every_call_of_the_native_table_agrees_with_the_profile() {
        let program = program(Machine::X86_64);
        for number in 0..600_u32 {
            let name = syscalls::x86_64::Sysno::new(number as usize).map(|number| number.name());
            let plain = name.is_some_and(|name| ALLOWED.contains(&name) || ALLOWED_X86.contains(&name));
            let special = name.is_some_and(|name| SPECIAL.iter().any(|(special, _)| *special == name));
            let verdict = run(&program, ARCH_X86_64, number, [u64::MAX; 6]);
            if !special {
                assert_eq!(verdict == Verdict::Allow, plain, "call {number} {name:?}");
            }
        }
    }

    #[test]
    fn the_program_fits_the_kernels_limit() {
        for machine in [Machine::X86_64, Machine::Aarch64] {
            let length = program(machine).len();
            assert!(length < 4096, "{machine:?}: {length} instructions, BPF_MAXINSNS is 4096");
        }
    }
}
