//! RUN steps of other machines: told before anything runs, where nothing here can start their programs.
//!
//! A stage that only copies files needs no emulator, whatever its platform.

use std::collections::BTreeMap;
use std::path::Path;

use frontend::graph::{Op, StepGraph, StepId};
use frontend::lower::Known;
use oci::{Digest, ImageConfig, Platform};
use solver::{Plan, Verdict};

use super::binfmt::{self, Emulation};
use super::report;
use crate::failure::{Class, Failure};

/// What machines the base images are made for, whichever was asked for: an image that is not an index is taken as it is.
#[derive(Debug, Default)]
pub struct Machines(BTreeMap<Digest, Platform>);

/// A RUN step and the machine that its programs are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    step: StepId,
    machine: Platform,
}

impl Machines {
    /// Takes them from the configs that lowering got to know.
    pub fn of(known: &Known) -> Self {
        let images = known.images.values().chain(known.layouts.values());
        let machine = |config: &[u8]| {
            let config: ImageConfig = serde_json::from_slice(config).ok()?;
            let platform = Platform { os_version: String::new(), ..config.platform() };
            (!platform.os.is_empty() && !platform.architecture.is_empty()).then_some(platform)
        };
        Self(images.filter_map(|image| Some((image.manifest, machine(&image.config)?))).collect())
    }

    /// Returns the RUN steps whose programs this machine does not run by itself.
    pub fn foreign(&self, graph: &StepGraph) -> Vec<Foreign> {
        // The machine of the image that a step stands on. Without one it is that of the step's own platform, not of
        // what it stands on, which may be files that several platforms share.
        let mut bases: Vec<Option<&Platform>> = Vec::with_capacity(graph.len());
        let mut foreign = Vec::new();
        for (id, step) in graph.iter() {
            let own = match &step.op {
                Op::Image(image) => self.0.get(&image.manifest),
                Op::OciLayout(image) => self.0.get(&image.manifest),
                Op::Local(_) | Op::Git(_) | Op::Http(_) | Op::Run(_) | Op::Copy(_) | Op::Mkdir(_) => None,
            };
            let base = own.or_else(|| bases[step.parent?.0 as usize]);
            bases.push(base);
            let machine = base.unwrap_or(&step.platform);
            if matches!(step.op, Op::Run(_)) && !is_native(machine) {
                foreign.push(Foreign { step: id, machine: machine.clone() });
            }
        }
        foreign
    }
}

/// Newer variants of this machine's architecture are tried: whether the processor has what they want only it knows.
fn is_native(machine: &Platform) -> bool {
    let (host, machine) = (Platform::host().normalize(), machine.normalize());
    host.accepts(&machine) || (host.os == machine.os && host.architecture == machine.architecture)
}

/// Fails for the first step that has to run and cannot.
///
/// # Errors
/// An environment failure that names step, line, platform and the ways out.
pub fn check(foreign: &[Foreign], plan: &Plan, graph: &StepGraph, name: &str) -> Result<(), Failure> {
    let runs = |foreign: &&Foreign| {
        matches!(plan.get(foreign.step).map(|planned| &planned.verdict), Some(Verdict::Miss(_)))
    };
    let mut known: BTreeMap<String, Emulation> = BTreeMap::new();
    for step in foreign.iter().filter(runs) {
        let machine = step.machine.normalize();
        let found = known
            .entry(machine.to_string())
            .or_insert_with(|| binfmt::emulation(&machine, Path::new(binfmt::REGISTERED)));
        if let Some((why, fix)) = told(found, &machine) {
            let what = format!("cannot run a step of {machine} on {}", Platform::host());
            let place = report::describe(graph, step.step, name);
            return Err(Failure::new(Class::Environment, &[&what, &place, &why, &fix]));
        }
    }
    Ok(())
}

/// Why it cannot be, and what to do; nothing where it can.
fn told(found: &Emulation, machine: &Platform) -> Option<(String, String)> {
    let cross = "or compile in a stage of `FROM --platform=$BUILDPLATFORM` and COPY the result";
    Some(match found {
        Emulation::Works => return None,
        Emulation::Impossible => (
            format!("programs of {} do not run on Linux", machine.os),
            "COPY files that were made elsewhere, or in a stage of `FROM --platform=$BUILDPLATFORM`"
                .to_owned(),
        ),
        Emulation::Missing => (
            format!("no emulator for {} is registered with the kernel (binfmt_misc)", machine.architecture),
            match binfmt::installed(&machine.architecture, Path::new("/usr/bin")) {
                Some(path) => format!("register the one that is installed, {}, {cross}", path.display()),
                None => format!("install qemu-user-static with binfmt-support on this host, {cross}"),
            },
        ),
        Emulation::Disabled { name } => (
            format!("its emulator is switched off: {}/{name}", binfmt::REGISTERED),
            format!("write 1 to that file, {cross}"),
        ),
        Emulation::NotFixed { name, interpreter } => (
            format!(
                "its emulator {interpreter} is not seen by steps: {}/{name} lacks the flag F",
                binfmt::REGISTERED
            ),
            format!("register it with the flag F (\"fix_binary yes\"), {cross}"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use frontend::graph::{ImageOp, Label, RunOp, Step};

    use super::*;

    fn step(op: Op, platform: &str, parent: Option<u32>) -> Step {
        Step {
            op,
            parent: parent.map(StepId),
            inputs: Vec::new(),
            platform: platform.parse().unwrap(),
            source_date_epoch: None,
            no_cache: false,
            label: Label::default(),
        }
    }

    fn check(base: Option<&str>, platform: &str, expect: bool) {
        let manifest = Digest::of(b"base");
        let machines = base.map(|base| (manifest, base.parse().unwrap())).into_iter().collect();
        let mut graph = StepGraph::default();
        let image = ImageOp { reference: String::new(), manifest, platform: platform.parse().unwrap() };
        graph.push(step(Op::Image(image), platform, None));
        graph.push(step(Op::Run(RunOp::default()), platform, base.map(|_| 0)));
        let foreign = Machines(machines).foreign(&graph);
        assert_eq!(!foreign.is_empty(), expect, "{base:?} {platform}");
    }

    #[test]
    fn files_that_platforms_share_tell_nothing() {
        let mut graph = StepGraph::default();
        let files = Op::Mkdir(frontend::graph::MkdirOp { path: "/a".to_owned(), user: String::new() });
        graph.push(step(files, &Platform::host().to_string(), None));
        graph.push(step(Op::Run(RunOp::default()), "linux/s390x", Some(0)));
        let foreign = Machines::default().foreign(&graph);
        assert_eq!(foreign.iter().map(|one| one.machine.to_string()).collect::<Vec<_>>(), ["linux/s390x"]);
    }

    #[test]
    fn the_base_tells_the_machine_and_nobody_else_where_there_is_one() {
        let host = Platform::host().to_string();
        check(None, &host, false);
        check(Some(&host), &host, false);
        check(Some(&host), "linux/s390x", false);
        check(Some("linux/s390x"), &host, true);
        check(None, "linux/s390x", true);
        check(None, "windows/amd64", true);
    }
}
