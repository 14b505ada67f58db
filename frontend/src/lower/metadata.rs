//! Instructions of the config: they make no steps, only history entries; WORKDIR makes a directory as well.

use std::collections::BTreeMap;
use std::rc::Rc;

use oci::config::Healthcheck;
use serde_json::{Value, json};

use super::command::Command;
use super::state::{State, Work};
use super::words::Scope;
use super::{Lowering, ports, signal, text};
use crate::graph::pattern::join;
use crate::graph::{MkdirOp, Op};
use crate::instruction::{ArgDefinition, Command as Line, KeyValue, Spanned};
use crate::{Diagnostic, expand};

/// Positions in [`Work::seen`].
const CMD: usize = 0;
const ENTRYPOINT: usize = 1;
const HEALTHCHECK: usize = 2;

impl Lowering<'_> {
    pub(super) fn arg(&mut self, work: &mut Work, command: &Command<'_>, arguments: &[ArgDefinition]) {
        let mut words = Vec::with_capacity(arguments.len());
        for argument in arguments {
            let name = &argument.name.value;
            self.check_secret_name(command, "ARG", name, &argument.name);
            let value = match (self.build_arg(name), &argument.default) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => {
                    let scope = Scope::of(&work.state);
                    let Some(value) = self.word(command, &scope, default) else { return };
                    Some(value)
                }
                (None, None) => self.globals.get(name).map(str::to_owned),
            };
            let state = &mut work.state;
            Rc::make_mut(&mut state.args).set(name, value.as_deref().unwrap_or_default());
            // Docker's scanners read these two, and no step sees them.
            let hidden = matches!(name.as_str(), "BUILDKIT_SBOM_SCAN_CONTEXT" | "BUILDKIT_SBOM_SCAN_STAGE");
            words.push(match value {
                Some(value) => {
                    if !hidden {
                        Rc::make_mut(&mut state.env).set(name, &value);
                    }
                    format!("{name}={value}")
                }
                None => name.clone(),
            });
        }
        work.state.record(format!("ARG {}", words.join(" ")));
    }

    pub(super) fn env(&mut self, work: &mut Work, command: &Command<'_>, pairs: &[KeyValue]) {
        let Some(values) = self.pairs(work, command, pairs) else { return };
        let mut created_by = "ENV".to_owned();
        for ((name, value), pair) in values.iter().zip(pairs) {
            self.check_secret_name(command, "ENV", name, &pair.key);
            created_by.extend([" ", name, "=", value]);
            work.state.set_env(name, value);
        }
        work.state.record(created_by);
    }

    pub(super) fn label(&mut self, work: &mut Work, command: &Command<'_>, pairs: &[KeyValue]) {
        let Some(values) = self.pairs(work, command, pairs) else { return };
        let mut created_by = "LABEL".to_owned();
        for (name, value) in values {
            created_by.extend([" ", &name, "=", &value]);
            work.state.config.config.labels.insert(name, value);
        }
        work.state.record(created_by);
    }

    /// Expands pairs with one snapshot of the variables.
    fn pairs(
        &mut self,
        work: &Work,
        command: &Command<'_>,
        pairs: &[KeyValue],
    ) -> Option<Vec<(String, String)>> {
        let scope = Scope::of(&work.state);
        let legacy = pairs.iter().any(|pair| pair.legacy);
        if legacy {
            let keyword = command.instruction.keyword.value.to_uppercase();
            let message = format!(
                "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
            );
            self.warn(command, "LegacyKeyValueFormat", command.span(), message);
        }
        pairs
            .iter()
            .map(|pair| {
                Some((self.word(command, &scope, &pair.key)?, self.word(command, &scope, &pair.value)?))
            })
            .collect()
    }

    pub(super) fn user(&mut self, work: &mut Work, command: &Command<'_>, user: &Spanned<String>) {
        let Some(user) = self.word(command, &Scope::of(&work.state), user) else { return };
        work.state.record(format!("USER {user}"));
        work.state.config.config.user = user;
    }

    pub(super) fn workdir(&mut self, work: &mut Work, command: &Command<'_>, path: &Spanned<String>) {
        let Some(path) = self.word(command, &Scope::of(&work.state), path) else { return };
        if !work.state.workdir_set && !path.starts_with('/') {
            let message =
                format!("Relative workdir {path:?} can have unexpected results if the base image changes");
            self.warn(command, "WorkdirRelativePath", command.span(), message);
        }
        work.state.workdir_set = true;
        let absolute = join(work.state.workdir(), &path);
        // BuildKit writes an absolute path into the config as it stands, also with a slash at its end.
        let written = if path.starts_with('/') { path } else { absolute.clone() };
        let created_by = format!("WORKDIR {written}");
        work.state.config.config.working_dir = written;
        if absolute == "/" {
            return work.state.record(created_by);
        }
        let op = Op::Mkdir(MkdirOp { path: absolute, user: work.state.config.config.user.clone() });
        let step = self.layer_step(work, command, op, Vec::new());
        work.state.advance(created_by, step);
    }

    pub(super) fn cmd(&mut self, work: &mut Work, command: &Command<'_>, line: &Line) {
        self.once(work, command, CMD, "CMD");
        let args = self.line(work, command, line, "CMD");
        work.state.record(format!("CMD {}", text::quoted_list(&args)));
        work.state.config.config.cmd = Some(args);
        // Deprecated in the OCI specification; Docker still writes and reads it.
        work.state.config.config.args_escaped = Some(true);
    }

    pub(super) fn entrypoint(&mut self, work: &mut Work, command: &Command<'_>, line: &Line) {
        self.once(work, command, ENTRYPOINT, "ENTRYPOINT");
        let args = self.line(work, command, line, "ENTRYPOINT");
        work.state.record(format!("ENTRYPOINT {}", text::quoted_list(&args)));
        work.state.config.config.entrypoint = Some(args);
        if work.seen[CMD].is_none() {
            work.state.config.config.cmd = None;
        }
    }

    /// Returns argv of CMD or ENTRYPOINT.
    fn line(&mut self, work: &Work, command: &Command<'_>, line: &Line, name: &str) -> Vec<String> {
        match line {
            Line::Exec(args) => args.clone(),
            Line::Shell(script) => {
                if work.state.config.config.shell.is_none() {
                    let message = format!(
                        "JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
                    );
                    self.warn(command, "JSONArgsRecommended", command.span(), message);
                }
                with_shell(&work.state, script)
            }
        }
    }

    /// Notes an instruction of which only the last counts.
    fn once(&mut self, work: &mut Work, command: &Command<'_>, which: usize, name: &str) {
        if let Some(before) = work.seen[which].replace(command.span()) {
            let message = format!(
                "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
            );
            self.warn(command, "MultipleInstructionsDisallowed", before, message);
        }
    }

    pub(super) fn expose(&mut self, work: &mut Work, command: &Command<'_>, words: &[Spanned<String>]) {
        let scope = Scope::of(&work.state);
        let mut sorted: Vec<&Spanned<String>> = words.iter().collect();
        sorted.sort_by(|a, b| a.value.cmp(&b.value));
        let mut exposed = Vec::new();
        for word in sorted {
            let specs = match expand::words(&word.value, self.file.directives.escape, &scope.lookup()) {
                Ok(expanded) => {
                    self.undefined(command, &scope, word.span, &expanded.unmatched);
                    expanded.words
                }
                Err(error) => return self.error(Diagnostic::error(command.at(word.span), error.to_string())),
            };
            for spec in specs {
                match ports::parse(&spec) {
                    Ok(ports) => {
                        self.check_ports(command, word, &spec, &ports);
                        exposed.extend(ports.ports);
                    }
                    Err(message) => self.error(Diagnostic::error(command.at(word.span), message)),
                }
            }
        }
        drop(scope);
        let known = &mut work.state.config.config.exposed_ports;
        known.extend(exposed.iter().map(|port| (port.clone(), json!({}))));
        work.state.record(format!("EXPOSE {}", text::list(&exposed)));
    }

    fn check_ports(
        &mut self,
        command: &Command<'_>,
        word: &Spanned<String>,
        spec: &str,
        ports: &ports::Ports,
    ) {
        let span = command.at(word.span);
        if ports.odd_case {
            let message = format!("Defined protocol '{spec}' in EXPOSE instruction should be lowercase");
            self.warn(command, "ExposeProtoCasing", span, message);
        }
        if ports.host_part {
            let message = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{spec}'"
            );
            self.warn(command, "ExposeInvalidFormat", span, message);
        }
    }

    pub(super) fn volume(&mut self, work: &mut Work, command: &Command<'_>, words: &[Spanned<String>]) {
        let scope = Scope::of(&work.state);
        let mut paths = Vec::with_capacity(words.len());
        for word in words {
            let Some(path) = self.word(command, &scope, word) else { return };
            if path.is_empty() {
                let message = "VOLUME specified can not be an empty string";
                return self.error(Diagnostic::error(command.at(word.span), message));
            }
            paths.push(path);
        }
        let volumes: &mut BTreeMap<String, Value> = &mut work.state.config.config.volumes;
        volumes.extend(paths.iter().map(|path| (path.clone(), json!({}))));
        work.state.record(format!("VOLUME {}", text::list(&paths)));
    }

    pub(super) fn stop_signal(&mut self, work: &mut Work, command: &Command<'_>, word: &Spanned<String>) {
        let Some(name) = self.word(command, &Scope::of(&work.state), word) else { return };
        if !signal::is_signal(&name) {
            let help = "give a number or a name such as SIGTERM";
            let message = format!("invalid signal: {name}");
            return self.error(Diagnostic::error(command.at(word.span), message).with_help(help));
        }
        work.state.record(format!("STOPSIGNAL {name}"));
        work.state.config.config.stop_signal = Some(name);
    }

    pub(super) fn shell(&mut self, work: &mut Work, shell: &[String]) {
        work.state.config.config.shell = Some(shell.to_vec());
        work.state.record(format!("SHELL {}", text::list(shell)));
    }

    pub(super) fn healthcheck(&mut self, work: &mut Work, command: &Command<'_>, check: &Healthcheck) {
        self.once(work, command, HEALTHCHECK, "HEALTHCHECK");
        work.state.record(format!("HEALTHCHECK {}", text::healthcheck(check)));
        work.state.config.config.healthcheck = Some(check.clone());
    }

    pub(super) fn maintainer(&mut self, work: &mut Work, name: &str) {
        work.state.config.author = Some(name.to_owned());
        work.state.record(format!("MAINTAINER {name}"));
    }

    pub(super) fn onbuild(&mut self, work: &mut Work, trigger: &str) {
        work.state.config.config.on_build.get_or_insert_default().push(trigger.to_owned());
    }

    /// Warns of names that look like secrets, which ARG and ENV do not keep.
    fn check_secret_name(
        &mut self,
        command: &Command<'_>,
        keyword: &str,
        name: &str,
        word: &Spanned<String>,
    ) {
        const SECRET: [&str; 10] = [
            "apikey",
            "auth",
            "credential",
            "credentials",
            "key",
            "password",
            "pword",
            "passwd",
            "secret",
            "token",
        ];
        const HARMLESS: [&str; 3] = ["public", "file", "version"];
        let lower = name.to_ascii_lowercase();
        let has = |known: &[&str]| lower.split('_').any(|part| known.contains(&part));
        if has(&SECRET) && !has(&HARMLESS) {
            let message =
                format!("Do not use ARG or ENV instructions for sensitive data ({keyword} {name:?})");
            self.warn(command, "SecretsUsedInArgOrEnv", command.at(word.span), message);
        }
    }
}

/// Returns argv of a shell script in a state.
pub(super) fn with_shell(state: &State, script: &str) -> Vec<String> {
    let default: &[&str] = match state.config.os.as_str() {
        "windows" => &["cmd", "/S", "/C"],
        _ => &["/bin/sh", "-c"],
    };
    let shell = state.config.config.shell.clone().filter(|shell| !shell.is_empty());
    let mut args = shell.unwrap_or_else(|| default.iter().map(|word| (*word).to_owned()).collect());
    args.push(script.to_owned());
    args
}
