//! `xbuild run`: a process of an image, in the sandbox of build steps. What it writes is thrown away.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use executor::owner;
use executor::sandbox::{
    EtcFiles, ExitStatus, Limits, Overlay, Privileges, Security, Spawner, Stdio, StepNetwork, StepSpec, User,
    Writes,
};
use oci::Platform;
use oci::config::RuntimeConfig;

use crate::args::RunArgs;
use crate::bases::{Bases, Pull};
use crate::failure::{self, Class, Failure};
use crate::image::{self, StoredImage};
use crate::images::{self, Places};
use crate::location::Location;
use crate::options::{self, RegistryOptions, usage, variable};
use crate::registries::Registries;
use crate::worker::build::Build;
use crate::worker::error::StepError;
use crate::worker::layer::{Layers, Stack};

/// How long the process may take to end after a signal.
const GRACE: Duration = Duration::from_secs(10);

/// PATH of images that set none, as Docker has it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs the image; returns its exit code.
///
/// # Errors
/// Where the image is not there or cannot be started.
pub fn run(args: &RunArgs, root: &Path) -> Result<u8, Failure> {
    let network = match args.network.as_str() {
        "host" | "default" => StepNetwork::Host,
        "none" => StepNetwork::None,
        other => {
            let flag = format!("--network {other}");
            return Err(usage(&flag, "this network mode is not supported yet", "use host or none"));
        }
    };
    if args.tty && !std::io::stdin().is_terminal() {
        return Err(usage("--tty", "standard input is no terminal", "leave it out"));
    }
    let location = Location::parse(&args.image)?;
    let platform = match super::Platforms::parse(args.platform.as_deref(), super::Platforms::Host)? {
        super::Platforms::One(platform) => platform,
        super::Platforms::Host => Platform::host(),
        super::Platforms::All => {
            return Err(usage("--platform all", "one image is run", "name one platform"));
        }
    };
    let spawner = crate::spawner()?;
    let store = Arc::new(crate::open_to_write(root)?);
    let options = RegistryOptions::new(&args.registry)?.for_images(location.reference().as_ref())?;
    let registries = Arc::new(Registries::new(options, |note| super::tell(&note)));
    let bases = Bases::new(Arc::clone(&store), Arc::clone(&registries), Pull::Missing);
    let build = Arc::new(Build::new(Arc::clone(&store)));
    let layers = Layers::new(Arc::clone(&store), Arc::clone(&build), Arc::clone(&registries));
    crate::runtime()?.block_on(async {
        let image = match &location {
            Location::Named(name) => image::load(store.layout(), name, &platform)?,
            place => {
                let places = Places::of_store(store, registries);
                super::interruptible(images::import(&places, place, &platform)).await?.0
            }
        };
        let stack =
            bases.stack(&image.manifest.digest, &args.image).map_err(|error| Failure::from(&error))?;
        let spec = spec(args, &image, &layers, &build, &stack, network).await?;
        start(&spawner, &spec).await
    })
}

async fn spec(
    args: &RunArgs,
    image: &StoredImage,
    layers: &Layers,
    build: &Build,
    stack: &Stack,
    network: StepNetwork,
) -> Result<StepSpec, Failure> {
    let config = &image.config.parsed.config;
    let failed = |error: StepError| Failure::from(&error);
    let tree = layers.tree(stack).await.map_err(failed)?;
    let spec = args.user.as_deref().unwrap_or(&config.user);
    let user = owner::resolve_user(&tree, spec).map_err(StepError::from).map_err(failed)?;
    let mut lowers = layers.directories(stack).await.map_err(failed)?;
    lowers.push(build.skeleton().map_err(failed)?);
    let scratch = build.scratch().map_err(failed)?;
    let writes = Writes { upper: scratch.join("upper"), work: scratch.join("work") };
    for path in [&writes.upper, &writes.work] {
        std::fs::create_dir(path).map_err(StepError::io("make directory", path)).map_err(failed)?;
    }
    let hostname = "xbuild";
    Ok(StepSpec {
        rootfs: Overlay { lowers, writes: Some(writes) },
        args: command(args, config)?,
        env: environment(args, config, &user.home)?,
        cwd: working_directory(args, config)?,
        user: User { uid: user.ids.uid, gid: user.ids.gid, groups: user.groups },
        hostname: hostname.to_owned(),
        mounts: Vec::new(),
        pipes: Vec::new(),
        etc: EtcFiles {
            hosts: Some(format!(
                "127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
            )),
            resolv_conf: Some(std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
            hostname: Some(format!("{hostname}\n")),
        },
        host_ca: args.host_ca.as_deref().map(options::host_ca).transpose()?,
        network,
        security: Security::Sandbox,
        privileges: Privileges::MayGrow,
        limits: Limits::default(),
        ulimits: Vec::new(),
    })
}

/// The entrypoint with the command; a command given here replaces the image's, an entrypoint both.
fn command(args: &RunArgs, config: &RuntimeConfig) -> Result<Vec<OsString>, Failure> {
    let entrypoint = match &args.entrypoint {
        // As with docker: none, instead of the image's.
        Some(program) if program.is_empty() => Vec::new(),
        Some(program) => vec![program.clone()],
        None => config.entrypoint.clone().unwrap_or_default(),
    };
    let command = match (args.command.is_empty(), &args.entrypoint) {
        (false, _) => args.command.clone(),
        (true, None) => config.cmd.clone().unwrap_or_default(),
        (true, Some(_)) => Vec::new(),
    };
    let all: Vec<OsString> = entrypoint.into_iter().chain(command).map(OsString::from).collect();
    if all.is_empty() {
        let why = "the image has neither ENTRYPOINT nor CMD";
        return Err(Failure::new(
            Class::Usage,
            &["nothing to run", &args.image, why, "give a command after the image"],
        ));
    }
    Ok(all)
}

fn environment(
    args: &RunArgs,
    config: &RuntimeConfig,
    home: &str,
) -> Result<Vec<(OsString, OsString)>, Failure> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: String| match env.iter_mut().find(|(known, _)| known == name) {
        Some(entry) => entry.1 = value,
        None => env.push((name.to_owned(), value)),
    };
    set("PATH", PATH.to_owned());
    set("HOME", home.to_owned());
    for entry in &config.env {
        if let Some((name, value)) = entry.split_once('=') {
            set(name, value.to_owned());
        }
    }
    for entry in &args.env {
        match entry.split_once('=') {
            Some(("", _)) => {
                return Err(usage(&format!("-e {entry}"), "the name is empty", "write NAME=VALUE"));
            }
            Some((name, value)) => set(name, value.to_owned()),
            None => {
                if let Some(value) = variable(entry) {
                    set(entry, value);
                }
            }
        }
    }
    Ok(env.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
}

fn working_directory(args: &RunArgs, config: &RuntimeConfig) -> Result<PathBuf, Failure> {
    match &args.workdir {
        Some(directory) if !directory.starts_with('/') => {
            Err(usage(&format!("-w {directory}"), "it is not absolute", "start it with a slash"))
        }
        Some(directory) => Ok(PathBuf::from(directory)),
        None if config.working_dir.starts_with('/') => Ok(PathBuf::from(&config.working_dir)),
        None => Ok(PathBuf::from("/").join(&config.working_dir)),
    }
}

/// Starts the process on our own standard streams and passes its end on. SIGINT and SIGTERM end it.
async fn start(spawner: &Spawner, spec: &StepSpec) -> Result<u8, Failure> {
    let own = |fd: std::os::fd::BorrowedFd<'_>| {
        let copied = fd.try_clone_to_owned().map_err(StepError::io("duplicate", "a standard stream"));
        copied.map_err(|error| Failure::from(&error))
    };
    let stdio = Stdio {
        stdin: Some(own(std::io::stdin().as_fd())?),
        stdout: own(std::io::stdout().as_fd())?,
        stderr: own(std::io::stderr().as_fd())?,
    };
    // Before the process can say that it is there: whoever reads that may send one.
    let signalled = super::signalled();
    let step = spawner.run(spec, stdio)?;
    let killer = step.killer();
    let mut ended = tokio::task::spawn_blocking(move || step.wait());
    let (ended, signal) = tokio::select! {
        ended = &mut ended => (ended, None),
        signal = signalled => {
            super::steps_end();
            killer.terminate(GRACE);
            let ended = super::until_ended("the program", ended, |text| super::tell(&text)).await;
            (ended, Some(signal))
        }
    };
    let end = ended.expect("waiting does not panic").map_err(failure::from::program)?;
    Ok(match (signal, end.status) {
        // Also after a signal: what the program made of it.
        (_, ExitStatus::Code(code)) => u8::try_from(code & 0xff).unwrap_or(255),
        (Some(signal), ExitStatus::Signal(_)) => Class::Signal(signal).code(),
        (None, ExitStatus::Signal(signal)) => Class::Signal(signal).code(),
    })
}
