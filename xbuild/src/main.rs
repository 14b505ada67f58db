//! The binary: arguments, wiring, progress, errors, exit codes.

mod args;
mod bases;
mod commands;
mod environment;
mod failure;
mod fetch;
mod image;
mod images;
mod location;
mod needs;
mod options;
mod progress;
mod registries;
mod sources;
mod whereabouts;
mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use args::{Cli, Command};
use executor::sandbox::Spawner;
use failure::{Class, Failure};
use oci::Store;

fn main() -> ExitCode {
    // The spawner of steps is this program too; it must not get as far as arguments.
    executor::sandbox::reenter();
    let cli = args::parse(std::env::args_os());
    // A panic is a bug: it must not look like a failed step, nor end in half a terminal line.
    let ended = std::panic::catch_unwind(|| run(cli));
    match ended {
        Ok(Ok(code)) => ExitCode::from(code),
        Ok(Err(failure)) => report(&failure),
        Err(_) => report(&Failure::new(
            Class::Internal,
            &[
                "internal error",
                "",
                "xbuild panicked, see above",
                "please report it with the Dockerfile that caused it",
            ],
        )),
    }
}

/// Shows traces on standard error where XBUILD_LOG asks for them: error, warn, info, debug or trace.
fn trace() {
    let level = options::variable("XBUILD_LOG").and_then(|text| text.parse::<tracing::Level>().ok());
    if let Some(level) = level {
        tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).init();
    }
}

fn report(failure: &Failure) -> ExitCode {
    use std::io::Write as _;
    // Nobody may be reading any more; the exit code says the same.
    let _ = std::io::stderr().lock().write_all(failure.report().as_bytes());
    ExitCode::from(failure.class.code())
}

fn run(cli: Cli) -> Result<u8, Failure> {
    trace();
    let root = cli.root;
    match cli.command {
        Command::Build(args) => {
            let json = args.progress == args::Progress::Json && !args.quiet;
            let form = if json { failure::Form::Json } else { failure::Form::Text };
            let built = options::BuildOptions::new(*args)
                .and_then(|options| commands::build::run(options, &root_directory(root)?));
            built.map_err(|failure| Failure { form, ..failure })
        }
        Command::Lint(args) => {
            commands::lint::run(&options::BuildOptions::new(args.into_build())?, &root_directory(root)?)
        }
        Command::Run(args) => commands::run::run(&args, &root_directory(root)?),
        Command::Images(args) => done(commands::images::run(open(root)?.layout(), &args)),
        Command::Inspect(args) => done(commands::inspect::run(&args, root_directory(root)?)),
        Command::History(args) => done(commands::history::run(&args, root_directory(root)?)),
        Command::Tag(args) => done(commands::names::tag(&args, root_directory(root)?)),
        Command::Rmi(args) => {
            done(commands::names::remove(open_to_write(&root_directory(root)?)?.layout(), &args))
        }
        Command::Pull(args) => done(commands::transfer::pull(&args, root_directory(root)?)),
        Command::Push(args) => done(commands::transfer::push(&args, root_directory(root)?)),
        Command::Copy(args) => done(commands::copy::run(&args, root_directory(root)?)),
        Command::Load(args) => done(commands::load::run(&args, root_directory(root)?)),
        Command::Index(args::IndexCommand::Create(args)) => {
            done(commands::index::create(&args, root_directory(root)?))
        }
        Command::Save(args) => done(commands::save::run(&args, &root_directory(root)?)),
        Command::Login(args) => done(commands::login::login(&args)),
        Command::Logout(args) => done(commands::login::logout(&args)),
        Command::Completions { shell } => {
            use clap::CommandFactory as _;
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "xbuild", &mut text);
            done(commands::print(&String::from_utf8_lossy(&text)))
        }
        Command::Debug { table } => done(commands::debug::run(&table)),
    }
}

fn done(result: Result<(), Failure>) -> Result<u8, Failure> {
    result.map(|()| 0)
}

fn open(root: Option<PathBuf>) -> Result<Store, Failure> {
    let store = Store::open(&root_directory(root)?)?;
    mend(&store)?;
    // What killed builds left is removed by whichever command comes next.
    store.sweep()?;
    Ok(store)
}

/// Opens the store for a command that writes to it.
fn open_to_write(root: &Path) -> Result<Store, Failure> {
    let store = Store::open(root)?;
    store.check_writable()?;
    mend(&store)?;
    // What killed builds left is removed by whichever command comes next.
    store.sweep()?;
    Ok(store)
}

/// A list of names that a disk damaged costs the names, not the command.
fn mend(store: &Store) -> Result<(), Failure> {
    if let Some(aside) = store.layout().mend_names()? {
        let (why, path) = (aside.why, aside.path.display());
        commands::tell(&format!(
            "warning: the store's list of image names was damaged ({why}) and begins anew; what was left of it is in {path}; \
             the cache is whole: a build, a pull or `xbuild tag DIGEST NAME` gives an image its name again"
        ));
    }
    Ok(())
}

/// Returns where the store is: the flag, the variable, or the user's place for data.
fn root_directory(flag: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let variable = |name: &str| options::variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(root) = flag.or_else(|| variable("XBUILD_ROOT")) {
        return Ok(root);
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/xbuild"));
    }
    let data = variable("XDG_DATA_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/share")));
    data.map(|data| data.join("xbuild")).ok_or_else(|| {
        Failure::new(
            Class::Usage,
            &["no place for the store", "", "neither HOME nor XDG_DATA_HOME is set", "give --root DIR"],
        )
    })
}

/// Starts the process that starts steps. Must be called before any thread exists.
fn spawner() -> Result<Spawner, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(
            Class::Environment,
            &["cannot isolate steps", "", "building without root is not supported yet", "run xbuild as root"],
        ));
    }
    executor::sandbox::sweep();
    Ok(Spawner::start()?)
}

/// Makes the runtime of a command that talks to registries or runs steps.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        Failure::new(
            failure::io_class(&error, Class::Environment),
            &["cannot start threads", "", &error.to_string()],
        )
    })
}
