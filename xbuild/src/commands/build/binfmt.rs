//! Which machines' programs the kernel starts: its own, and those that binfmt_misc has an interpreter for.
//!
//! Nothing is registered here: that changes the host for everybody on it.

use std::path::{Path, PathBuf};

use oci::Platform;

/// Where the kernel lists interpreters.
pub const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";

/// Bytes of an ELF header that tell the machine: up to and with `e_machine` (elf(5)).
const HEADER: usize = 20;

/// Whether programs of a platform can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Emulation {
    /// They can.
    Works,
    /// An interpreter is registered, but the kernel looks it up in the root file system of the step.
    NotFixed {
        /// The name of the registration.
        name: String,
        /// The interpreter.
        interpreter: String,
    },
    /// The registration is switched off.
    Disabled {
        /// Its name.
        name: String,
    },
    /// Nothing is registered for it.
    Missing,
    /// No registration could start such programs: they are of another system.
    Impossible,
}

/// Finds out whether programs of `platform`, which is not this machine's, can be started. `registered` is
/// [`REGISTERED`].
pub fn emulation(platform: &Platform, registered: &Path) -> Emulation {
    if platform.os != "linux" {
        return Emulation::Impossible;
    }
    let Some(header) = elf_header(&platform.architecture) else { return Emulation::Missing };
    let entries = std::fs::read_dir(registered).into_iter().flatten().flatten();
    let entries = entries.filter(|entry| entry.file_name() != "register" && entry.file_name() != "status");
    let mut found = Emulation::Missing;
    for entry in entries {
        let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
        let Some(registration) = Registration::parse(&text).filter(|one| one.takes(&header)) else {
            continue;
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        found = match registration {
            Registration { enabled: false, .. } => Emulation::Disabled { name },
            Registration { fixed: false, interpreter, .. } => Emulation::NotFixed { name, interpreter },
            Registration { .. } => return Emulation::Works,
        };
    }
    match std::fs::read_to_string(registered.join("status")) {
        Ok(status) if status.trim() == "disabled" && found != Emulation::Missing => {
            Emulation::Disabled { name: "status".to_owned() }
        }
        Ok(_) | Err(_) => found,
    }
}

/// Returns the emulator for an architecture that is installed below `directory`, registered or not. Unregistered it is of
/// no use: the kernel has to start it for every program that a step starts.
pub fn installed(architecture: &str, directory: &Path) -> Option<PathBuf> {
    // QEMU's words for Go's.
    let name = match architecture {
        "386" => "i386",
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "loong64" => "loongarch64",
        "mipsle" => "mipsel",
        "mips64le" => "mips64el",
        other => other,
    };
    let path = directory.join(format!("qemu-{name}-static"));
    path.is_file().then_some(path)
}

/// The first bytes of a program for an architecture, in Go's words. Unknown ones have none.
fn elf_header(architecture: &str) -> Option<[u8; HEADER]> {
    const LITTLE: u8 = 1;
    const BIG: u8 = 2;
    // Class (1: 32 bit, 2: 64 bit), byte order, e_machine (elf.h).
    let (class, order, machine): (u8, u8, u16) = match architecture {
        "386" => (1, LITTLE, 3),
        "amd64" => (2, LITTLE, 62),
        "arm" => (1, LITTLE, 40),
        "arm64" => (2, LITTLE, 183),
        "loong64" => (2, LITTLE, 258),
        "mips" => (1, BIG, 8),
        "mipsle" => (1, LITTLE, 8),
        "mips64" => (2, BIG, 8),
        "mips64le" => (2, LITTLE, 8),
        "ppc64" => (2, BIG, 21),
        "ppc64le" => (2, LITTLE, 21),
        "riscv64" => (2, LITTLE, 243),
        "s390x" => (2, BIG, 22),
        _ => return None,
    };
    let half = |value: u16| if order == BIG { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut header = [0; HEADER];
    header[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, order, 1]);
    // ET_EXEC; registrations take ET_DYN as well.
    header[16..18].copy_from_slice(&half(2));
    header[18..20].copy_from_slice(&half(machine));
    Some(header)
}

/// One file below [`REGISTERED`] (Documentation/admin-guide/binfmt-misc.rst).
#[derive(Debug, Default, PartialEq, Eq)]
struct Registration {
    enabled: bool,
    /// Flag F: the interpreter was opened when it was registered, so it is found in every mount namespace.
    fixed: bool,
    interpreter: String,
    offset: usize,
    magic: Vec<u8>,
    mask: Vec<u8>,
}

impl Registration {
    fn parse(text: &str) -> Option<Self> {
        let mut registration = Self { enabled: text.lines().next()? == "enabled", ..Self::default() };
        for line in text.lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "interpreter" => value.clone_into(&mut registration.interpreter),
                "flags:" => registration.fixed = value.contains('F'),
                "offset" => registration.offset = value.parse().ok()?,
                "magic" => registration.magic = bytes(value)?,
                "mask" => registration.mask = bytes(value)?,
                _ => {}
            }
        }
        Some(registration).filter(|registration| !registration.magic.is_empty())
    }

    fn takes(&self, header: &[u8; HEADER]) -> bool {
        let mask = |at: usize| self.mask.get(at).copied().unwrap_or(0xff);
        let byte = |at: usize| header.get(self.offset.checked_add(at)?).copied();
        self.magic
            .iter()
            .enumerate()
            .all(|(at, magic)| byte(at).is_some_and(|byte| byte & mask(at) == magic & mask(at)))
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Debian's qemu-user-static registers it.
    const ARM64: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    fn check(files: &[(&str, &str)], platform: &str, expect: &Emulation) {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        assert_eq!(emulation(&platform.parse().unwrap(), directory.path()), *expect, "{platform} {files:?}");
    }

    #[test]
    fn a_registered_interpreter_runs_what_its_magic_takes() {
        let files = [("qemu-aarch64", ARM64), ("status", "enabled\n"), ("register", "")];
        check(&files, "linux/arm64", &Emulation::Works);
        check(&files, "linux/arm/v7", &Emulation::Missing);
        check(&files, "linux/riscv64", &Emulation::Missing);
        check(&files, "linux/ppc64le", &Emulation::Missing);
        check(&files, "windows/arm64", &Emulation::Impossible);
    }

    #[test]
    fn an_emulator_that_is_installed_is_found_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qemu-aarch64-static");
        std::fs::write(&path, "").unwrap();
        assert_eq!(installed("arm64", directory.path()), Some(path));
        assert_eq!(installed("s390x", directory.path()), None);
    }

    #[test]
    fn byte_order_and_width_tell_relatives_apart() {
        let s390x = "enabled\ninterpreter /q\nflags: F\noffset 0\n\
            magic 7f454c4602020100000000000000000000020016\nmask ffffffffffffff00fffffffffffffffffffeffff\n";
        check(&[("qemu-s390x", s390x)], "linux/s390x", &Emulation::Works);
        check(&[("qemu-s390x", s390x)], "linux/ppc64le", &Emulation::Missing);
    }

    #[test]
    fn what_is_switched_off_or_not_fixed_is_named() {
        let off = ARM64.replacen("enabled", "disabled", 1);
        check(&[("q", &off)], "linux/arm64", &Emulation::Disabled { name: "q".to_owned() });
        let loose = ARM64.replace("flags: POCF", "flags: OC");
        let interpreter = "/usr/libexec/qemu-binfmt/aarch64-binfmt-P".to_owned();
        check(&[("q", &loose)], "linux/arm64", &Emulation::NotFixed { name: "q".to_owned(), interpreter });
        check(&[], "linux/arm64", &Emulation::Missing);
        check(&[("q", "enabled\nextension .exe\n"), ("r", "")], "linux/arm64", &Emulation::Missing);
    }
}
