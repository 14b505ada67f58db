//! Known answers of the encoding: a digest that changes here makes every cache of every user useless, so it
//! changes only together with the version tag.

use std::sync::Arc;

use oci::layer::{ContentHash, Entry, Kind, Mtime};
use oci::{Digest, Platform};

use super::*;

fn platform() -> Platform {
    Platform {
        os: "linux".to_owned(),
        architecture: "arm64".to_owned(),
        variant: "v8".to_owned(),
        os_version: String::new(),
    }
}

fn step(op: Op) -> Step {
    Step {
        op,
        parent: None,
        inputs: Vec::new(),
        platform: platform(),
        source_date_epoch: None,
        no_cache: false,
        label: Label::default(),
    }
}

fn digest(step: &Step) -> String {
    format!("{:?}", encode::digest(step))
}

fn file(path: &str, mode: u32) -> Entry {
    Entry {
        path: path.into(),
        kind: Kind::File { size: 3, content: Some(ContentHash([7; 32])) },
        mode,
        uid: 0,
        gid: 0,
        mtime: Mtime { seconds: 5, nanoseconds: 6 },
        xattrs: [(b"user.x".to_vec(), b"y".to_vec())].into(),
    }
}

fn run() -> RunOp {
    let text = str::to_owned;
    RunOp {
        args: vec![text("/bin/sh"), text("-c"), text("true")],
        env: vec![(text("A"), text("1"))],
        proxy_env: vec![(text("HTTP_PROXY"), text("http://p"))],
        cwd: text("/w"),
        user: text("u:g"),
        mounts: vec![
            Mount::Bind(BindMount { input: 0, source: text("/s"), target: text("/t"), writable: true }),
            Mount::Cache(CacheMount {
                id: text("i"),
                target: text("/c"),
                sharing: CacheSharing::Locked,
                from: Some((0, text("/f"))),
                mode: 0o755,
                uid: 1,
                gid: 2,
                read_only: true,
            }),
            Mount::Tmpfs(TmpfsMount { target: text("/m"), size: Some(9) }),
            Mount::Secret(SecretMount {
                id: text("s"),
                target: Some(text("/run/secrets/s")),
                env: Some(text("S")),
                required: true,
                mode: 0o400,
                uid: 3,
                gid: 4,
            }),
            Mount::Ssh(SshMount {
                id: text("default"),
                target: text("/a"),
                required: false,
                mode: 0o600,
                uid: 5,
                gid: 6,
            }),
        ],
        files: vec![InlineFile { name: text("EOF"), data: b"x".to_vec(), mode: 0o755 }],
        network: Network::None,
        security: Security::Insecure,
        extra_hosts: vec![ExtraHost { name: text("h"), address: text("10.0.0.1") }],
        ulimits: vec![Ulimit { name: text("nofile"), soft: 1, hard: -1 }],
        shm_size: Some(64),
        hostname: text("h"),
    }
}

fn copy() -> CopyOp {
    CopyOp {
        sources: vec![
            CopySource::Input { input: 0, path: "a/*".to_owned(), wildcards: true },
            CopySource::Inline(InlineFile { name: "EOF".to_owned(), data: b"y".to_vec(), mode: 0o644 }),
        ],
        dest: "/d".to_owned(),
        dest_is_dir: true,
        chown: Some(Owner { user: "1".to_owned(), group: Some("2".to_owned()) }),
        chmod: Some(Chmod::Octal(0o640)),
        link: true,
        parents: true,
        excludes: vec!["*.o".to_owned()],
        unpack: Unpack::Archives,
    }
}

fn ops() -> Vec<(&'static str, Op)> {
    let manifest = Digest::of(b"manifest");
    let image = ImageOp { reference: "docker.io/library/a:1".to_owned(), manifest, platform: platform() };
    let selection = Arc::new(Selection::new(vec![file("a", 0o644)]));
    vec![
        ("image", Op::Image(image)),
        ("layout", Op::OciLayout(OciLayoutOp { path: "dir".to_owned(), manifest })),
        ("local", Op::Local(LocalOp { context: String::new(), selection })),
        (
            "git",
            Op::Git(GitOp {
                remote: "https://h/r.git".to_owned(),
                commit: "c0ffee".to_owned(),
                subdir: "sub".to_owned(),
                keep_git_dir: true,
                submodules: true,
            }),
        ),
        (
            "http",
            Op::Http(HttpOp {
                url: "https://h/f".to_owned(),
                digest: Digest::of(b"body"),
                filename: "f".to_owned(),
                last_modified: Some(1),
            }),
        ),
        ("run", Op::Run(run())),
        ("copy", Op::Copy(copy())),
        ("mkdir", Op::Mkdir(MkdirOp { path: "/w".to_owned(), user: "u".to_owned() })),
    ]
}

#[test]
fn cache_02_known_answers() {
    let answers: Vec<(&str, String)> =
        ops().into_iter().map(|(name, op)| (name, digest(&step(op)))).collect();
    let expected = KNOWN.map(|(name, hex)| (name, hex.to_owned()));
    assert_eq!(answers, expected);
    assert_eq!(content_id([&file("a", 0o644)]).to_string(), CONTENT_ID);
}

#[test]
fn cache_02_what_only_people_see_is_not_in_the_digest() {
    for (name, op) in ops() {
        let plain = step(op.clone());
        let label = Label { stage: "s".to_owned(), position: (1, 2), text: "t".to_owned(), lines: (3, 4) };
        let shown = Step { label, no_cache: true, ..step(op.clone()) };
        assert_eq!(digest(&plain), digest(&shown), "{name}");
        let epoch = Step { source_date_epoch: Some(0), ..step(op.clone()) };
        assert_ne!(digest(&plain), digest(&epoch), "{name}");
        let mut other = step(op);
        other.platform.variant.clear();
        // The same files land on the same parent, whatever it is for.
        let is_of_files = matches!(name, "copy" | "mkdir");
        assert_eq!(digest(&plain) == digest(&other), is_of_files, "{name}");
    }
    let mut quiet = run();
    quiet.proxy_env.clear();
    quiet.extra_hosts[0].address.clear();
    assert_eq!(digest(&step(Op::Run(quiet))), digest(&step(Op::Run(run()))));
    let manifest = Digest::of(b"manifest");
    let elsewhere = ImageOp { reference: "mirror/a".to_owned(), manifest, platform: platform() };
    let layout = OciLayoutOp { path: "x".to_owned(), manifest };
    assert_eq!(digest(&step(Op::Image(elsewhere))), digest(&step(Op::OciLayout(layout))));
}

#[test]
fn cache_02_every_field_of_run_is_in_the_digest() {
    let changes: Vec<fn(&mut RunOp)> = vec![
        |run| run.args[2].push('x'),
        |run| run.args = vec!["/bin/sh -c true".to_owned()],
        |run| run.env[0].1.push('x'),
        |run| run.env[0] = ("A1".to_owned(), String::new()),
        |run| run.env.clear(),
        |run| run.cwd.push('x'),
        |run| run.user.clear(),
        |run| run.mounts.swap(0, 1),
        |run| run.mounts.truncate(4),
        |run| run.files[0].data.push(b'x'),
        |run| run.files[0].mode = 0o700,
        |run| run.network = Network::Default,
        |run| run.network = Network::Host,
        |run| run.security = Security::Sandbox,
        |run| run.extra_hosts[0].name.push('x'),
        |run| run.ulimits[0].hard = 1,
        |run| run.shm_size = None,
        |run| run.hostname.clear(),
    ];
    check_all_differ(run(), &changes, Op::Run);
}

#[test]
fn cache_02_every_field_of_copy_is_in_the_digest() {
    let changes: Vec<fn(&mut CopyOp)> = vec![
        |copy| copy.sources.truncate(1),
        |copy| copy.sources.swap(0, 1),
        |copy| copy.sources[0] = CopySource::Input { input: 0, path: "a/*".to_owned(), wildcards: false },
        |copy| copy.sources[0] = CopySource::Input { input: 1, path: "a/*".to_owned(), wildcards: true },
        |copy| copy.dest.push('x'),
        |copy| copy.dest_is_dir = false,
        |copy| copy.chown = None,
        |copy| copy.chown = Some(Owner { user: "1".to_owned(), group: None }),
        |copy| copy.chmod = None,
        |copy| copy.chmod = Some(Chmod::Symbolic("u+x".to_owned())),
        |copy| copy.link = false,
        |copy| copy.parents = false,
        |copy| copy.excludes.clear(),
        |copy| copy.unpack = Unpack::Never,
    ];
    check_all_differ(copy(), &changes, Op::Copy);
}

#[test]
fn cache_02_selections_are_identified_by_everything_but_time() {
    let id = |change: fn(&mut Entry)| {
        let mut entry = file("a", 0o644);
        change(&mut entry);
        Selection::new(vec![entry]).content()
    };
    let same = id(|_| {});
    assert_eq!(same, id(|entry| entry.mtime = Mtime::default()));
    let changes: [fn(&mut Entry); 6] = [
        |entry| entry.mode = 0o600,
        |entry| entry.path = "b".into(),
        |entry| entry.uid = 1,
        |entry| entry.xattrs.clear(),
        |entry| entry.kind = Kind::File { size: 3, content: Some(ContentHash([8; 32])) },
        |entry| entry.kind = Kind::Symlink { target: "a".into() },
    ];
    changes.iter().enumerate().for_each(|(n, change)| assert_ne!(same, id(*change), "change {n}"));
}

/// Checks that each change, and no change, have digests of their own.
fn check_all_differ<T: Clone>(original: T, changes: &[fn(&mut T)], op: fn(T) -> Op) {
    let mut seen = vec![digest(&step(op(original.clone())))];
    for (n, change) in changes.iter().enumerate() {
        let mut changed = original.clone();
        change(&mut changed);
        let digest = digest(&step(op(changed)));
        assert!(!seen.contains(&digest), "change {n} is not in the digest");
        seen.push(digest);
    }
}

const CONTENT_ID: &str = "386aea366d55104b6c9d1bccccefd1f949fa9fc9c220d86efb86de7a90dc0aa3";

const KNOWN: [(&str, &str); 8] = [
    ("image", "32a7ec63b1490f7e4d6fdc197c92633fa41fa36aed8f8075e95758820e65b6a7"),
    ("layout", "32a7ec63b1490f7e4d6fdc197c92633fa41fa36aed8f8075e95758820e65b6a7"),
    ("local", "8070051b70d88c2ff50782564d029a3a87db9e375a63b6d549838cf0e127ddb1"),
    ("git", "3abcd7062c6f01a8372693071ccc6d4ba52066f1e8dc30aa250687603eedec26"),
    ("http", "67304882c128b358323daacfb812aa2924efc1ce5780e6e6efdf12fdefc0ea2e"),
    ("run", "97c123090547149a26b2eb75b1f5a9e68fc30b2a9c53c3aad8517de687c17679"),
    ("copy", "824bd6ab85dfec8801d2fc28f0d2f88b9183c9d383876f99021cb5a924d6108c"),
    ("mkdir", "5cc06c4030f2b54a63e6322d2cd28178c163cb8b23755e4a8721f88e0769a549"),
];
