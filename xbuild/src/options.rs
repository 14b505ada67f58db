//! The command line as meant: values parsed, environment read once, contradictions refused.

pub mod annotation;
mod destinations;
mod image_output;
pub mod output;
pub mod registry;
mod values;

use std::path::{Path, PathBuf};

use executor::copy::Devices;
use frontend::graph::{ExtraHost, Network, Ulimit};
use frontend::lint::RuleSet;
use oci::Platform;
use oci::reference::Reference;

use crate::args::{BuildArgs, LintFormat, LintRules, Print, Progress, PullWhen};
use crate::bases::Pull;
use crate::failure::{Class, Failure};
use crate::location::Location;
use crate::sources::context;
pub use crate::sources::context::Argument as Context;
pub use annotation::{Annotation, Place};
use destinations::Destinations;
pub use destinations::Form;
pub use output::{Output, OutputKind};
pub use registry::RegistryOptions;
pub use values::{parse_size, variable};

/// Where the Dockerfile is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerfileSource {
    /// `Dockerfile`, else `dockerfile`, in the context.
    Default,
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// A named context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory.
    Directory(PathBuf),
    /// An image of the store or a registry.
    Image(Reference),
    /// An image in a layout or an archive.
    Layout(Location),
    /// Files of a URL or a git repository.
    Fetched(Context),
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

/// What `xbuild build` is asked for.
#[derive(Debug)]
pub struct BuildOptions {
    /// Where COPY and ADD take files from.
    pub context: Context,
    /// Where the Dockerfile is.
    pub dockerfile: DockerfileSource,
    /// Names of the image.
    pub tags: Vec<Reference>,
    /// Stage.
    pub target: Option<String>,
    /// Build arguments, the last one of a name wins.
    pub build_args: Vec<(String, String)>,
    /// Named contexts.
    pub contexts: Vec<(String, NamedContext)>,
    /// Platforms of the image; the base decides where there is none.
    pub platforms: Vec<Platform>,
    /// What the result is.
    pub form: Form,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Annotations.
    pub annotations: Vec<Annotation>,
    /// Run everything.
    pub no_cache: bool,
    /// Run these stages.
    pub no_cache_filter: Vec<String>,
    /// Ask registries although the store has the name.
    pub pull: Pull,
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
    /// Where the result goes besides the store.
    pub outputs: Vec<Output>,
    /// Repositories that get the image without a tag.
    pub by_digest: Vec<Reference>,
    /// Push to the registries of the tags.
    pub push: bool,
    /// Load into docker or podman.
    pub load: bool,
    /// File that gets the digest.
    pub iidfile: Option<PathBuf>,
    /// File that gets the JSON description.
    pub metadata_file: Option<PathBuf>,
    /// How progress is shown.
    pub progress: Progress,
    /// Print the digest alone.
    pub quiet: bool,
    /// Granted entitlements.
    pub allow: Vec<String>,
    /// What happens to device nodes in archives of ADD.
    pub devices: Devices,
    /// Print instead of building.
    pub print: Option<Print>,
    /// Print findings instead of building, in this form.
    pub check: Option<LintFormat>,
    /// Lint rules that are on.
    pub lint_rules: RuleSet,
    /// Say why steps run.
    pub explain: bool,
    /// Build stages that the target does not need.
    pub all_stages: bool,
    /// Steps at once.
    pub jobs: usize,
    /// SOURCE_DATE_EPOCH.
    pub source_date_epoch: Option<i64>,
    /// How registries are reached.
    pub registry: RegistryOptions,
}

impl BuildOptions {
    /// Says what the arguments mean.
    ///
    /// # Errors
    /// A usage failure that names the flag.
    pub fn new(args: BuildArgs) -> Result<Self, Failure> {
        let context = context(&args.context)?;
        let build_args = args.build_arg.iter().map(|text| build_arg(text)).collect::<Result<Vec<_>, _>>()?;
        let build_args: Vec<_> = build_args.into_iter().flatten().collect();
        if context == Context::Stdin && args.file.as_deref() == Some(Path::new("-")) {
            let why = "standard input cannot be both the context and the Dockerfile";
            return Err(usage("-f -", why, "give one of them another way"));
        }
        let stdin_is_read = context == Context::Stdin || args.file.as_deref() == Some(Path::new("-"));
        if args.registry.password_stdin && stdin_is_read {
            let why = "standard input is the context or the Dockerfile already";
            return Err(usage("--password-stdin", why, "set XBUILD_PASSWORD instead"));
        }
        let tags: Vec<_> = args.tag.iter().map(|name| values::tag("-t", name)).collect::<Result<_, _>>()?;
        let Destinations { tags, by_digest, push, outputs, annotations: said } =
            destinations::together(&args, tags)?;
        let platforms = destinations::platforms(&args.platform)?;
        let form = destinations::form(&platforms, &build_args)?;
        destinations::check_outputs(form, &outputs, args.load)?;
        let mut annotations = Vec::new();
        for text in &args.annotation {
            annotations.extend(annotation::parse("--annotation", text)?);
        }
        annotations.extend(said);
        destinations::check_annotations(form, &annotations)?;
        Ok(Self {
            context,
            dockerfile: match args.file {
                None => DockerfileSource::Default,
                Some(path) if path.as_os_str() == "-" => DockerfileSource::Stdin,
                Some(path) => DockerfileSource::File(path),
            },
            target: args.target,
            contexts: args.build_context.iter().map(|text| named_context(text)).collect::<Result<_, _>>()?,
            platforms,
            form,
            labels: args.label.iter().map(|text| values::pair("--label", text)).collect::<Result<_, _>>()?,
            annotations,
            no_cache: args.no_cache,
            no_cache_filter: args.no_cache_filter,
            pull: match args.pull {
                PullWhen::Always => Pull::Always,
                PullWhen::Missing => Pull::Missing,
                PullWhen::Never => Pull::Never,
            },
            network: values::network("--network", &args.network)?,
            host_ca: args.host_ca.as_deref().map(host_ca).transpose()?,
            secrets: args
                .secret
                .iter()
                .map(|text| values::readable_secret(text))
                .collect::<Result<_, _>>()?,
            ssh: args.ssh.iter().map(|text| values::ssh(text)).collect::<Result<_, _>>()?,
            extra_hosts: args
                .add_host
                .iter()
                .map(|text| values::extra_host(text))
                .collect::<Result<_, _>>()?,
            ulimits: args.ulimit.iter().map(|text| values::ulimit(text)).collect::<Result<_, _>>()?,
            shm_size: args.shm_size.as_deref().map(|text| parse_size("--shm-size", text)).transpose()?,
            limits: Limits {
                memory: args.memory.as_deref().map(|text| parse_size("--memory", text)).transpose()?,
                cpu_quota: args.cpu_quota,
                cpu_period: args.cpu_period,
                cpuset_cpus: args.cpuset_cpus,
                pids: args.pids_limit,
            },
            outputs,
            push,
            load: args.load,
            iidfile: args.iidfile,
            metadata_file: args.metadata_file,
            progress: if args.quiet { Progress::Quiet } else { args.progress },
            quiet: args.quiet,
            allow: args.allow.iter().map(|text| values::entitlement(text)).collect::<Result<_, _>>()?,
            devices: if args.allow_devices { Devices::Allow } else { Devices::Refuse },
            print: args.print,
            check: args.check.then_some(args.format),
            lint_rules: match args.lint_rules {
                LintRules::Buildkit => RuleSet::BuildKit,
                LintRules::All => RuleSet::All,
            },
            explain: args.explain,
            all_stages: args.all_stages,
            jobs: args.jobs.unwrap_or_else(default_jobs).max(1),
            source_date_epoch: values::source_date_epoch(&build_args)?,
            build_args,
            registry: RegistryOptions::new(&args.registry)?.for_images(tags.iter().chain(&by_digest))?,
            tags,
            by_digest,
        })
    }
}

impl BuildOptions {
    /// Returns the platforms to lower for; none stands for that of the base.
    pub fn each_platform(&self) -> impl Iterator<Item = Option<&Platform>> {
        let unnamed = self.platforms.is_empty().then_some(None);
        self.platforms.iter().map(Some).chain(unnamed)
    }
}

impl BuildOptions {
    /// Returns where the result is pushed to: names with a tag, and repositories where it gets none.
    pub fn pushed(&self) -> Vec<Reference> {
        let tags = self.tags.iter().filter(|_| self.push).cloned().map(Reference::with_default_tag);
        tags.chain(self.by_digest.iter().cloned()).collect()
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

/// Steps wait for networks and disks more than they compute, so that few processors are no reason for few of them.
fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(2, |count| count.get() * 2).max(16)
}

fn context(text: &str) -> Result<Context, Failure> {
    let context = context::classify(text).map_err(|error| Failure::from(&error))?;
    let Context::Directory(path) = &context else { return Ok(context) };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(context),
        Ok(_) => Err(source_failure(text, "it is not a directory")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(source_failure(text, "no such directory"))
        }
        Err(error) => Err(source_failure(text, &error.to_string())),
    }
}

fn source_failure(text: &str, why: &str) -> Failure {
    Failure::new(
        Class::Source,
        &["cannot read the build context", text, why, "give the directory that holds the Dockerfile"],
    )
}

fn build_arg(text: &str) -> Result<Option<(String, String)>, Failure> {
    match text.split_once('=') {
        Some(("", _)) => Err(usage(&format!("--build-arg {text}"), "the name is empty", "write NAME=VALUE")),
        Some((name, value)) => Ok(Some((name.to_owned(), value.to_owned()))),
        None => Ok(variable(text).map(|value| (text.to_owned(), value))),
    }
}

fn named_context(text: &str) -> Result<(String, NamedContext), Failure> {
    let flag = format!("--build-context {text}");
    let Some((name, source)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        return Err(usage(&flag, "there is no name", "write NAME=SOURCE"));
    };
    let context = match Location::explicit(source)? {
        Some(Location::Registry(image)) => NamedContext::Image(image),
        Some(
            image @ (Location::Named(_)
            | Location::Layout(..)
            | Location::OciArchive(..)
            | Location::DockerArchive(..)),
        ) => NamedContext::Layout(image),
        None => match self::context(source)? {
            Context::Directory(path) => NamedContext::Directory(path),
            Context::Stdin => {
                return Err(usage(
                    &flag,
                    "a named context does not come from standard input",
                    "give a directory",
                ));
            }
            fetched @ (Context::Git(_) | Context::Url(_)) => NamedContext::Fetched(fetched),
        },
    };
    Ok((name.to_owned(), context))
}

/// Makes a usage failure about a flag.
pub fn usage(flag: &str, why: &str, fix: &str) -> Failure {
    Failure::new(Class::Usage, &["unusable option", flag, why, fix])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_directory_as_context() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        for path in [scratch.path().to_str().expect("a path of text"), ".", "./src", "src/../src"] {
            let (name, context) = named_context(&format!("lib={path}")).expect("the directory is there");
            assert_eq!((name.as_str(), context), ("lib", NamedContext::Directory(path.into())));
        }
        let (_, context) = named_context("lib=oci-layout://d").expect("the layout is looked for later");
        assert!(matches!(context, NamedContext::Layout(_)), "{context:?}");
        assert!(named_context("lib=/nowhere/at/all").is_err());
    }
}
