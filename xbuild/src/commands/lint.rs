//! `xbuild lint` and `xbuild build --check`: mistakes of a Dockerfile and what could be better, without a build.
//!
//! Configs of bases are looked up as for a build, since variables and platforms come from there; layers are not
//! fetched, and where a base cannot be had, what depends on it is left out. Findings go to standard output in
//! the form that was asked for, mistakes to standard error as those of a build do.

mod github;
mod gitlab;
mod json;
mod sarif;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use frontend::lint::{self, GitDirectory, Request};
use frontend::lower::{self, Asked, Checked, Entitlement, Known, KnownImage, Need};
use frontend::{Diagnostic, File, Position, Severity};
use oci::Store;

use super::build::inputs::{Inputs, Owner};
use super::build::{dockerfile, lower_options, report};
use crate::args::LintFormat;
use crate::bases::Bases;
use crate::failure::{self, Class, Failure};
use crate::image::StoredImage;
use crate::needs::named;
use crate::options::{BuildOptions, DockerfileSource};
use crate::registries::Registries;
use crate::worker::build::Build;

/// How long bases are looked for. A check has to answer, also where no registry does.
const PATIENCE: Duration = Duration::from_secs(10);

/// Checks the Dockerfile that the options name; returns the exit code.
///
/// # Errors
/// A Dockerfile failure where it holds mistakes, or findings that it calls errors.
pub fn run(options: &BuildOptions, root: &Path) -> Result<u8, Failure> {
    let (inputs, _build) = inputs(options, root)?;
    let source = dockerfile::read(options, &inputs)?;
    let file = frontend::parse(&source.text);
    let context = &inputs.main.path;
    let names: Vec<_> = source.ignore_names.iter().map(std::path::PathBuf::as_path).collect();
    let rules = match inputs.main.owner {
        Owner::User => ignore_rules(context, &names)?,
        Owner::Fetched => None,
    };
    let mut all: Vec<_> = options
        .each_platform()
        .map(|platform| lower_options(options, &inputs, rules.clone(), platform))
        .collect();
    let request = Request { rules: options.lint_rules, git: git_directory(context) };
    let mut checked = Checked::default();
    for lower_options in &mut all {
        // A check grants everything: nothing runs.
        lower_options.allow = [Entitlement::NetworkHost, Entitlement::SecurityInsecure].into();
        lint::check_argument(lower_options)
            .map_err(|why| crate::options::usage("--build-arg BUILDKIT_DOCKERFILE_CHECK", &why, ""))?;
        let more = check(&file, lower_options, request, options, root)?;
        report::merge(&mut checked.warnings, more.warnings);
        report::merge(&mut checked.errors, more.errors);
    }
    let path = path(options, &inputs, &source.name);
    let findings = findings(&file, &path, &checked);
    let print = match options.check.unwrap_or(LintFormat::Text) {
        LintFormat::Text => text::print(&file, &path, &checked.warnings, checked.errors.len()),
        LintFormat::Json => json::print(&findings),
        LintFormat::Sarif => sarif::print(&findings),
        LintFormat::Github => github::print(&findings),
        LintFormat::Gitlab => gitlab::print(&findings),
    };
    super::print(&print)?;
    if !checked.errors.is_empty() {
        return Err(report::mistakes(&file, &path, &checked.errors));
    }
    violation(&file, &all[0], &path, &checked.warnings)?;
    Ok(0)
}

/// Returns contexts, and what keeps those that were fetched.
fn inputs(options: &BuildOptions, root: &Path) -> Result<(Inputs, Option<Arc<Build>>), Failure> {
    if let Some(inputs) = Inputs::at_hand(options) {
        return Ok((inputs, None));
    }
    let store = Arc::new(Store::open(root)?);
    let build = Arc::new(Build::new(Arc::clone(&store)));
    Ok((super::build::fetch_inputs(options, &store, &build)?, Some(build)))
}

/// Returns the Dockerfile's path as seen from the working directory, where annotations look for it.
fn path(options: &BuildOptions, inputs: &Inputs, name: &str) -> String {
    if inputs.main.owner == Owner::Fetched {
        return name.to_owned();
    }
    let context = &inputs.main.path;
    let path = match &options.dockerfile {
        DockerfileSource::Stdin => return name.to_owned(),
        DockerfileSource::Default => context.join(name),
        DockerfileSource::File(path) if path.exists() => path.clone(),
        DockerfileSource::File(path) => context.join(path),
    };
    let here = std::env::current_dir().unwrap_or_default();
    let path = path.strip_prefix(&here).unwrap_or(&path);
    let plain: PathBuf = path.components().filter(|part| *part != std::path::Component::CurDir).collect();
    plain.display().to_string()
}

/// Says whether a context holds a git repository.
pub fn git_directory(context: &Path) -> GitDirectory {
    match std::fs::symlink_metadata(context.join(".git")) {
        Ok(_) => GitDirectory::Present,
        Err(_) => GitDirectory::Absent,
    }
}

/// Fails where the file says `error=true` and something was found.
///
/// # Errors
/// A Dockerfile failure that names the rules.
pub fn violation(
    file: &File,
    options: &lower::Options,
    name: &str,
    warnings: &[Diagnostic],
) -> Result<(), Failure> {
    let rules: BTreeSet<&str> = warnings.iter().filter_map(|warning| warning.rule).collect();
    if rules.is_empty() || !lint::findings_fail(file, options) {
        return Ok(());
    }
    let rules: Vec<&str> = rules.into_iter().collect();
    let what = format!("lint violation found for rules: {}", rules.join(", "));
    let fix = "mend what was found, or skip the rules with `# check=skip=RULE`";
    Err(Failure::new(Class::Dockerfile, &[&what, name, "the file says check=error=true", fix]))
}

fn ignore_rules(
    context: &Path,
    names: &[&Path],
) -> Result<Option<frontend::graph::pattern::ignore::Rules>, Failure> {
    let shown = context.display().to_string();
    let failed = |why: String| Failure::new(Class::Source, &["cannot read the build context", &shown, &why]);
    let root = executor::tree::open_root(context).map_err(|error| failed(error.to_string()))?;
    let ignore = executor::context::ignore_file::read(&Arc::new(root), names);
    Ok(ignore.map_err(|error| failed(failure::chain(&error)))?.map(|file| file.rules))
}

/// Checks, looking up bases until nothing new is asked for.
fn check(
    file: &File,
    lower_options: &lower::Options,
    request: Request,
    options: &BuildOptions,
    root: &Path,
) -> Result<Checked, Failure> {
    let mut known = Known::default();
    let mut asked: BTreeSet<Need> = BTreeSet::new();
    loop {
        let checked = lint::check(file, lower_options, &known, request);
        let new: BTreeMap<Need, Asked> = checked
            .needs
            .iter()
            .filter(|(need, _)| !asked.contains(need))
            .map(|(need, at)| (need.clone(), at.clone()))
            .collect();
        if new.is_empty() {
            return Ok(checked);
        }
        look_up(&new, &mut known, options, root)?;
        asked.extend(new.into_keys());
    }
}

/// Looks bases up; those that cannot be had are told of and left out.
fn look_up(
    needs: &BTreeMap<Need, Asked>,
    known: &mut Known,
    options: &BuildOptions,
    root: &Path,
) -> Result<(), Failure> {
    let store = match Store::open(root) {
        Ok(store) => Arc::new(store),
        Err(error) => {
            note(&format!("bases are not looked at: {}", failure::chain(&error)));
            return Ok(());
        }
    };
    // Attempts that are made again are no news: what counts is whether a base is known in the end.
    let registries = Arc::new(Registries::new(options.registry.clone(), drop));
    let bases = Bases::new(store, registries, options.pull);
    let (_, layouts) = named(&options.contexts);
    let answers =
        crate::runtime()?.block_on(futures_util::future::join_all(needs.keys().map(async |need| {
            let answer = match need {
                Need::Image(need) => {
                    let resolved =
                        tokio::time::timeout(PATIENCE, bases.resolve(&need.reference, &need.platform)).await;
                    resolved.unwrap_or_else(|_| Err(too_slow(&need.reference.to_string())))
                }
                Need::Layout(need) => match layouts.get(&need.context) {
                    Some(location) => bases.import(location, &need.platform).await.map(|(image, _)| image),
                    None => return None,
                },
                // A check asks for no files.
                Need::Selection(_) | Need::Url(_) | Need::Git(_) => return None,
            };
            Some(answer)
        })));
    for (need, answer) in needs.keys().zip(answers) {
        match (need, answer) {
            (_, None) => {}
            (_, Some(Err(failure))) => note(&format!("what depends on this base is left out: {failure}")),
            (Need::Image(need), Some(Ok(image))) => {
                known.images.insert(need.clone(), known_image(need.reference.to_string(), &image));
            }
            (Need::Layout(need), Some(Ok(image))) => {
                known.layouts.insert(need.clone(), known_image(need.context.clone(), &image));
            }
            (Need::Selection(_) | Need::Url(_) | Need::Git(_), Some(Ok(_))) => {}
        }
    }
    Ok(())
}

fn too_slow(name: &str) -> Failure {
    let why = format!("no registry answered within {} s", PATIENCE.as_secs());
    Failure::new(Class::Source, &["cannot look up the base", name, &why])
}

fn known_image(name: String, image: &StoredImage) -> KnownImage {
    KnownImage { name, manifest: image.manifest.digest, config: Arc::from(&image.config.raw[..]) }
}

fn note(text: &str) {
    use std::io::Write as _;
    // Nobody may be reading any more; the findings do not depend on it.
    let _ = writeln!(std::io::stderr().lock(), "note: {text}");
}

/// One finding as machines want it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule; `dockerfile` for mistakes.
    pub rule: &'static str,
    /// How bad.
    pub severity: Severity,
    /// The file.
    pub path: String,
    /// Where BuildKit reports it: the first line of the instruction.
    pub line: u32,
    /// From where.
    pub start: Position,
    /// Up to where, exclusive.
    pub end: Position,
    /// What.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

/// The rule of mistakes, which have none.
const MISTAKE: &str = "dockerfile";

fn findings(file: &File, name: &str, checked: &Checked) -> Vec<Finding> {
    let all = checked.warnings.iter().chain(&checked.errors);
    let finding = |found: &Diagnostic| Finding {
        rule: found.rule.unwrap_or(MISTAKE),
        severity: found.severity,
        path: name.to_owned(),
        line: lint::line(file, found),
        start: file.position(found.span.start),
        end: file.position(found.span.end.max(found.span.start)),
        message: found.message.clone(),
        help: found.help.clone().or_else(|| rule_help(found)),
    };
    all.map(finding).collect()
}

/// Returns what the table of rules says about mending a finding.
fn rule_help(found: &Diagnostic) -> Option<String> {
    found.rule.and_then(lint::rule).map(|rule| rule.help.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A warning within a line, and a mistake over two.
    pub fn samples() -> Vec<Finding> {
        let warning = Finding {
            rule: "UndefinedVar",
            severity: Severity::Warning,
            path: "Dockerfile".to_owned(),
            line: 2,
            start: Position { line: 3, column: 5 },
            end: Position { line: 3, column: 7 },
            message: "Usage of undefined variable '$x'".to_owned(),
            help: Some("declare it".to_owned()),
        };
        let mistake = Finding {
            rule: MISTAKE,
            severity: Severity::Error,
            line: 4,
            start: Position { line: 4, column: 1 },
            end: Position { line: 5, column: 2 },
            message: "bad".to_owned(),
            help: Some("mend it".to_owned()),
            ..warning.clone()
        };
        vec![warning, mistake]
    }

    #[test]
    fn mistakes_and_findings_have_their_places() {
        let file = frontend::parse(b"FROM scratch\nENV a=1 \\\n SECRET=2\n");
        let warning = Diagnostic::warning("SecretsUsedInArgOrEnv", file.instructions[1].span, "m");
        let errors = vec![Diagnostic::error(file.instructions[0].span, "e")];
        let checked = Checked { warnings: vec![warning], errors, ..Checked::default() };
        let findings = findings(&file, "D", &checked);
        let places: Vec<_> = findings.iter().map(|found| (found.rule, found.line, found.end.line)).collect();
        assert_eq!(places, [("SecretsUsedInArgOrEnv", 2, 3), (MISTAKE, 1, 1)]);
        assert!(findings[0].help.as_ref().is_some_and(|help| help.contains("secret")));
    }
}
