//! RUN steps of a foreign platform under an interpreter that the kernel knows: busybox, which takes the path of a
//! program that it is to run for the name of an applet.

use crate::harness::{Scratch, have, tool, wait_until};

/// Registers busybox as an interpreter of s390x programs, in a user namespace of its own (Linux 6.7), and runs what is
/// given there. Exits with 99 where that cannot be.
const WITH_EMULATOR: &str = r#"
read go || exit 99
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 99
magic='\x7fELF\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff'
printf ":fake-s390x:M::$magic:$mask:/bin/busybox:$FLAGS" > /proc/sys/fs/binfmt_misc/register || exit 99
exec "$@"
"#;

/// Runs the binary where s390x is emulated; `None` where this machine cannot do that.
fn emulated(scratch: &Scratch, flags: &str, arguments: &[&str]) -> Option<crate::harness::Run> {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let command = scratch.command(arguments);
    let mut unshare = Command::new("unshare");
    unshare
        .args(["-Umn", "sh", "-c", WITH_EMULATOR, "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    unshare.env("FLAGS", flags).env_remove("SOURCE_DATE_EPOCH").env_remove("XBUILD_ROOT");
    let piped = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    // The process has its namespace once its map can be written.
    let id = child.id();
    let path = |file: &str| format!("/proc/{id}/{file}");
    let outer = std::fs::read_link("/proc/self/ns/user").unwrap();
    wait_until("the process has its namespace or has ended", || {
        std::fs::read_link(path("ns/user")).is_ok_and(|inner| inner != outer)
            || child.try_wait().unwrap().is_some()
    });
    for file in ["uid_map", "gid_map"] {
        let _ = std::fs::write(path(file), "0 0 65536");
    }
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(b"go\n");
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let code = output.status.code().unwrap_or(-1);
    let run = crate::harness::Run { code, stdout: text(output.stdout), stderr: text(output.stderr) };
    if matches!(run.code, 1 | 99) && !run.stderr.contains("error: ") {
        super::skip(&format!("no interpreter can be registered in a user namespace here: {}", run.stderr));
        return None;
    }
    Some(run)
}

#[test]
fn a_foreign_run_is_emulated_where_the_kernel_has_an_interpreter() {
    if !have(&["unshare"]) {
        return;
    }
    let scratch = Scratch::new();
    let text = "FROM scratch\nCOPY sh /bin/sh\nRUN echo emulated > /out\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    // The header of a big-endian program of 64 bits for machine 22 (elf.h: EM_S390).
    let mut program = vec![0; 64];
    program[..7].copy_from_slice(b"\x7fELF\x02\x02\x01");
    program[16..20].copy_from_slice(&[0, 2, 0, 22]);
    let sh = context.join("sh");
    std::fs::write(&sh, program).unwrap();
    tool("chmod", &["755", sh.to_str().unwrap()]);
    let out = scratch.path().join("out");
    let output = format!("type=local,dest={}", out.display());
    let build =
        ["build", "--network", "host", "--progress", "plain", "--platform", "linux/s390x", "-o", &output];
    let build = [&build[..], &[context.to_str().unwrap()]].concat();
    // Without the flag F the interpreter would have to be in the image.
    let Some(loose) = emulated(&scratch, "", &build) else { return };
    loose.fails(10, &["/bin/busybox", "fake-s390x lacks the flag F", "fix_binary", "Dockerfile:3"]);
    let Some(run) = emulated(&scratch, "F", &build) else { return };
    run.ok();
    assert_eq!(std::fs::read_to_string(out.join("out")).unwrap(), "emulated\n");
    // What is cached need not run.
    let cached = scratch.xbuild(&build).ok();
    assert_eq!(cached.cached(), 2, "{}", cached.stderr);
}
