//! What RUN, COPY and ADD steps get: network, secrets, agents, hosts and limits.

use std::path::{Path, PathBuf};

use executor::copy::Devices;
use frontend::graph::{ExtraHost, Network, Ulimit};

use super::usage;
use super::values::{self, each, parse_size};
use crate::args::BuildArgs;
use crate::failure::{Class, Failure};

/// What steps get, whatever the Dockerfile says.
#[derive(Debug)]
pub struct StepOptions {
    /// Network of steps that ask for none in particular.
    pub network: Network,
    /// CA bundle that steps trust.
    pub host_ca: Option<PathBuf>,
    /// Secrets.
    pub secrets: Vec<Secret>,
    /// ssh agents: id and socket.
    pub ssh: Vec<(String, PathBuf)>,
    /// Lines for /etc/hosts.
    pub extra_hosts: Vec<ExtraHost>,
    /// rlimits.
    pub ulimits: Vec<Ulimit>,
    /// Bytes of /dev/shm.
    pub shm_size: Option<u64>,
    /// cgroup limits.
    pub limits: Limits,
    /// Granted entitlements.
    pub allow: Vec<String>,
    /// What happens to device nodes in archives of ADD.
    pub devices: Devices,
}

/// A secret that steps may mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its id.
    pub id: String,
    /// Where its value is.
    pub source: SecretSource,
}

/// Where a secret's value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// In a variable of xbuild's environment.
    Variable(String),
}

/// Resource limits of RUN steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Microseconds of CPU per period.
    pub cpu_quota: Option<u64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// CPUs, as a list.
    pub cpuset_cpus: Option<String>,
    /// Processes.
    pub pids: u64,
}

impl StepOptions {
    /// Says what the flags mean.
    ///
    /// # Errors
    /// A usage failure that names the flag.
    pub fn new(args: &BuildArgs) -> Result<Self, Failure> {
        Ok(Self {
            network: values::network("--network", &args.network)?,
            host_ca: args.host_ca.as_deref().map(host_ca).transpose()?,
            secrets: each(&args.secret, values::readable_secret)?,
            ssh: each(&args.ssh, values::ssh)?,
            extra_hosts: each(&args.add_host, values::extra_host)?,
            ulimits: each(&args.ulimit, values::ulimit)?,
            shm_size: args.shm_size.as_deref().map(|text| parse_size("--shm-size", text)).transpose()?,
            limits: Limits {
                memory: args.memory.as_deref().map(|text| parse_size("--memory", text)).transpose()?,
                cpu_quota: args.cpu_quota,
                cpu_period: args.cpu_period,
                cpuset_cpus: args.cpuset_cpus.clone(),
                pids: args.pids_limit,
            },
            allow: each(&args.allow, values::entitlement)?,
            devices: if args.allow_devices { Devices::Allow } else { Devices::Refuse },
        })
    }
}

/// Returns the CA bundle that `--host-ca` names: the given file, else the first of the places where
/// distributions keep theirs.
///
/// # Errors
/// An environment failure where there is none.
pub fn host_ca(text: &str) -> Result<PathBuf, Failure> {
    const PLACES: &[&str] = &[
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    if !text.is_empty() {
        let path = PathBuf::from(text);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(usage("--host-ca", &format!("{text} is no file"), ""))
        };
    }
    PLACES.iter().map(Path::new).find(|path| path.is_file()).map(Path::to_owned).ok_or_else(|| {
        Failure::new(
            Class::Environment,
            &[
                "no CA bundle found on this host",
                "--host-ca",
                "none of the usual places has one",
                "give --host-ca=PATH",
            ],
        )
    })
}
