//! The end: the target's state becomes a definition.

use oci::ImageConfig;

use super::Lowering;
use super::plan::Needed;
use super::state::State;
use crate::graph::{Definition, HistoryEntry, ImageDefinition};

impl Lowering<'_> {
    /// Returns the definition of the target, which was lowered without errors.
    pub(super) fn finish(mut self, target: usize, needed: &Needed) -> Box<Definition> {
        let history = self.history(target);
        let state = self.states.remove(&target).expect("every needed stage was lowered");
        let config = self.image_config(&state);
        let also = needed
            .order
            .iter()
            .filter(|index| !needed.by_target.contains(index))
            .filter_map(|index| self.states.get(index)?.step)
            .collect();
        let skipped = self.stages.stages.iter().filter(|stage| !needed.by_target.contains(&stage.index));
        let skipped = skipped.map(|stage| stage.title()).collect();
        let image = ImageDefinition {
            target: state.step,
            also,
            platform: config.platform(),
            config,
            history,
            source_date_epoch: self.epoch,
            stage: self.stages.stages[target].title(),
            skipped,
        };
        Box::new(Definition { graph: self.graph, image })
    }

    /// Returns the entries of a stage and of the stages below it, oldest first.
    fn history(&self, target: usize) -> Vec<HistoryEntry> {
        let chain = std::iter::successors(Some(target), |index| self.states.get(index)?.base);
        let mut parts: Vec<&[HistoryEntry]> =
            chain.filter_map(|index| Some(self.states.get(&index)?.history.as_slice())).collect();
        parts.reverse();
        parts.concat()
    }

    /// Returns the image's config: environment and labels in place, platform as asked for.
    fn image_config(&self, state: &State) -> ImageConfig {
        let mut config = state.config.clone();
        config.config.env = state.config_env.to_config();
        config.config.labels.extend(self.options.labels.iter().cloned());
        if let Some(wanted) = &self.options.platform {
            let same = wanted.os == config.os && wanted.architecture == config.architecture;
            let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            config.os.clone_from(&wanted.os);
            config.architecture.clone_from(&wanted.architecture);
            if !wanted.variant.is_empty() || !same {
                config.variant = text(&wanted.variant);
            }
            if !wanted.os_version.is_empty() || !same {
                config.os_version = text(&wanted.os_version);
            }
        }
        let normal = config.platform().normalize();
        config.variant = (!normal.variant.is_empty()).then_some(normal.variant);
        (config.os, config.architecture) = (normal.os, normal.architecture);
        config
    }
}
