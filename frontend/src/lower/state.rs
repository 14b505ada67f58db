//! What is known after an instruction of a stage: file system, environment, config, history.

use std::rc::Rc;

use oci::{History, ImageConfig, Platform};

use super::variables::Variables;
use crate::graph::{HistoryEntry, StepId};
use crate::instruction::Span;

/// The comment of BuildKit's history entries, by which scanners recognise its images.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// PATH of images that have none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The state of a stage; cheap to copy for stages that start from it.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// The step that made the file system; `None` is an empty one.
    pub(super) step: Option<StepId>,
    /// What it is for.
    pub(super) platform: Platform,
    /// Config, its environment apart.
    pub(super) config: ImageConfig,
    /// The config's environment.
    pub(super) config_env: Rc<Variables>,
    /// What expansion and RUN see: ENV and ARG, the later declaration wins.
    pub(super) env: Rc<Variables>,
    /// Declared ARGs with their values, for the history.
    pub(super) args: Rc<Variables>,
    /// History entries of this stage alone.
    pub(super) history: Vec<HistoryEntry>,
    /// The stage whose history comes before.
    pub(super) base: Option<usize>,
    /// A WORKDIR stood in the file.
    pub(super) workdir_set: bool,
    /// The base is not known yet: nothing but needs can be found out.
    pub(super) unknown: bool,
}

impl State {
    /// Returns the state of an image with this config.
    pub(super) fn of_config(mut config: ImageConfig, platform: Platform, step: Option<StepId>) -> Self {
        let mut env = Variables::of_config(&std::mem::take(&mut config.config.env));
        if env.get("PATH").is_none() && platform.os != "windows" {
            env.set("PATH", DEFAULT_PATH);
        }
        let env = Rc::new(env);
        Self {
            step,
            platform,
            config,
            config_env: Rc::clone(&env),
            env,
            args: Rc::default(),
            history: Vec::new(),
            base: None,
            workdir_set: false,
            unknown: false,
        }
    }

    /// Returns the state of `FROM scratch`.
    pub(super) fn scratch(platform: &Platform) -> Self {
        Self::of_config(empty_config(platform), platform.clone(), None)
    }

    /// Returns the state with which a stage based on stage `index` begins. ENV beats an ARG that the base
    /// declared after it, and triggers are not passed on.
    pub(super) fn child(&self, index: usize) -> Self {
        let mut child = Self { history: Vec::new(), base: Some(index), ..self.clone() };
        child.config.config.on_build = None;
        let differs = child.config_env.iter().any(|(name, value)| child.env.get(name) != Some(value));
        if differs {
            let env = Rc::make_mut(&mut child.env);
            self.config_env.iter().for_each(|(name, value)| env.set(name, value));
        }
        child
    }

    /// Sets a variable of the config and of RUN.
    pub(super) fn set_env(&mut self, name: &str, value: &str) {
        Rc::make_mut(&mut self.config_env).set(name, value);
        Rc::make_mut(&mut self.env).set(name, value);
    }

    /// Returns the absolute working directory.
    pub(super) fn workdir(&self) -> &str {
        match self.config.config.working_dir.as_str() {
            "" => "/",
            directory => directory,
        }
    }

    /// Adds an entry without a layer.
    pub(super) fn record(&mut self, created_by: String) {
        self.push(created_by, None);
    }

    /// Adds the entry of a step's layer and makes the step the file system.
    pub(super) fn advance(&mut self, created_by: String, step: StepId) {
        self.push(created_by, Some(step));
        self.step = Some(step);
    }

    fn push(&mut self, created_by: String, step: Option<StepId>) {
        let comment = Some(COMMENT.to_owned());
        let history = History { created_by: Some(created_by), comment, ..History::default() };
        self.history.push(HistoryEntry { history, step });
    }
}

/// Returns the config of an image of nothing.
pub(super) fn empty_config(platform: &Platform) -> ImageConfig {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: text(&platform.variant),
        os_version: text(&platform.os_version),
        ..ImageConfig::default()
    };
    config.config.working_dir = "/".to_owned();
    config
}

/// A stage while it is lowered.
#[derive(Debug)]
pub(super) struct Work {
    /// Which stage.
    pub(super) index: usize,
    /// Its name or index.
    pub(super) title: String,
    /// What is known.
    pub(super) state: State,
    /// Steps so far.
    pub(super) position: u32,
    /// Steps in all.
    pub(super) total: u32,
    /// Its steps run although the cache has results.
    pub(super) no_cache: bool,
    /// The last CMD, ENTRYPOINT and HEALTHCHECK of this stage.
    pub(super) seen: [Option<Span>; 3],
}
