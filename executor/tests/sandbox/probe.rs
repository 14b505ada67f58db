//! This test program as a step's program: asks the kernel directly for what busybox has no applet for.

#![expect(unsafe_code, reason = "system calls with arguments that no safe wrapper would pass")]

use std::os::unix::fs::PermissionsExt;

use executor::sandbox::*;

use crate::cases;
use crate::fixture::{Image, run};

cases! {
    rt_03_executing_the_builders_program_gives_no_way_to_change_it,
    rt_24_26_27_dangerous_calls_are_refused_in_every_abi,
}

/// Runs inside a step: prints one line per attempt.
pub fn inside() {
    let exe = std::fs::metadata("/proc/self/exe").expect("it exists");
    println!("exe {}", exe.len());
    let report = |what: &str, result: std::io::Result<()>| println!("{what} {}", errno(result.err()));
    report("write-exe", std::fs::OpenOptions::new().write(true).open("/proc/self/exe").map(drop));
    report("chmod-exe", std::fs::set_permissions("/proc/self/exe", std::fs::Permissions::from_mode(0o4777)));
    report("chown-exe", std::os::unix::fs::chown("/proc/self/exe", Some(1), Some(1)));
    for (name, number, arguments) in CALLS {
        println!("x86_64 {name} {}", native(*number, *arguments));
    }
    #[cfg(target_arch = "x86_64")]
    for (name, number, arguments) in CALLS_I386 {
        println!("i386 {name} {}", i386(*number, *arguments));
    }
    #[cfg(target_arch = "x86_64")]
    println!("x32 getpid {}", native(0x4000_0000 | libc::SYS_getpid, [0; 3]));
}

fn errno(error: Option<std::io::Error>) -> i32 {
    error.map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

/// Name, number, arguments; each is harmless where it is allowed.
const CALLS: &[(&str, i64, [u64; 3])] = &[
    ("socket-alg", libc::SYS_socket, [38, 5, 0]),
    ("socket-vsock", libc::SYS_socket, [40, 1, 0]),
    ("socket-unix", libc::SYS_socket, [1, 1, 0]),
    ("io_uring_setup", libc::SYS_io_uring_setup, [0, 0, 0]),
    ("userfaultfd", libc::SYS_userfaultfd, [0, 0, 0]),
    ("bpf", libc::SYS_bpf, [0, 0, 0]),
    ("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0]),
    ("kexec_load", libc::SYS_kexec_load, [0, 0, 0]),
    ("finit_module", libc::SYS_finit_module, [u64::MAX, 0, 0]),
    ("keyctl", libc::SYS_keyctl, [0, 0, 0]),
    ("add_key", libc::SYS_add_key, [0, 0, 0]),
    ("quotactl", libc::SYS_quotactl, [0, 0, 0]),
    ("acct", libc::SYS_acct, [0, 0, 0]),
    ("swapon", libc::SYS_swapon, [0, 0, 0]),
    ("reboot", libc::SYS_reboot, [0, 0, 0]),
    ("settimeofday", libc::SYS_settimeofday, [0, 0, 0]),
    ("syslog", libc::SYS_syslog, [3, 0, 0]),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, [0, 0, 0]),
    ("personality-odd", libc::SYS_personality, [0x4_0000, 0, 0]),
    ("personality-query", libc::SYS_personality, [0xFFFF_FFFF, 0, 0]),
    ("unshare-user", libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0]),
    ("setns", libc::SYS_setns, [0, 0, 0]),
    ("clone3", libc::SYS_clone3, [0, 0, 0]),
    ("clone-newuser", libc::SYS_clone, [libc::CLONE_NEWUSER as u64, 0, 0]),
    ("mount", libc::SYS_mount, [0, 0, 0]),
    ("fsopen", libc::SYS_fsopen, [0, 0, 0]),
    ("kcmp", libc::SYS_kcmp, [1, 1, 0]),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, [0, 0, 0]),
    ("ptrace-init", libc::SYS_ptrace, [libc::PTRACE_SEIZE as u64, 1, 0]),
    ("unknown", 900, [0, 0, 0]),
];

/// Numbers of asm/unistd_32.h.
#[cfg(target_arch = "x86_64")]
const CALLS_I386: &[(&str, u32, [u32; 3])] = &[
    ("getpid", 20, [0, 0, 0]),
    ("socket-alg", 359, [38, 5, 0]),
    ("mount", 21, [0, 0, 0]),
    ("keyctl", 288, [0, 0, 0]),
    ("bpf", 357, [0, 0, 0]),
    ("unshare-user", 310, [libc::CLONE_NEWUSER as u32, 0, 0]),
    ("clone3", 435, [0, 0, 0]),
    ("iopl", 110, [3, 0, 0]),
    ("io_uring_setup", 425, [0, 0, 0]),
];

fn native(number: i64, arguments: [u64; 3]) -> i32 {
    // SAFETY: pointers among the arguments are null, which the kernel refuses or ignores.
    let result = unsafe { libc::syscall(number, arguments[0], arguments[1], arguments[2], 0, 0) };
    if result < 0 { errno(Some(std::io::Error::last_os_error())) } else { 0 }
}

#[cfg(target_arch = "x86_64")]
fn i386(number: u32, arguments: [u32; 3]) -> i32 {
    let result: i32;
    // SAFETY: int 0x80 enters the kernel's 32-bit table, which preserves all registers but eax; rbx is saved by hand because
    // the compiler reserves it. Pointers among the arguments are null.
    unsafe {
        std::arch::asm!(
            "push rbx", "mov ebx, {first:e}", "int 0x80", "pop rbx",
            first = in(reg) arguments[0],
            inlateout("eax") number => result, in("ecx") arguments[1], in("edx") arguments[2],
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if result < 0 { -result } else { 0 }
}

fn output(spawner: &Spawner, image: &Image, args: &[&str]) -> String {
    run(spawner, image.program(args)).success().to_owned()
}

fn rt_03_executing_the_builders_program_gives_no_way_to_change_it(spawner: &Spawner) {
    let image = Image::new();
    let script = image.lower.join("script");
    std::fs::write(&script, "#!/proc/self/exe --probe\n").expect("the image can be made");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("the image can be made");
    let own = std::fs::metadata("/proc/self/exe").expect("it exists");
    for args in [vec!["/proc/self/exe", "--probe"], vec!["/script"]] {
        let output = output(spawner, &image, &args);
        assert!(output.contains(&format!("exe {}\n", own.len())), "it is this program: {output}");
        for attempt in ["write-exe", "chmod-exe", "chown-exe"] {
            let line = output.lines().find(|line| line.starts_with(attempt)).expect("it was attempted");
            let code: i32 = line.rsplit(' ').next().and_then(|code| code.parse().ok()).expect("a number");
            assert!([libc::EROFS, libc::ETXTBSY, libc::EPERM, libc::EACCES].contains(&code), "{line}");
        }
    }
    let after = std::fs::metadata("/proc/self/exe").expect("it exists");
    assert_eq!(after.permissions(), own.permissions());
    assert_eq!(after.modified().expect("it has a time"), own.modified().expect("it has a time"));
}

fn rt_24_26_27_dangerous_calls_are_refused_in_every_abi(spawner: &Spawner) {
    let image = Image::new();
    std::fs::copy("/proc/self/exe", image.lower.join("probe")).expect("this program can be copied");
    let output = output(spawner, &image, &["/probe", "--probe"]);
    let allowed = ["x86_64 socket-unix", "x86_64 personality-query", "i386 getpid"];
    let missing = ["x86_64 clone3", "i386 clone3", "x86_64 unknown", "x32 getpid"];
    let calls =
        output.lines().filter(|line| ["x86_64 ", "i386 ", "x32 "].iter().any(|abi| line.starts_with(abi)));
    let mut count = 0;
    for line in calls {
        let (call, code) = line.rsplit_once(' ').expect("a call and a number");
        let expected = match call {
            _ if allowed.contains(&call) => 0,
            _ if missing.contains(&call) => libc::ENOSYS,
            _ => libc::EPERM,
        };
        assert_eq!(code.parse(), Ok(expected), "{line}");
        count += 1;
    }
    assert_eq!(count, CALLS.len() + if cfg!(target_arch = "x86_64") { CALLS_I386.len() + 1 } else { 0 });
}
