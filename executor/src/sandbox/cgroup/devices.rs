//! Which devices a step may open: as rules of the v1 devices controller and as a program for v2.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Result;

use super::super::mount_call::DeviceControl;
use super::super::sys;

/// Character devices that may be opened, with their minor number or any: Docker's list without the console, which a build
/// does not have (moby daemon/pkg/oci/defaults.go).
const ALLOWED: &[(u32, Option<u32>)] = &[
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
];

/// Writes the rules into a group of the v1 controller.
pub(super) fn write_rules(path: &Path) -> DeviceControl {
    let rules = ALLOWED.iter().map(|(major, minor)| match minor {
        Some(minor) => format!("c {major}:{minor} rwm"),
        None => format!("c {major}:* rwm"),
    });
    // Any node may be made: images hold them, and opening is what counts.
    let mut rules = ["c *:* m".to_owned(), "b *:* m".to_owned()].into_iter().chain(rules);
    let written = super::write(&path.join("devices.deny"), "a")
        .and_then(|()| rules.try_for_each(|rule| super::write(&path.join("devices.allow"), &rule)));
    control(written)
}

/// Attaches the program to a v2 group; it holds for all groups below.
pub(super) fn attach_program(directory: &OwnedFd) -> DeviceControl {
    control(
        sys::load_device_program(&program())
            .and_then(|program| sys::attach_device_program(directory, &program)),
    )
}

fn control(result: Result<()>) -> DeviceControl {
    match result {
        Ok(()) => DeviceControl::Group,
        Err(_) => DeviceControl::None,
    }
}

// linux/bpf.h and linux/bpf_common.h: the operations of the program.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xBF;
const MOVE_CONSTANT: u8 = 0xB7;
const SHIFT_RIGHT: u8 = 0x77;
const AND: u8 = 0x57;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// BPF_DEVCG_ACC_MKNOD alone, and BPF_DEVCG_DEV_CHAR.
const ACCESS_MKNOD: i32 = 1;
const TYPE_CHARACTER: i32 = 2;

/// `struct bpf_cgroup_dev_ctx { access << 16 | type, major, minor }` in register 1 → 1 in register 0 where it is allowed.
fn program() -> Vec<u64> {
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
        instruction(MOVE, 3, 2, 0, 0),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(AND, 2, 0, 0, 0xFFFF),
        instruction(MOVE_CONSTANT, 0, 0, 0, 1),
        instruction(JUMP_NOT_EQUAL, 3, 0, 1, ACCESS_MKNOD),
        instruction(EXIT, 0, 0, 0, 0),
        instruction(JUMP_EQUAL, 2, 0, 2, TYPE_CHARACTER),
        instruction(MOVE_CONSTANT, 0, 0, 0, 0),
        instruction(EXIT, 0, 0, 0, 0),
    ];
    for (major, minor) in ALLOWED {
        match minor {
            Some(minor) => {
                code.push(instruction(JUMP_NOT_EQUAL, 4, 0, 2, *major as i32));
                code.push(instruction(JUMP_NOT_EQUAL, 5, 0, 1, *minor as i32));
            }
            None => code.push(instruction(JUMP_NOT_EQUAL, 4, 0, 1, *major as i32)),
        }
        code.push(instruction(EXIT, 0, 0, 0, 0));
    }
    code.extend([instruction(MOVE_CONSTANT, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    code
}

/// `struct bpf_insn` as a little-endian word.
fn instruction(code: u8, destination: u8, source: u8, offset: i16, constant: i32) -> u64 {
    u64::from(code)
        | u64::from(destination | source << 4) << 8
        | u64::from(offset as u16) << 16
        | u64::from(constant as u32) << 32
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A v2 group of our own, removed with the value.
    struct Group(std::path::PathBuf);

    impl Drop for Group {
        fn drop(&mut self) {
            super::super::remove_tree(&self.0);
        }
    }

    fn group() -> Option<Group> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
        let path = Path::new(mount.split(' ').nth(4)?).join(format!("unit-test-{}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        Some(Group(path))
    }

    #[test]
    fn rt_22_the_program_lets_only_harmless_devices_be_opened() {
        let Some(group) = group() else { return println!("SKIP: no cgroup2 hierarchy can be written here") };
        let directory = super::super::open(&group.0).expect("it was just made");
        assert_eq!(attach_program(&directory), DeviceControl::Group, "the kernel accepts the program");
        let scratch = tempfile::tempdir().expect("a scratch directory can be made");
        let script = format!(
            "echo $$ > {}/cgroup.procs; cd {}; mknod mem c 1 1; mknod disk b 8 0; mknod null c 1 3; \
             cat mem && echo read mem; cat disk && echo read disk; echo x > null && echo wrote null",
            group.0.display(),
            scratch.path().display()
        );
        let output = Command::new("/bin/sh").args(["-c", &script]).output().expect("sh runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "wrote null\n");
        let errors = String::from_utf8_lossy(&output.stderr).matches("Operation not permitted").count();
        assert_eq!(errors, 2, "{}", String::from_utf8_lossy(&output.stderr));
    }
}
