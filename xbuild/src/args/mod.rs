//! The command line as typed. Nothing is interpreted here; `options` says what it means.

mod build;
mod images;
mod index;
mod lint;
mod login;
mod registry;
mod transfer;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};
use frontend::suggest;

pub use build::{BuildArgs, Print, Progress, PullWhen};
pub use images::{HistoryArgs, ImagesArgs, InspectArgs, RmiArgs, RunArgs, SaveArgs, TagArgs};
pub use index::{IndexCommand, IndexCreateArgs};
pub use lint::{LintArgs, LintFormat, LintRules};
pub use login::{LoginArgs, LogoutArgs};
pub use registry::{ReachArgs, RegistryArgs};
pub use transfer::{CopyArgs, LoadArgs, PullArgs, PushArgs};

/// Builds OCI images from Dockerfiles, without a daemon.
#[derive(Debug, Parser)]
#[command(name = "xbuild", version, about, max_term_width = 110)]
#[command(after_help = "The word `build` may be left out: `xbuild -t app .` builds the directory `.`.")]
pub struct Cli {
    /// Directory of the store (default: $XBUILD_ROOT, else /var/lib/xbuild)
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Look for mistakes in a Dockerfile, and for what could be better
    Lint(LintArgs),
    /// Run an image in the sandbox of build steps
    Run(RunArgs),
    /// List the images of the store
    Images(ImagesArgs),
    /// Print an image's manifest and config as JSON
    Inspect(InspectArgs),
    /// Show how an image was made, layer by layer
    History(HistoryArgs),
    /// Give an image a further name in the store
    Tag(TagArgs),
    /// Remove names of images from the store
    Rmi(RmiArgs),
    /// Fetch an image into the store
    Pull(PullArgs),
    /// Send an image to its registry
    Push(PushArgs),
    /// Copy an image between store, registries, layouts and archives
    Copy(CopyArgs),
    /// Make indexes of images of several platforms
    #[command(subcommand)]
    Index(IndexCommand),
    /// Write an image to an archive or a directory
    Save(SaveArgs),
    /// Read the images of an archive into the store
    Load(LoadArgs),
    /// Check a user's password with a registry and keep it
    Login(LoginArgs),
    /// Forget the password of a registry
    Logout(LogoutArgs),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Answer questions of test suites, JSON lines in and out
    #[command(hide = true)]
    Debug {
        /// Which table
        table: String,
    },
}

/// Parses the process's arguments. Exits with 2 on a usage error, as clap does.
pub fn parse(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Cli {
    let arguments: Vec<_> = arguments.into_iter().collect();
    if let Some(why) = misspelt(&arguments, |word| Path::new(word).exists()) {
        Cli::command().error(ErrorKind::InvalidSubcommand, why).exit();
    }
    Cli::parse_from(with_build(arguments))
}

/// Returns the position of the first argument that is not about the store: a command, or the first of a build's.
fn first(arguments: &[OsString]) -> usize {
    let mut position = 1;
    while let Some(argument) = arguments.get(position).map(|argument| argument.to_string_lossy()) {
        match argument.as_ref() {
            "--root" => position += 2,
            other if other.starts_with("--root=") => position += 1,
            _ => break,
        }
    }
    position
}

fn is_command(word: &str) -> bool {
    word == "help" || Cli::command().get_subcommands().any(|command| command.get_name() == word)
}

/// Puts the word `build` before the arguments of a build that left it out.
fn with_build(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let position = first(&arguments);
    match arguments.get(position).map(|argument| argument.to_string_lossy()).as_deref() {
        None | Some("-h" | "--help" | "-V" | "--version") => {}
        Some(word) if is_command(word) => {}
        Some(_) => arguments.insert(position, "build".into()),
    }
    arguments
}

/// Says of a word that is no command, is like one, and is nothing that could be built, what it may mean.
fn misspelt(arguments: &[OsString], exists: impl Fn(&str) -> bool) -> Option<String> {
    let word = arguments.get(first(arguments))?.to_str()?;
    let is_word =
        word.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-') && !word.starts_with('-');
    if !is_word || is_command(word) || exists(word) {
        return None;
    }
    let cli = Cli::command();
    let commands =
        cli.get_subcommands().filter(|command| !command.is_hide_set()).map(clap::Command::get_name);
    // Two edits make a short word another one; the first letter is hardly ever wrong.
    let alike: Vec<_> =
        commands.filter(|command| command.as_bytes()[0] == word.as_bytes()[0].to_ascii_lowercase()).collect();
    let command = suggest::nearest(word, &alike)?;
    Some(format!("no such command `{word}`, and no such directory — did you mean `{command}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expect: &str) {
        let arguments = line.split(' ').map(Into::into).collect();
        let words: Vec<_> =
            with_build(arguments).into_iter().map(|word| word.into_string().unwrap()).collect();
        assert_eq!(words.join(" "), expect);
    }

    #[test]
    fn the_word_build_may_be_left_out() {
        check("xbuild -t a .", "xbuild build -t a .");
        check("xbuild --root /s .", "xbuild --root /s build .");
        check("xbuild --root=/s images", "xbuild --root=/s images");
        check("xbuild build images", "xbuild build images");
        check("xbuild ./images", "xbuild build ./images");
        check("xbuild --version", "xbuild --version");
        check("xbuild", "xbuild");
    }

    #[test]
    fn a_misspelt_command_is_no_context() {
        let check = |line: &str, expect: Option<&str>| {
            let arguments: Vec<OsString> = line.split(' ').map(Into::into).collect();
            let told = misspelt(&arguments, |path| path == "puhs-dir");
            assert_eq!(told.is_some(), expect.is_some(), "{line}: {told:?}");
            let part = expect.map(|command| format!("did you mean `{command}`?")).unwrap_or_default();
            assert!(told.unwrap_or_default().ends_with(&part), "{line}");
        };
        check("xbuild bulid a", Some("build"));
        check("xbuild --root /s puhs x", Some("push"));
        check("xbuild image", Some("images"));
        check("xbuild Push", Some("push"));
        check("xbuild puhs-dir", None);
        for line in ["xbuild push x", "xbuild app", "xbuild ./bulid", "xbuild -t bulid", "xbuild .", "xbuild"]
        {
            check(line, None);
        }
        check("xbuild git@h:bulid", None);
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_is_taken_for_a_context() {
        for command in Cli::command().get_subcommands().map(|command| command.get_name().to_owned()) {
            check(&format!("xbuild {command}"), &format!("xbuild {command}"));
        }
        check("xbuild help", "xbuild help");
    }
}
