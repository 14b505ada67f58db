//! Which control group hierarchies this process can make groups in: from `/proc/self/mountinfo` and `/proc/self/cgroup`.

use std::path::{Path, PathBuf};

/// Controllers that steps use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    /// Number of processes.
    Pids,
    /// Memory.
    Memory,
    /// CPU time.
    Cpu,
    /// CPUs.
    Cpuset,
    /// Devices: a controller of v1, a program on v2.
    Devices,
}

impl Controller {
    const ALL: [Controller; 5] =
        [Controller::Pids, Controller::Memory, Controller::Cpu, Controller::Cpuset, Controller::Devices];

    /// The kernel's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Controller::Pids => "pids",
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::Cpuset => "cpuset",
            Controller::Devices => "devices",
        }
    }
}

/// Version of a hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// One tree per controller.
    One,
    /// One tree for all.
    Two,
}

/// A mounted hierarchy and the directory in it under which groups are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    pub(super) controllers: Vec<Controller>,
    pub(super) base: PathBuf,
}

/// Returns the hierarchies of this process.
pub(super) fn hierarchies() -> Vec<Hierarchy> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut found = parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
    for hierarchy in &mut found {
        if hierarchy.version == Version::Two {
            delegate(hierarchy);
        }
    }
    found.retain(|hierarchy| !hierarchy.controllers.is_empty());
    found
}

fn parse(mounts: &str, memberships: &str) -> Vec<Hierarchy> {
    mounts.lines().filter_map(|line| parse_mount(line, memberships)).collect()
}

/// `36 35 98:0 /root /mount/point opts … - cgroup source super,opts` (proc_pid_mountinfo(5)).
fn parse_mount(line: &str, memberships: &str) -> Option<Hierarchy> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(3);
    let (root, mount_point) = (front.next()?, front.next()?);
    let mut back = back.split(' ');
    let version = match back.next()? {
        "cgroup" => Version::One,
        "cgroup2" => Version::Two,
        _ => return None,
    };
    let options: Vec<&str> = back.nth(1)?.split(',').collect();
    let controllers: Vec<Controller> =
        Controller::ALL.into_iter().filter(|controller| options.contains(&controller.name())).collect();
    let member = membership(memberships, version, &controllers)?;
    let inside = Path::new(member).strip_prefix(root).unwrap_or(Path::new(""));
    Some(Hierarchy { version, controllers, base: Path::new(mount_point).join(inside) })
}

/// `id:controllers:/path`, with an empty list for v2 (cgroups(7)).
fn membership<'a>(memberships: &'a str, version: Version, controllers: &[Controller]) -> Option<&'a str> {
    memberships.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        let matches = match version {
            Version::Two => names.is_empty(),
            Version::One => {
                names.split(',').any(|name| controllers.iter().any(|controller| controller.name() == name))
            }
        };
        matches.then_some(path)
    })
}

/// Finds where v2 controllers can be handed on: in our own group, else beside it.
///
/// A group with processes hands on nothing (the "no internal processes" rule), the root excepted; the group above ours
/// normally hands on already, and its limits still hold.
fn delegate(hierarchy: &mut Hierarchy) {
    let own = hierarchy.base.clone();
    let beside = own.parent().filter(|parent| parent.join("cgroup.procs").exists()).map(Path::to_owned);
    for base in std::iter::once(own).chain(beside) {
        for controller in Controller::ALL {
            // EBUSY, ENOENT and EACCES all mean that this controller is not to be had here, which the reading below tells.
            let _ = super::write(&base.join("cgroup.subtree_control"), &format!("+{}", controller.name()));
        }
        let handed = std::fs::read_to_string(base.join("cgroup.subtree_control")).unwrap_or_default();
        let names: Vec<&str> = handed.split_whitespace().collect();
        let controllers: Vec<Controller> =
            Controller::ALL.into_iter().filter(|controller| names.contains(&controller.name())).collect();
        if !controllers.is_empty() {
            *hierarchy = Hierarchy { version: Version::Two, controllers, base };
            break;
        }
    }
    // Devices are decided by programs, which need no controller.
    hierarchy.controllers.push(Controller::Devices);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mounts: &str, memberships: &str, expected: &[(Version, &[Controller], &str)]) {
        let found = parse(mounts, memberships);
        let expected: Vec<Hierarchy> = expected
            .iter()
            .map(|(version, controllers, base)| Hierarchy {
                version: *version,
                controllers: controllers.to_vec(),
                base: PathBuf::from(base),
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn version_one_has_a_tree_per_controller() {
        check(
            "30 25 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n31 25 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n",
            "4:memory:/jobs/7\n8:pids:/\n",
            &[
                (Version::One, &[Controller::Memory], "/sys/fs/cgroup/memory/jobs/7"),
                (Version::One, &[Controller::Pids], "/sys/fs/cgroup/pids"),
            ],
        );
    }

    #[test]
    fn controllers_may_share_a_tree() {
        check(
            "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
            "4:cpu,cpuacct:/a",
            &[(Version::One, &[Controller::Cpu], "/sys/fs/cgroup/cpu,cpuacct/a")],
        );
    }

    #[test]
    fn a_bind_mounted_subtree_is_seen_from_its_root() {
        check(
            "30 25 0:26 /docker/c1 /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids",
            "4:pids:/docker/c1/job",
            &[(Version::One, &[Controller::Pids], "/sys/fs/cgroup/pids/job")],
        );
    }

    #[test]
    fn version_two_is_one_tree() {
        check(
            "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate",
            "0::/user.slice/u.service\n",
            &[(Version::Two, &[], "/sys/fs/cgroup/user.slice/u.service")],
        );
    }
}
