//! The byte encoding of steps, on which cache keys rest.
//!
//! Every field is written as an 8-byte little-endian length followed by its bytes; numbers are 8 bytes little
//! endian without a length; lists are their count followed by their elements; an absent option is the number 0
//! and a present one is 1 followed by the value; an enum is its discriminant as given here. The first field is a
//! version tag. Any change of this encoding needs a new tag, and the known-answer tests below must be changed
//! with it.

use oci::Platform;

use super::op::{
    BindMount, CacheMount, CacheSharing, Chmod, CopyOp, CopySource, InlineFile, Mount, Network, Op, Owner,
    RunOp, Security, Unpack,
};
use super::{OpDigest, Step};

/// Writes unambiguous bytes into a blake3 state.
pub(super) struct Encoder(blake3::Hasher);

impl Encoder {
    /// Starts an encoding with its version tag.
    pub(super) fn new(tag: &str) -> Self {
        let mut encoder = Self(blake3::Hasher::new());
        encoder.text(tag);
        encoder
    }

    /// Adds bytes with their length.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    /// Adds a text with its length.
    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Adds a number.
    pub(super) fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    /// Adds a list of texts.
    fn texts<'a>(&mut self, texts: impl ExactSizeIterator<Item = &'a String>) {
        self.number(texts.len() as u64);
        texts.for_each(|text| self.text(text));
    }

    /// Adds an optional value.
    fn option<T>(&mut self, value: Option<T>, add: impl FnOnce(&mut Self, T)) {
        self.number(u64::from(value.is_some()));
        if let Some(value) = value {
            add(self, value);
        }
    }

    /// Returns the hash.
    pub(super) fn finish(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// Returns the digest of a step's own encoding.
pub(super) fn digest(step: &Step) -> OpDigest {
    let mut encoder = Encoder::new("xbuild-step-2");
    let Platform { os, architecture, variant, .. } = &step.platform;
    for part in [os, architecture, variant] {
        encoder.text(if depends_on_platform(&step.op) { part } else { "" });
    }
    encoder.option(step.source_date_epoch, |encoder, epoch| encoder.number(epoch.cast_unsigned()));
    match &step.op {
        Op::Image(image) => {
            encoder.number(1);
            encoder.text(&image.manifest.to_string());
        }
        Op::Local(local) => {
            encoder.number(2);
            encoder.bytes(&local.selection.content().0);
        }
        Op::Git(git) => {
            encoder.number(3);
            encoder.text(&git.commit);
            encoder.text(&git.subdir);
            encoder.number(u64::from(git.keep_git_dir));
            encoder.number(u64::from(git.submodules));
        }
        Op::Http(http) => {
            encoder.number(4);
            encoder.text(&http.digest.to_string());
            encoder.text(&http.filename);
            encoder.option(http.last_modified, |encoder, time| encoder.number(time.cast_unsigned()));
        }
        Op::OciLayout(layout) => {
            encoder.number(1); // the same bytes as an image of a registry
            encoder.text(&layout.manifest.to_string());
        }
        Op::Run(run) => {
            encoder.number(6);
            encode_run(&mut encoder, run);
        }
        Op::Copy(copy) => {
            encoder.number(7);
            encode_copy(&mut encoder, copy);
        }
        Op::Mkdir(mkdir) => {
            encoder.number(8);
            encoder.text(&mkdir.path);
            encoder.text(&mkdir.user);
        }
    }
    OpDigest(encoder.finish())
}

/// Returns whether a step is of a platform: files land on a parent in the same way, whatever it is for; commands and images are of a platform.
pub(super) fn depends_on_platform(op: &Op) -> bool {
    match op {
        Op::Image(_) | Op::Local(_) | Op::Git(_) | Op::Http(_) | Op::OciLayout(_) | Op::Run(_) => true,
        Op::Copy(_) | Op::Mkdir(_) => false,
    }
}

fn encode_run(encoder: &mut Encoder, run: &RunOp) {
    encoder.texts(run.args.iter());
    encoder.number(run.env.len() as u64);
    for (name, value) in &run.env {
        encoder.text(name);
        encoder.text(value);
    }
    encoder.text(&run.cwd);
    encoder.text(&run.user);
    encoder.number(run.mounts.len() as u64);
    run.mounts.iter().for_each(|mount| encode_mount(encoder, mount));
    encoder.number(run.files.len() as u64);
    run.files.iter().for_each(|file| encode_inline(encoder, file));
    encoder.number(match run.network {
        Network::Default => 0,
        Network::None => 1,
        Network::Host => 2,
    });
    encoder.number(match run.security {
        Security::Sandbox => 0,
        Security::Insecure => 1,
    });
    encoder.texts(run.extra_hosts.iter().map(|host| &host.name));
    encoder.number(run.ulimits.len() as u64);
    for limit in &run.ulimits {
        encoder.text(&limit.name);
        encoder.number(limit.soft.cast_unsigned());
        encoder.number(limit.hard.cast_unsigned());
    }
    encoder.option(run.shm_size, Encoder::number);
    encoder.text(&run.hostname);
}

fn encode_mount(encoder: &mut Encoder, mount: &Mount) {
    match mount {
        Mount::Bind(BindMount { input, source, target, writable }) => {
            encoder.number(1);
            encoder.number(*input as u64);
            encoder.text(source);
            encoder.text(target);
            encoder.number(u64::from(*writable));
        }
        Mount::Cache(CacheMount { id, target, sharing, from, mode, uid, gid, read_only }) => {
            encoder.number(2);
            encoder.text(id);
            encoder.text(target);
            encoder.number(match sharing {
                CacheSharing::Shared => 0,
                CacheSharing::Private => 1,
                CacheSharing::Locked => 2,
            });
            encoder.option(from.as_ref(), |encoder, (input, path)| {
                encoder.number(*input as u64);
                encoder.text(path);
            });
            [*mode, *uid, *gid, u32::from(*read_only)]
                .into_iter()
                .for_each(|number| encoder.number(u64::from(number)));
        }
        Mount::Tmpfs(tmpfs) => {
            encoder.number(3);
            encoder.text(&tmpfs.target);
            encoder.option(tmpfs.size, Encoder::number);
        }
        Mount::Secret(secret) => {
            encoder.number(4);
            encoder.text(&secret.id);
            encoder.option(secret.target.as_deref(), Encoder::text);
            encoder.option(secret.env.as_deref(), Encoder::text);
            [u32::from(secret.required), secret.mode, secret.uid, secret.gid]
                .into_iter()
                .for_each(|number| encoder.number(u64::from(number)));
        }
        Mount::Ssh(ssh) => {
            encoder.number(5);
            encoder.text(&ssh.id);
            encoder.text(&ssh.target);
            [u32::from(ssh.required), ssh.mode, ssh.uid, ssh.gid]
                .into_iter()
                .for_each(|number| encoder.number(u64::from(number)));
        }
    }
}

fn encode_copy(encoder: &mut Encoder, copy: &CopyOp) {
    encoder.number(copy.sources.len() as u64);
    for source in &copy.sources {
        match source {
            CopySource::Input { input, path, wildcards } => {
                encoder.number(1);
                encoder.number(*input as u64);
                encoder.text(path);
                encoder.number(u64::from(*wildcards));
            }
            CopySource::Inline(file) => {
                encoder.number(2);
                encode_inline(encoder, file);
            }
        }
    }
    encoder.text(&copy.dest);
    encoder.number(u64::from(copy.dest_is_dir));
    encoder.option(copy.chown.as_ref(), |encoder, Owner { user, group }| {
        encoder.text(user);
        encoder.option(group.as_deref(), Encoder::text);
    });
    encoder.option(copy.chmod.as_ref(), |encoder, chmod| match chmod {
        Chmod::Octal(bits) => {
            encoder.number(1);
            encoder.number(u64::from(*bits));
        }
        Chmod::Symbolic(clauses) => {
            encoder.number(2);
            encoder.text(clauses);
        }
    });
    encoder.number(u64::from(copy.link));
    encoder.number(u64::from(copy.parents));
    encoder.texts(copy.excludes.iter());
    encoder.number(match copy.unpack {
        Unpack::Never => 0,
        Unpack::Archives => 1,
    });
}

fn encode_inline(encoder: &mut Encoder, file: &InlineFile) {
    encoder.text(&file.name);
    encoder.bytes(&file.data);
    encoder.number(u64::from(file.mode));
}
