//! RUN: argv, environment, network and security of a step.

use super::command::Command;
use super::metadata::with_shell;
use super::state::{State, Work};
use super::words::Scope;
use super::{Lowering, Options, epoch};
use crate::graph::pattern::clean;
use crate::graph::{Op, RunOp};
use crate::instruction::{Command as Line, Run};

/// Variables that Docker passes into steps without an ARG, and that no key and no history holds.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

impl Lowering<'_> {
    /// Lowers RUN.
    pub(super) fn run(&mut self, work: &mut Work, command: &Command<'_>, run: &Run) {
        let args = match &run.command {
            Line::Exec(args) => args.clone(),
            Line::Shell(script) => with_shell(&work.state, script),
        };
        let scope = Scope::of(&work.state);
        let Some((mounts, inputs)) = self.mounts(work, command, &scope, &run.mounts) else { return };
        let created_by = created_by(&args, &work.state);
        let op = Op::Run(RunOp {
            args,
            env: self.environment(&work.state),
            proxy_env: proxies(self.options),
            cwd: clean(work.state.workdir()),
            user: work.state.config.config.user.clone(),
            mounts,
            files: run.files.clone(),
            network: run.network.as_ref().map_or(self.options.network, |network| network.value),
            security: run.security.as_ref().map_or_else(Default::default, |security| security.value),
            extra_hosts: self.options.extra_hosts.clone(),
            ulimits: self.options.ulimits.clone(),
            shm_size: self.options.shm_size,
            hostname: self.options.build_arg("BUILDKIT_SANDBOX_HOSTNAME").unwrap_or_default().to_owned(),
        });
        let step = self.layer_step(work, command, op, inputs);
        work.state.advance(created_by, step);
    }

    fn environment(&self, state: &State) -> Vec<(String, String)> {
        let added = self.epoch.filter(|_| state.env.get(epoch::NAME).is_none());
        let added = added.map(|seconds| (epoch::NAME.to_owned(), seconds.to_string()));
        state.env.iter().cloned().chain(added).collect()
    }
}

/// Returns proxy variables of the build arguments in both cases.
fn proxies(options: &Options) -> Vec<(String, String)> {
    let given = |name: &str| {
        let value = options.build_args.iter().rev().find(|(known, _)| known.eq_ignore_ascii_case(name));
        value.map(|(_, value)| value.clone())
    };
    PROXIES
        .into_iter()
        .filter_map(|name| Some((name, given(name)?)))
        .flat_map(|(name, value)| [(name.to_owned(), value.clone()), (name.to_ascii_lowercase(), value)])
        .collect()
}

/// Returns the history text: declared ARGs with their values in force, then argv.
fn created_by(args: &[String], state: &State) -> String {
    let mut text = "RUN".to_owned();
    if state.args.iter().len() > 0 {
        text.push_str(&format!(" |{}", state.args.iter().len()));
        for (name, value) in state.args.iter() {
            text.extend([" ", name, "=", state.env.get(name).unwrap_or(value)]);
        }
    }
    for arg in args {
        text.extend([" ", arg]);
    }
    text.push_str(" # buildkit");
    text
}
