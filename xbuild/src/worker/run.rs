//! RUN: an op and its inputs to a sandbox spec, the run, and what it left.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use executor::copy::CopyError;
use executor::owner::OwnerError;
use executor::sandbox::{
    Access, EtcFiles, ExitStatus, Limits, MemoryFile, MountSource, Overlay, PipeFile, Resource, Rlimit,
    RunningStep, Stdio, StepEnd, StepMount, StepNetwork, StepSpec, User, Writes,
};
use executor::tree::{Tree, TreeError};
use executor::{owner, sandbox};
use frontend::graph::{BindMount, CacheMount, Mount, Network, RunOp, SecretMount, Security, SshMount, Step};
use solver::{StepContext, Stream};

use super::caches::{self, CacheDirectory};
use super::error::StepError;
use super::layer::Stack;
use super::ssh::AgentSocket;
use super::{BuildWorker, Snapshot};

/// BuildKit's name for the sandbox, which some Dockerfiles' outputs contain.
const HOSTNAME: &str = "buildkitsandbox";

/// How long a step may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// A finished run: its writes, and what must not be taken for writes.
pub struct Ran {
    /// The overlay's upper directory.
    pub upper: PathBuf,
    /// How it ended.
    pub end: StepEnd,
}

/// Directories that a run writes into and what it keeps open or locked meanwhile.
struct Prepared {
    spec: StepSpec,
    upper: PathBuf,
    _caches: Vec<Arc<CacheDirectory>>,
    _agents: Vec<AgentSocket>,
}

/// Runs the step on `parent`.
pub async fn run(
    worker: &BuildWorker,
    run: &RunOp,
    step: &Step,
    parent: &Stack,
    inputs: &[Snapshot],
    context: &StepContext,
) -> Result<Ran, StepError> {
    let preparing = prepare(worker, run, step, parent, inputs, context);
    let prepared = super::unless_stopped(context, preparing).await?;
    let (stdout, stderr) = (pipe()?, pipe()?);
    let stdio = Stdio { stdin: None, stdout: stdout.1, stderr: stderr.1 };
    let step = worker.spawner.run(&prepared.spec, stdio)?;
    let readers = [(stdout.0, Stream::Stdout), (stderr.0, Stream::Stderr)].map(|(pipe, stream)| {
        let context = context.clone();
        tokio::task::spawn_blocking(move || forward(pipe, stream, &context))
    });
    let end = wait(step, context).await?;
    for reader in readers {
        reader.await.expect("forwarding does not panic");
    }
    match end.status {
        ExitStatus::Code(0) => Ok(Ran { upper: prepared.upper, end }),
        _ if context.is_cancelled() => Err(StepError::Stopped),
        status => {
            // What the step wrote is still there.
            let space = short_of_space(worker);
            Err(StepError::Ended { status, oom: end.oom, pids_limit: end.pids_limit, space })
        }
    }
}

/// Returns the store and what it has free, where that is little enough to make a step fail.
fn short_of_space(worker: &BuildWorker) -> Option<(PathBuf, u64)> {
    const LITTLE: u64 = 1 << 20;
    let space = worker.store.space().ok()?;
    let is_short = space.free < LITTLE || space.free_inodes == Some(0);
    is_short.then(|| (worker.store.root().to_owned(), space.free))
}

/// Waits for the step's end; on cancellation asks it to end first.
async fn wait(step: RunningStep, context: &StepContext) -> Result<StepEnd, StepError> {
    let killer = step.killer();
    let mut ended = tokio::task::spawn_blocking(move || step.wait());
    let end = tokio::select! {
        end = &mut ended => end,
        () = context.cancelled() => {
            killer.terminate(GRACE);
            ended.await
        }
    };
    Ok(end.expect("waiting does not panic")?)
}

/// Passes on what the step writes until the last writer is gone.
fn forward(pipe: OwnedFd, stream: Stream, context: &StepContext) {
    let mut pipe = std::fs::File::from(pipe);
    let mut buffer = vec![0; 32 << 10];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => context.log(stream, &buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), StepError> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| StepError::io("open", "a pipe")(errno.into()))
}

/// What a step's mounts come to.
struct Mounted {
    mounts: Vec<StepMount>,
    caches: Vec<Arc<CacheDirectory>>,
    agents: Vec<AgentSocket>,
}

async fn prepare(
    worker: &BuildWorker,
    run: &RunOp,
    step: &Step,
    parent: &Stack,
    inputs: &[Snapshot],
    context: &StepContext,
) -> Result<Prepared, StepError> {
    // Unpacking brings the indexes along.
    let mut lowers = worker.layers.directories(parent).await?;
    let tree = worker.layers.tree(parent).await?;
    let user = match owner::resolve_user(&tree, &run.user) {
        // Account files that no index has: behind a link, or very large.
        Err(OwnerError::Tree { source: TreeError::NotUnpacked { .. }, .. }) => {
            owner::resolve_user(&worker.layers.readable_tree(parent).await?, &run.user)?
        }
        user => user?,
    };
    lowers.push(worker.build.skeleton()?);
    let writes = worker.scratch_writes()?;
    let upper = writes.upper.clone();
    make_system_directories(&tree, &upper)?;
    let mut env = environment(run, &user.home, step.source_date_epoch);
    let Mounted { mounts, caches, agents } = mounts(worker, run, step, inputs, context, &mut env).await?;
    let spec = StepSpec {
        rootfs: Overlay { lowers, writes: Some(writes) },
        args: run.args.iter().map(OsString::from).collect(),
        env,
        cwd: PathBuf::from(&run.cwd),
        user: User { uid: user.ids.uid, gid: user.ids.gid, groups: user.groups },
        hostname: hostname(run).to_owned(),
        mounts,
        pipes: pipes(run),
        etc: etc_files(run),
        host_ca: worker.options.steps.host_ca.clone(),
        network: network(run.network),
        security: match run.security {
            Security::Sandbox => sandbox::Security::Sandbox,
            Security::Insecure => sandbox::Security::Insecure,
        },
        privileges: sandbox::Privileges::MayGrow,
        limits: limits(worker, run),
        ulimits: run.ulimits.iter().map(rlimit).collect::<Result<_, _>>()?,
    };
    Ok(Prepared { spec, upper, _caches: caches, _agents: agents })
}

/// Opens what the step mounts; secrets and agents may add to its environment.
async fn mounts(
    worker: &BuildWorker,
    run: &RunOp,
    step: &Step,
    inputs: &[Snapshot],
    context: &StepContext,
    env: &mut Vec<(OsString, OsString)>,
) -> Result<Mounted, StepError> {
    let of_caches: Vec<&CacheMount> = run.mounts.iter().filter_map(as_cache).collect();
    let caches = caches::open(worker, &of_caches, step, inputs, context).await?;
    let mut directories = caches.iter();
    let (mut mounts, mut agents) = (Vec::new(), Vec::new());
    for mount in &run.mounts {
        let made = match mount {
            Mount::Bind(bind) => Some(bind_mount(worker, bind, inputs).await?),
            Mount::Cache(cache) => {
                let directory = directories.next().expect("each cache mount has a directory");
                let access = if cache.read_only { Access::ReadOnly } else { Access::ReadWrite };
                Some(StepMount { target: PathBuf::from(&cache.target), source: directory.handle()?, access })
            }
            Mount::Tmpfs(tmpfs) => Some(StepMount {
                target: PathBuf::from(&tmpfs.target),
                source: MountSource::Tmpfs { size: tmpfs.size, mode: 0o1777 },
                access: Access::ReadWrite,
            }),
            Mount::Secret(secret) => secret_mount(worker, secret, env)?,
            Mount::Ssh(ssh) => ssh_mount(worker, ssh, env, &mut agents)?,
        };
        mounts.extend(made);
    }
    Ok(Mounted { mounts, caches, agents })
}

fn as_cache(mount: &Mount) -> Option<&CacheMount> {
    match mount {
        Mount::Cache(cache) => Some(cache),
        Mount::Bind(_) | Mount::Tmpfs(_) | Mount::Secret(_) | Mount::Ssh(_) => None,
    }
}

fn pipes(run: &RunOp) -> Vec<PipeFile> {
    let files = run.files.iter();
    files.map(|file| PipeFile { name: file.name.clone(), data: file.data.clone(), mode: file.mode }).collect()
}

/// Makes what runc makes in an image that lacks it, and what therefore stays in the layers of every builder.
fn make_system_directories(image: &dyn Tree, upper: &Path) -> Result<(), StepError> {
    for name in ["dev", "proc", "sys"] {
        let path = upper.join(name);
        let there = image.lstat(Path::new(name));
        if there.map_err(|source| StepError::from(CopyError::Tree { path: name.into(), source }))?.is_some() {
            continue;
        }
        std::fs::create_dir(&path).map_err(StepError::io("make directory", &path))?;
        // Whatever the umask is.
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).map_err(StepError::io("chmod", &path))?;
    }
    Ok(())
}

/// Default is the host's network: namespaces with NAT come with the sandbox work; the build says so once.
fn network(requested: Network) -> StepNetwork {
    match requested {
        Network::None => StepNetwork::None,
        Network::Default | Network::Host => StepNetwork::Host,
    }
}

/// The environment of the Dockerfile, then the machine's proxies, then HOME where nothing sets it.
fn environment(run: &RunOp, home: &str, source_date_epoch: Option<i64>) -> Vec<(OsString, OsString)> {
    let mut env = run.env.clone();
    let mut add = |name: &str, value: &str| {
        if env.iter().all(|(known, _)| known != name) {
            env.push((name.to_owned(), value.to_owned()));
        }
    };
    for (name, value) in &run.proxy_env {
        add(name, value);
    }
    add("HOME", home);
    if let Some(epoch) = source_date_epoch {
        add("SOURCE_DATE_EPOCH", &epoch.to_string());
    }
    env.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn hostname(run: &RunOp) -> &str {
    if run.hostname.is_empty() { HOSTNAME } else { &run.hostname }
}

fn etc_files(run: &RunOp) -> EtcFiles {
    let hostname = hostname(run);
    let mut hosts = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for host in &run.extra_hosts {
        hosts += &format!("{}\t{}\n", host.address, host.name);
    }
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    EtcFiles { hosts: Some(hosts), resolv_conf: Some(resolv_conf), hostname: Some(format!("{hostname}\n")) }
}

fn limits(worker: &BuildWorker, run: &RunOp) -> Limits {
    let limits = &worker.options.steps.limits;
    Limits {
        pids: Some(limits.pids),
        memory: limits.memory,
        cpu_quota: limits.cpu_quota,
        cpu_period: limits.cpu_period,
        cpuset: limits.cpuset_cpus.clone(),
        shm_size: run.shm_size.unwrap_or(Limits::default().shm_size),
    }
}

fn rlimit(limit: &frontend::graph::Ulimit) -> Result<Rlimit, StepError> {
    let resource = Resource::parse(&limit.name)
        .ok_or_else(|| StepError::Unsupported(format!("unknown resource limit {:?}", limit.name)))?;
    let value = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
    Ok(Rlimit { resource, soft: value(limit.soft), hard: value(limit.hard) })
}

async fn bind_mount(
    worker: &BuildWorker,
    bind: &BindMount,
    inputs: &[Snapshot],
) -> Result<StepMount, StepError> {
    let lowers = match &inputs[bind.input] {
        Snapshot::Layers(stack) => worker.layers.directories(stack).await?,
        Snapshot::Local(local) => vec![worker.materialise(local).await?],
    };
    let (writes, access) = match bind.writable {
        true => (Some(worker.scratch_writes()?), Access::ReadWrite),
        false => (None, Access::ReadOnly),
    };
    let subpath = PathBuf::from(bind.source.trim_start_matches('/'));
    let source = MountSource::Layers { overlay: Overlay { lowers, writes }, subpath };
    Ok(StepMount { target: PathBuf::from(&bind.target), source, access })
}

fn secret_mount(
    worker: &BuildWorker,
    secret: &SecretMount,
    env: &mut Vec<(OsString, OsString)>,
) -> Result<Option<StepMount>, StepError> {
    let Some(data) = worker.secret(&secret.id)? else {
        if secret.required {
            let flag = format!("--secret id={},src=PATH", secret.id);
            return Err(StepError::Missing { kind: "secret", id: secret.id.clone(), flag });
        }
        return Ok(None);
    };
    if let Some(name) = &secret.env {
        env.retain(|(known, _)| known != name.as_str());
        env.push((name.into(), variable_of(secret, &data)?));
    }
    let file = MemoryFile { data, mode: secret.mode, uid: secret.uid, gid: secret.gid };
    Ok(secret.target.as_ref().map(|target| StepMount {
        target: PathBuf::from(target),
        source: MountSource::File(file),
        access: Access::ReadOnly,
    }))
}

/// The bytes as they are: an environment holds any but NUL (environ(7)).
fn variable_of(secret: &SecretMount, data: &[u8]) -> Result<OsString, StepError> {
    if data.contains(&0) {
        return Err(StepError::Unsupported(format!(
            "the secret {:?} holds a NUL byte, which no environment variable can — take it from a file (target=PATH instead of env={})",
            secret.id,
            secret.env.as_deref().unwrap_or_default(),
        )));
    }
    Ok(OsStr::from_bytes(data).to_owned())
}

fn ssh_mount(
    worker: &BuildWorker,
    ssh: &SshMount,
    env: &mut Vec<(OsString, OsString)>,
    agents: &mut Vec<AgentSocket>,
) -> Result<Option<StepMount>, StepError> {
    let Some((_, socket)) = worker.options.steps.ssh.iter().find(|(id, _)| *id == ssh.id) else {
        if ssh.required {
            let flag = format!("--ssh {}", ssh.id);
            return Err(StepError::Missing { kind: "ssh agent", id: ssh.id.clone(), flag });
        }
        return Ok(None);
    };
    let agent = AgentSocket::listen(&worker.scratch_directory()?, socket, ssh)?;
    let source = agent.handle()?;
    agents.push(agent);
    env.push(("SSH_AUTH_SOCK".into(), ssh.target.clone().into()));
    Ok(Some(StepMount { target: PathBuf::from(&ssh.target), source, access: Access::ReadWrite }))
}

impl BuildWorker {
    /// Makes the directories of one overlay's writes. They live as long as the build.
    pub fn scratch_writes(&self) -> Result<Writes, StepError> {
        // The upper directory becomes a layer's `fs`, alone in a directory that can be moved into the store.
        let (layer, work) = (self.scratch_directory()?, self.scratch_directory()?);
        let upper = layer.join("fs");
        std::fs::create_dir(&upper).map_err(StepError::io("make directory", &upper))?;
        Ok(Writes { upper, work })
    }
}
