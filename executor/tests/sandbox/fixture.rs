//! A busybox image, a spec to start from, and a way to run it and look at what came out.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use executor::sandbox::*;

/// An image directory and what steps write.
pub struct Image {
    /// Scratch of the test; removed with it.
    pub scratch: tempfile::TempDir,
    /// The only layer.
    pub lower: PathBuf,
    runs: std::cell::Cell<u32>,
}

/// What a step left behind.
pub struct Outcome {
    /// How it ended.
    pub end: Result<StepEnd, SandboxError>,
    /// Standard output and error, in order of writing.
    pub output: String,
    /// What it wrote.
    pub upper: PathBuf,
}

impl Outcome {
    /// The end of a step that was started.
    pub fn ended(&self) -> &StepEnd {
        self.end
            .as_ref()
            .unwrap_or_else(|error| panic!("the step did not start: {error}; output: {}", self.output))
    }

    /// Asserts that it exited with 0 and returns its output.
    pub fn success(&self) -> &str {
        assert_eq!(self.ended().status, ExitStatus::Code(0), "output: {}", self.output);
        &self.output
    }

    /// The error of a step that was not started.
    pub fn refusal(&self) -> String {
        match &self.end {
            Ok(end) => panic!("the step was started and ended {end:?}; output: {}", self.output),
            Err(error) => error.to_string(),
        }
    }
}

impl Image {
    /// A root with busybox and its applets, /etc/passwd and /etc/group.
    pub fn new() -> Image {
        // In memory: hundreds of links per image take seconds on a busy disk. Builds through the binary use a disk.
        let scratch = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let scratch = scratch.expect("a scratch directory can be made");
        let lower = scratch.path().join("lower");
        for directory in ["bin", "etc", "tmp", "root", "home/user", "proc", "sys", "dev", "run", "var"] {
            fs::create_dir_all(lower.join(directory)).expect("the image can be made");
        }
        symlink("/run", lower.join("var/run")).expect("the image can be made");
        fs::copy("/bin/busybox", lower.join("bin/busybox")).expect("busybox-static is installed");
        let list = std::process::Command::new("/bin/busybox").arg("--list").output().expect("busybox runs");
        for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
            symlink("busybox", lower.join("bin").join(applet)).expect("the image can be made");
        }
        fs::write(
            lower.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
        )
        .expect("the image can be made");
        fs::write(lower.join("etc/group"), "root:x:0:\nuser:x:1000:\n").expect("the image can be made");
        std::os::unix::fs::chown(lower.join("home/user"), Some(1000), Some(1000))
            .expect("the image can be made");
        fs::set_permissions(lower.join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777))
            .expect("the image can be made");
        Image { scratch, lower, runs: std::cell::Cell::new(0) }
    }

    /// A shell command as a step.
    pub fn shell(&self, script: &str) -> StepSpec {
        self.program(&["/bin/sh", "-c", script])
    }

    /// A program as a step.
    pub fn program(&self, args: &[&str]) -> StepSpec {
        StepSpec {
            rootfs: Overlay { lowers: vec![self.lower.clone()], writes: Some(self.writes("root")) },
            args: args.iter().map(OsString::from).collect(),
            env: vec![("PATH".into(), "/bin".into())],
            cwd: PathBuf::from("/"),
            user: User::default(),
            hostname: "step".to_owned(),
            mounts: Vec::new(),
            pipes: Vec::new(),
            etc: EtcFiles {
                hosts: Some("127.0.0.1 localhost\n".to_owned()),
                resolv_conf: Some("nameserver 192.0.2.1\n".to_owned()),
                hostname: Some("step\n".to_owned()),
            },
            host_ca: None,
            network: StepNetwork::None,
            security: Security::Sandbox,
            privileges: Privileges::MayGrow,
            limits: Limits::default(),
            ulimits: Vec::new(),
        }
    }

    /// A directory of mount points to put below the layers.
    pub fn skeleton(&self) -> PathBuf {
        let path = self.scratch.path().join("skeleton");
        fs::create_dir_all(&path).expect("directories can be made");
        make_skeleton(&path).expect("it can be filled");
        path
    }

    /// Fresh directories for writes.
    pub fn writes(&self, name: &str) -> Writes {
        let number = self.runs.get();
        self.runs.set(number + 1);
        let base = self.scratch.path().join(format!("{name}-{number}"));
        let writes = Writes { upper: base.join("upper"), work: base.join("work") };
        fs::create_dir_all(&writes.upper).expect("directories can be made");
        fs::create_dir_all(&writes.work).expect("directories can be made");
        writes
    }
}

/// Runs a step to its end.
pub fn run(spawner: &Spawner, spec: StepSpec) -> Outcome {
    let upper = spec.rootfs.writes.as_ref().map(|writes| writes.upper.clone()).unwrap_or_default();
    let (step, reader) = start(spawner, &spec);
    let (output, end) = match step {
        Ok(step) => {
            let output = std::thread::spawn(move || read_all(reader));
            let end = step.wait();
            (output.join().expect("the reader does not panic"), end)
        }
        Err(error) => (String::new(), Err(error)),
    };
    Outcome { end, output, upper }
}

/// Runs a shell script as root in a fresh image.
pub fn shell(spawner: &Spawner, script: &str) -> Outcome {
    let image = Image::new();
    run(spawner, image.shell(script))
}

/// Starts a step; the reader gets its output.
pub fn start(spawner: &Spawner, spec: &StepSpec) -> (Result<RunningStep, SandboxError>, std::io::PipeReader) {
    let (reader, writer) = std::io::pipe().expect("a pipe can be made");
    let stderr: OwnedFd = writer.try_clone().expect("descriptors are left").into();
    (spawner.run(spec, Stdio { stdin: None, stdout: writer.into(), stderr }), reader)
}

/// Reads a pipe to its end.
pub fn read_all(mut reader: impl Read) -> String {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).expect("a pipe can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Every path below a directory, sorted.
pub fn tree(directory: &Path) -> Vec<String> {
    fn walk(directory: &Path, prefix: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).expect("the directory can be read").flatten() {
            let name = format!("{prefix}/{}", entry.file_name().to_string_lossy());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), &name, found);
            }
            found.push(name);
        }
    }
    let mut found = Vec::new();
    walk(directory, "", &mut found);
    found.sort();
    found
}

/// Writes a file and makes its directories.
pub fn write(path: impl AsRef<Path>, text: &str) {
    fs::create_dir_all(path.as_ref().parent().expect("it has a parent")).expect("directories can be made");
    fs::write(path, text).expect("files can be written");
}

/// A mount.
pub fn bind(target: &str, source: MountSource, access: Access) -> StepMount {
    StepMount { target: target.into(), source, access }
}

/// A host file or directory as a source.
pub fn handle(path: impl AsRef<Path>) -> MountSource {
    MountSource::Handle(fs::File::open(path).expect("it can be opened").into())
}

/// Asserts success and that nothing but directories is in the upper directory.
pub fn leaves_nothing(outcome: &Outcome) {
    outcome.success();
    let left: Vec<String> = tree(&outcome.upper)
        .into_iter()
        .filter(|path| !fs::symlink_metadata(outcome.upper.join(&path[1..])).expect("it was listed").is_dir())
        .collect();
    assert!(left.is_empty(), "left in the upper directory: {left:?}");
}
