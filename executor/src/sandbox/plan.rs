//! The mounts of a step as data: pure, so that it is tested without privileges.
//!
//! Init loops over the plan (`rootfs`), resolving every target by handle inside the new root. Nothing here touches a file.

use std::path::{Component, Path, PathBuf};

use super::error::SandboxError;
use super::mount_call::{Attributes, DeviceControl, MountCall, Source, Target};
use super::spec::{Access, MemoryFile, MountSource, Security, StepMount, StepSpec};

/// moby daemon/pkg/oci/defaults.go, 2026-08.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// moby daemon/pkg/oci/defaults.go, 2026-08.
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Where distributions keep the bundle that their TLS libraries read (the list of Go's crypto/x509 root_linux.go).
pub(super) const CA_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where a step finds the host's bundle whatever the image has; on our /dev, so that it leaves no trace in a layer.
pub const CA_FILE: &str = "/dev/host-ca.crt";

/// Variables that make common programs read [`CA_FILE`].
pub const CA_VARIABLES: &[&str] = &[
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
];

const HARDENED: Attributes = Attributes::NO_SUID.and(Attributes::NO_DEVICES).and(Attributes::NO_EXEC);

/// Returns the acts that build the step's file system, or why the spec is refused.
///
/// [`Source::Handle`] numbers count the mounts with [`MountSource::Handle`] in their order.
pub fn plan_mounts(spec: &StepSpec, devices: DeviceControl) -> Result<Vec<MountCall>, SandboxError> {
    let mut calls =
        vec![MountCall::Root { overlay: spec.rootfs.clone(), attributes: root_attributes(spec, devices) }];
    calls.extend(kernel_file_systems(spec));
    calls.extend(device_nodes());
    calls.extend(pipes(spec)?);
    calls.extend(etc_files(spec));
    calls.extend(host_ca(spec));
    if spec.security == Security::Sandbox {
        calls.extend(READ_ONLY.iter().map(|path| MountCall::ReadOnly { path: (*path).to_owned() }));
        calls.extend(MASKED.iter().map(|path| MountCall::Mask { path: (*path).to_owned() }));
    }
    calls.extend(step_mounts(&spec.mounts)?);
    Ok(calls)
}

fn root_attributes(spec: &StepSpec, devices: DeviceControl) -> Attributes {
    match (spec.security, devices) {
        (Security::Sandbox, DeviceControl::None) => Attributes::NO_DEVICES,
        (Security::Sandbox, DeviceControl::Group) | (Security::Insecure, _) => Attributes::NONE,
    }
}

fn kernel_file_systems(spec: &StepSpec) -> Vec<MountCall> {
    let sys = match spec.security {
        Security::Sandbox => HARDENED.and(Attributes::READ_ONLY),
        Security::Insecure => HARDENED,
    };
    let standard = |path: &str| Target::Standard { path: path.to_owned() };
    let ours = |path: &str| Target::Ours { path: path.to_owned() };
    let directory = |path: &str| MountCall::Directory { path: path.to_owned() };
    let shm_size = spec.limits.shm_size.to_string();
    let no_exec = Attributes::NO_SUID.and(Attributes::NO_EXEC);
    vec![
        fresh("proc", standard("/proc"), &[], HARDENED),
        fresh("sysfs", standard("/sys"), &[], sys),
        fresh("tmpfs", standard("/dev"), &[("mode", "755"), ("size", "65536k")], Attributes::NO_SUID),
        directory("/dev/pts"),
        fresh("devpts", ours("/dev/pts"), &[("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")], no_exec),
        directory("/dev/shm"),
        fresh("tmpfs", ours("/dev/shm"), &[("mode", "1777"), ("size", &shm_size)], HARDENED),
        directory("/dev/mqueue"),
        fresh("mqueue", ours("/dev/mqueue"), &[], HARDENED),
    ]
}

fn fresh(filesystem: &str, target: Target, options: &[(&str, &str)], attributes: Attributes) -> MountCall {
    let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    MountCall::Fresh { filesystem: filesystem.to_owned(), target, options, attributes }
}

fn device_nodes() -> Vec<MountCall> {
    let nodes =
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    let links = [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
    ];
    let nodes =
        nodes.map(|(name, major, minor)| MountCall::Device { path: format!("/dev/{name}"), major, minor });
    let links =
        links.map(|(name, to)| MountCall::Symlink { path: format!("/dev/{name}"), to: to.to_owned() });
    nodes.into_iter().chain(links).collect()
}

fn pipes(spec: &StepSpec) -> Result<Vec<MountCall>, SandboxError> {
    if spec.pipes.is_empty() {
        return Ok(Vec::new());
    }
    let mut calls = vec![
        MountCall::Directory { path: "/dev/pipes".to_owned() },
        MountCall::ScratchDirectory { name: "pipes".to_owned() },
    ];
    for pipe in &spec.pipes {
        if pipe.name.is_empty() || pipe.name.contains('/') || matches!(pipe.name.as_str(), "." | "..") {
            return Err(SandboxError::Invalid {
                what: format!("file name {:?} for /dev/pipes is not one path component", pipe.name),
            });
        }
        let file = MemoryFile { data: pipe.data.clone(), mode: pipe.mode, uid: 0, gid: 0 };
        calls.push(MountCall::ScratchFile { name: format!("pipes/{}", pipe.name), file });
    }
    calls.push(MountCall::Bind {
        source: Source::Scratch { name: "pipes".to_owned() },
        target: Target::Ours { path: "/dev/pipes".to_owned() },
        attributes: Attributes::READ_ONLY.and(Attributes::NO_SUID).and(Attributes::NO_DEVICES),
    });
    Ok(calls)
}

fn etc_files(spec: &StepSpec) -> Vec<MountCall> {
    let files = [
        ("hosts", &spec.etc.hosts),
        ("resolv.conf", &spec.etc.resolv_conf),
        ("hostname", &spec.etc.hostname),
    ];
    let mut calls = Vec::new();
    for (name, content) in files {
        let Some(content) = content else { continue };
        let file = MemoryFile { data: content.clone().into_bytes(), mode: 0o644, uid: 0, gid: 0 };
        calls.push(MountCall::ScratchFile { name: name.to_owned(), file });
        calls.push(MountCall::Bind {
            source: Source::Scratch { name: name.to_owned() },
            target: Target::Image { path: Path::new("/etc").join(name) },
            attributes: HARDENED.and(Attributes::READ_ONLY),
        });
    }
    calls
}

fn host_ca(spec: &StepSpec) -> Vec<MountCall> {
    let Some(bundle) = &spec.host_ca else { return Vec::new() };
    let attributes = HARDENED.and(Attributes::READ_ONLY);
    let source = || Source::Host { path: bundle.clone() };
    let over = |path: &&str| MountCall::Bind {
        source: source(),
        target: Target::Existing { path: PathBuf::from(*path) },
        attributes,
    };
    let mut calls = vec![
        MountCall::File { path: CA_FILE.to_owned() },
        MountCall::Bind { source: source(), target: Target::Ours { path: CA_FILE.to_owned() }, attributes },
    ];
    calls.extend(CA_BUNDLES.iter().map(over));
    calls
}

fn step_mounts(mounts: &[StepMount]) -> Result<Vec<MountCall>, SandboxError> {
    let (mut calls, mut handles) = (Vec::new(), 0);
    for (number, mount) in mounts.iter().enumerate() {
        let target = checked_target(&mount.target)?;
        // Docker's bind mounts of a build carry nosuid and nodev neither; the group or nodev on the root guards devices.
        let attributes = match mount.access {
            Access::ReadOnly => Attributes::READ_ONLY,
            Access::ReadWrite => Attributes::NONE,
        };
        let source = match &mount.source {
            MountSource::Handle(_) => {
                handles += 1;
                Source::Handle { index: handles - 1 }
            }
            MountSource::Layers { overlay, subpath } => {
                let id = number as u32;
                calls.push(MountCall::View { id, overlay: overlay.clone() });
                Source::View { id, path: subpath.clone() }
            }
            MountSource::Tmpfs { size, mode } => {
                calls.push(tmpfs(target, *size, *mode, attributes));
                continue;
            }
            MountSource::File(file) => {
                let name = format!("file-{number}");
                calls.push(MountCall::ScratchFile { name: name.clone(), file: file.clone() });
                let attributes = attributes.and(HARDENED);
                calls.push(MountCall::Bind { source: Source::Scratch { name }, target, attributes });
                continue;
            }
        };
        let attributes = attributes.and(Attributes::NO_DEVICES);
        calls.push(MountCall::Bind { source, target, attributes });
    }
    Ok(calls)
}

fn tmpfs(target: Target, size: Option<u64>, mode: u32, attributes: Attributes) -> MountCall {
    let mut options = vec![("mode".to_owned(), format!("{mode:o}"))];
    options.extend(size.map(|size| ("size".to_owned(), size.to_string())));
    let attributes = attributes.and(Attributes::NO_SUID).and(Attributes::NO_DEVICES);
    MountCall::Fresh { filesystem: "tmpfs".to_owned(), target, options, attributes }
}

/// Refuses targets that lie on the sandbox's own file systems (RT-07), except on /dev/shm.
fn checked_target(target: &Path) -> Result<Target, SandboxError> {
    let forbidden = |on: &str| SandboxError::ForbiddenTarget { target: target.to_owned(), on: on.to_owned() };
    let mut clean = PathBuf::from("/");
    if !target.is_absolute() {
        return Err(SandboxError::Invalid {
            what: format!("mount target {} is not absolute", target.display()),
        });
    }
    for component in target.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if clean == Path::new("/") {
        return Err(forbidden("the root itself"));
    }
    if clean.starts_with("/dev/shm") {
        return Ok(match clean == Path::new("/dev/shm") {
            true => Target::Ours { path: "/dev/shm".to_owned() },
            false => Target::Image { path: clean },
        });
    }
    for reserved in ["/proc", "/sys", "/dev"] {
        if clean.starts_with(reserved) {
            return Err(forbidden(reserved));
        }
    }
    Ok(Target::Image { path: clean })
}

#[cfg(test)]
mod tests {
    use super::super::spec::*;
    use super::super::wire::Wire;
    use super::*;

    fn spec(mounts: Vec<StepMount>) -> StepSpec {
        StepSpec {
            rootfs: Overlay { lowers: vec![PathBuf::from("/l")], writes: None },
            args: vec!["true".into()],
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            user: User::default(),
            hostname: "step".to_owned(),
            mounts,
            pipes: Vec::new(),
            etc: EtcFiles::default(),
            host_ca: None,
            network: StepNetwork::None,
            security: Security::Sandbox,
            privileges: Privileges::MayGrow,
            limits: Limits::default(),
            ulimits: Vec::new(),
        }
    }

    fn tmpfs_at(target: &str) -> StepMount {
        let source = MountSource::Tmpfs { size: Some(4096), mode: 0o1777 };
        StepMount { target: PathBuf::from(target), source, access: Access::ReadWrite }
    }

    fn plan(spec: &StepSpec) -> Vec<MountCall> {
        plan_mounts(spec, DeviceControl::Group).expect("the spec is fine")
    }

    #[test]
    fn the_root_comes_first_and_every_kernel_file_system_is_hardened() {
        let calls = plan(&spec(Vec::new()));
        assert!(matches!(calls[0], MountCall::Root { attributes: Attributes::NONE, .. }));
        for call in &calls {
            if let MountCall::Fresh { filesystem, attributes, .. } = call {
                assert_ne!(attributes.bits & Attributes::NO_SUID.bits, 0, "{filesystem} without nosuid");
            }
        }
        assert_eq!(calls.iter().filter(|call| matches!(call, MountCall::Root { .. })).count(), 1);
    }

    #[test]
    fn rt_22_without_a_device_group_the_root_holds_no_devices() {
        let calls = plan_mounts(&spec(Vec::new()), DeviceControl::None).expect("the spec is fine");
        assert!(matches!(calls[0], MountCall::Root { attributes: Attributes::NO_DEVICES, .. }));
    }

    #[test]
    fn rt_28_masks_are_dockers_and_only_an_insecure_step_lacks_them() {
        let covered = |calls: &[MountCall]| {
            let is_cover =
                |call: &&MountCall| matches!(call, MountCall::Mask { .. } | MountCall::ReadOnly { .. });
            calls.iter().filter(is_cover).count()
        };
        let mut step = spec(Vec::new());
        assert_eq!(covered(&plan(&step)), MASKED.len() + READ_ONLY.len());
        assert_eq!((MASKED.len(), READ_ONLY.len()), (12, 5));
        step.security = Security::Insecure;
        assert_eq!(covered(&plan(&step)), 0);
    }

    #[test]
    fn rt_07_reserved_targets_are_refused_before_anything_runs() {
        for target in ["/proc", "/proc/1", "/sys", "/dev/null", "/dev", "/", "/a/../dev", "/dev/shm/../null"]
        {
            let refused = plan_mounts(&spec(vec![tmpfs_at(target)]), DeviceControl::Group);
            assert!(matches!(refused, Err(SandboxError::ForbiddenTarget { .. })), "{target}: {refused:?}");
        }
        for target in ["/dev/shm", "/dev/shm/x", "/devices", "/process", "/a/../b", "/system"] {
            assert!(plan_mounts(&spec(vec![tmpfs_at(target)]), DeviceControl::Group).is_ok(), "{target}");
        }
    }

    #[test]
    fn mt_12_a_tmpfs_never_takes_options_from_text() {
        let calls = plan(&spec(vec![tmpfs_at("/a,size=1T")]));
        let Some(MountCall::Fresh { options, target, .. }) = calls.last() else { panic!("{calls:?}") };
        assert_eq!(
            options,
            &[("mode".to_owned(), "1777".to_owned()), ("size".to_owned(), "4096".to_owned())]
        );
        assert_eq!(target, &Target::Image { path: PathBuf::from("/a,size=1T") });
    }

    #[test]
    fn plans_survive_the_wire() {
        let mut step = spec(vec![tmpfs_at("/a")]);
        step.etc.hosts = Some("hosts".to_owned());
        step.host_ca = Some(PathBuf::from("/ca"));
        step.pipes.push(PipeFile { name: "EOF".to_owned(), data: vec![1, 2], mode: 0o755 });
        let calls = plan(&step);
        assert_eq!(Vec::<MountCall>::decode(&calls.encode()), Some(calls));
    }
}
