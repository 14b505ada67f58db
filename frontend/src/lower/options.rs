//! What the user asked for, as far as it decides what a Dockerfile means.
//!
//! It holds no path that is opened and nothing about outputs or registries.

use std::collections::{BTreeMap, BTreeSet};

use oci::Platform;
use oci::reference::Reference;

use crate::graph::pattern::ignore::Rules;
use crate::graph::{ExtraHost, Network, Ulimit};

/// Options of lowering.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--target`: a stage's name or index.
    pub target: Option<String>,
    /// `--build-arg`, in order; the last of a name wins.
    pub build_args: Vec<(String, String)>,
    /// `--label`, in order.
    pub labels: Vec<(String, String)>,
    /// `--platform`; `None` is the build platform, and the image keeps what its base says.
    pub platform: Option<Platform>,
    /// The platform of this machine.
    pub build_platform: Platform,
    /// `--network`, for steps that ask for none in particular.
    pub network: Network,
    /// `--no-cache` and `--no-cache-filter`.
    pub no_cache: NoCache,
    /// SOURCE_DATE_EPOCH in seconds; a build argument of the name wins.
    pub source_date_epoch: Option<i64>,
    /// Times of contexts that have one, for `SOURCE_DATE_EPOCH=context` and `=NAME`: a commit's, Last-Modified,
    /// or that of the newest entry of an archive. The main context's name is empty.
    pub context_times: BTreeMap<String, Option<i64>>,
    /// `--add-host`.
    pub extra_hosts: Vec<ExtraHost>,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--shm-size` in bytes.
    pub shm_size: Option<u64>,
    /// `--build-context`, by name as the user wrote it.
    pub contexts: BTreeMap<String, Context>,
    /// Lower stages that the target does not need too.
    pub all_stages: bool,
    /// `--allow`.
    pub allow: BTreeSet<Entitlement>,
    /// The main context's ignore rules, for warnings only.
    pub ignore: Option<Rules>,
}

impl Default for Options {
    /// What an `xbuild .` without flags asks for.
    fn default() -> Self {
        Self {
            target: None,
            build_args: Vec::new(),
            labels: Vec::new(),
            platform: None,
            build_platform: Platform::host(),
            network: Network::Default,
            no_cache: NoCache::Off,
            source_date_epoch: None,
            context_times: BTreeMap::new(),
            extra_hosts: Vec::new(),
            ulimits: Vec::new(),
            shm_size: None,
            contexts: BTreeMap::new(),
            all_stages: false,
            allow: BTreeSet::new(),
            ignore: None,
        }
    }
}

/// Which steps run although the cache has results.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NoCache {
    /// None.
    #[default]
    Off,
    /// All.
    All,
    /// Those of these stages.
    Stages(Vec<String>),
}

/// What a named context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Context {
    /// Files: a directory, git repository or archive that the caller opens. Selected from by
    /// [`super::SelectionNeed`].
    Files,
    /// An image of a registry or the store.
    Image(Reference),
    /// An image in an OCI layout directory, asked for by [`super::LayoutNeed`].
    OciLayout,
}

/// A permission that a build must be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entitlement {
    /// `network.host`; `--network host` grants it too.
    NetworkHost,
    /// `security.insecure`.
    SecurityInsecure,
}

impl Entitlement {
    /// Returns the name in `--allow`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
        }
    }

    /// Returns the entitlement of a name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::NetworkHost, Self::SecurityInsecure].into_iter().find(|known| known.name() == name)
    }
}

impl Options {
    /// Returns the platform of the image.
    pub fn target_platform(&self) -> &Platform {
        self.platform.as_ref().unwrap_or(&self.build_platform)
    }

    /// Returns a build argument.
    pub fn build_arg(&self, name: &str) -> Option<&str> {
        self.build_args.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether an entitlement was granted.
    pub fn allows(&self, entitlement: Entitlement) -> bool {
        let by_network = entitlement == Entitlement::NetworkHost && self.network == Network::Host;
        by_network || self.allow.contains(&entitlement)
    }

    /// Returns the named context of a stage or image name, with the key under which the user gave it. The
    /// names are compared as image names: `alpine`, `alpine:latest` and `docker.io/library/alpine` are one;
    /// `NAME::PLATFORM` is for one platform.
    pub fn context(&self, name: &str, platform: &Platform) -> Option<(&str, &Context)> {
        if matches!(name, "scratch" | "context") {
            return None;
        }
        let wanted = familiar(name);
        let suffix = format!("::{}", platform.normalize());
        let find = |suffix: &str| {
            self.contexts
                .iter()
                .find(|(key, _)| key.strip_suffix(suffix).is_some_and(|key| familiar(key) == wanted))
        };
        find(&suffix).or_else(|| find("")).map(|(key, context)| (key.as_str(), context))
    }
}

/// Returns the short form of an image name without `:latest`; what is no image name stays.
fn familiar(name: &str) -> String {
    let Ok(reference) = name.parse::<Reference>() else { return name.to_lowercase() };
    let familiar = reference.familiar();
    familiar.strip_suffix(":latest").map_or(familiar.clone(), str::to_owned)
}
