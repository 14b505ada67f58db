//! What the end-to-end tests share: scratch stores, contexts, a base image, a registry.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long something that must happen may take on a slow and busy machine; a bound against hanging.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until something holds that soon will.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A directory with a store of its own; nothing may be left of it in the mount table when it is dropped.
pub struct Scratch {
    directory: tempfile::TempDir,
}

/// What a run of the binary gave.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Asserts success and returns itself.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Asserts an exit code and that the one error line holds all fragments.
    #[track_caller]
    pub fn fails(self, code: i32, fragments: &[&str]) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        let lines: Vec<_> = self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(lines.len(), 1, "not one error line:\n{}", self.stderr);
        for fragment in fragments {
            assert!(self.stderr.contains(fragment), "{fragment:?} is not in:\n{}", self.stderr);
        }
        self
    }

    /// The number of steps that the plain progress calls cached.
    pub fn cached(&self) -> usize {
        self.stderr.lines().filter(|line| line.contains("CACHED")).count()
    }

    /// The digest that `-q` printed.
    #[track_caller]
    pub fn digest(&self) -> String {
        let digest = self.stdout.trim().to_owned();
        assert!(
            digest.starts_with("sha256:") && digest.len() == 71,
            "no digest: {:?}\n{}",
            self.stdout,
            self.stderr
        );
        digest
    }
}

impl Scratch {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    /// The image layout of the store.
    pub fn layout(&self) -> PathBuf {
        self.store().join("images")
    }

    /// Writes files of a context directory; a name with a trailing slash makes a directory.
    pub fn context(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = self.path().join(name);
        std::fs::create_dir_all(&root).unwrap();
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    /// A command of the binary on this store.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xbuild"));
        command.arg("--root").arg(self.store()).args(arguments).stdin(Stdio::null());
        command.env_remove("SOURCE_DATE_EPOCH").env_remove("XBUILD_ROOT");
        command
    }

    /// Runs the binary on this store.
    pub fn xbuild(&self, arguments: &[&str]) -> Run {
        finish(&mut self.command(arguments))
    }

    /// Builds a context with host network and plain progress.
    pub fn build(&self, context: &Path, arguments: &[&str]) -> Run {
        let mut all = vec!["build", "--network", "host", "--progress", "plain"];
        all.extend(arguments);
        let context = context.to_str().unwrap();
        all.push(context);
        self.xbuild(&all)
    }

    /// Builds a context quietly and returns the digest.
    #[track_caller]
    pub fn digest(&self, context: &Path, arguments: &[&str]) -> String {
        let mut all = vec!["-q"];
        all.extend(arguments);
        self.build_quiet(context, &all).ok().digest()
    }

    fn build_quiet(&self, context: &Path, arguments: &[&str]) -> Run {
        let mut all = vec!["build", "--network", "host"];
        all.extend(arguments);
        all.push(context.to_str().unwrap());
        self.xbuild(&all)
    }

    /// Makes the image `busybox` in the store: a static busybox with its applets, users and /tmp.
    pub fn with_busybox(self) -> Self {
        let root = self.path().join("busybox");
        std::fs::create_dir_all(&root).unwrap();
        let tar = root.join("rootfs.tar");
        write_busybox(&tar);
        std::fs::write(root.join("Dockerfile"), "FROM scratch\nADD rootfs.tar /\nCMD [\"sh\"]\n").unwrap();
        self.build_quiet(&root, &["-q", "-t", "busybox"]).ok();
        self
    }
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Run {
    let output = command.output().unwrap();
    Run {
        code: code(output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The exit code, or the signal as a negative number.
fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().unwrap_or_else(|| -status.signal().unwrap_or(0))
}

/// A run of the binary whose progress is read while it goes on.
pub struct Following {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStderr>>,
    seen: String,
}

impl Following {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines, seen: String::new() }
    }

    /// Waits for a line that holds a text.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        self.wait_for_line(text, |line| line.contains(text));
    }

    /// Waits for a line that a step writes; the step's own name may hold the same text.
    #[track_caller]
    pub fn wait_for_output(&mut self, text: &str) {
        self.wait_for_line(text, |line| line.strip_suffix(text).is_some_and(|before| before.ends_with(' ')));
    }

    #[track_caller]
    fn wait_for_line(&mut self, what: &str, is_it: impl Fn(&str) -> bool) {
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            self.seen += &format!("{line}\n");
            if is_it(&line) {
                return;
            }
        }
        panic!("{what:?} is not in:\n{}", self.seen);
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        tool("kill", &[name, &self.child.id().to_string()]);
    }

    /// Whether it goes on.
    pub fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end. Its standard output must fit the pipe.
    pub fn end(mut self) -> Run {
        for line in self.lines.by_ref() {
            self.seen += &format!("{}\n", line.unwrap());
        }
        let mut stdout = String::new();
        std::io::Read::read_to_string(&mut self.child.stdout.take().unwrap(), &mut stdout).unwrap();
        let code = code(self.child.wait().unwrap());
        Run { code, stdout, stderr: std::mem::take(&mut self.seen) }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a foreign tool and asserts success; returns its standard output.
#[track_caller]
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether a program is installed; says SKIP where it is not.
pub fn have(programs: &[&str]) -> bool {
    let path = std::env::vars().find(|(name, _)| name == "PATH").map(|(_, value)| value).unwrap_or_default();
    for program in programs {
        if !path.split(':').any(|directory| Path::new(directory).join(program).exists()) {
            super::skip(&format!("{program} is not installed"));
            return false;
        }
    }
    true
}

fn write_busybox(tar: &Path) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for name in ["bin", "etc", "tmp", "root", "dev", "proc", "sys", "usr", "var"] {
        std::fs::create_dir(root.join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("the package busybox-static is installed");
    for applet in tool("/bin/busybox", &["--list"]).lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/usr/sbin:/bin/false\napp:x:1000:1000::/home/app:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\ndaemon:x:1:\nstaff:x:50:app\napp:x:1000:\n").unwrap();
    tool("chmod", &["1777", root.join("tmp").to_str().unwrap()]);
    let (tar, root) = (tar.to_str().unwrap(), root.to_str().unwrap());
    tool(
        "tar",
        &[
            "--numeric-owner",
            "--owner=0",
            "--group=0",
            "--sort=name",
            "--mtime=@1700000000",
            "-C",
            root,
            "-cf",
            tar,
            ".",
        ],
    );
}

/// The docker-registry package's server on a free loopback port.
pub struct Registry {
    child: Child,
    pub host: String,
    _directory: tempfile::TempDir,
}

impl Registry {
    /// Starts a server; `None`, with a SKIP, where the package is missing.
    pub fn start() -> Option<Self> {
        Self::start_at(free_port())
    }

    /// Starts a server on a port.
    pub fn start_at(port: u16) -> Option<Self> {
        Self::configured(port, "", "")
    }

    /// Starts a server on a port with more in its configuration: in the table `http`, and beside it.
    pub fn configured(port: u16, http: &str, beside: &str) -> Option<Self> {
        if !have(&["docker-registry"]) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let host = format!("127.0.0.1:{port}");
        let config = directory.path().join("config.yml");
        let mut file = std::fs::File::create(&config).unwrap();
        writeln!(
            file,
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: \"{host}\"{http}}}\n{beside}",
            directory.path().join("data").display()
        )
        .unwrap();
        let log = directory.path().join("log");
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        wait_until("the registry answers", || {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "the registry ended: {}", said());
            TcpStream::connect(&host).is_ok()
        });
        Some(Self { child, host, _directory: directory })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback port that nobody listens on, and that nobody is given while this process lives.
///
/// A socket stays bound to it without listening: connections are refused, and the kernel gives the port to nobody who
/// asks for any. A server that is told to take it can, since it sets SO_REUSEADDR as we do (socket(7)).
pub fn free_port() -> u16 {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .unwrap();
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    rustix::net::bind(&socket, &any).unwrap();
    let socket = std::mem::ManuallyDrop::new(TcpStream::from(socket));
    socket.local_addr().unwrap().port()
}

/// The members of a rootfs archive, as `path type mode uid:gid target`.
pub fn listing(tar: &Path) -> Vec<String> {
    let text = tool("tar", &["--numeric-owner", "-tvf", tar.to_str().unwrap()]);
    text.lines().map(str::to_owned).collect()
}

impl Scratch {
    /// Like [`Scratch::with_busybox`], with SOURCE_DATE_EPOCH for the base too.
    pub fn with_busybox_at(self, epoch: &str) -> Self {
        let root = self.path().join("busybox");
        std::fs::create_dir_all(&root).unwrap();
        write_busybox(&root.join("rootfs.tar"));
        std::fs::write(root.join("Dockerfile"), "FROM scratch\nADD rootfs.tar /\nCMD [\"sh\"]\n").unwrap();
        let root = root.to_str().unwrap();
        finish(self.command(&["build", "-q", "-t", "busybox", root]).env("SOURCE_DATE_EPOCH", epoch)).ok();
        self
    }
}
