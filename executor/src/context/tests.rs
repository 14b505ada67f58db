//! Scans of real directories.

use super::*;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use oci::layer::{Entry, Kind};
use rustix::fs::{FileType, Mode, mknodat};

/// A context on disk.
struct Scratch {
    directory: tempfile::TempDir,
    ignore: Rules,
    cache: StatCache,
}

/// Long after every file of a test was written.
const LATER: Mtime = Mtime { seconds: 1 << 40, nanoseconds: 0 };

impl Scratch {
    /// `name/` makes a directory, `name -> target` a link, `name` a file that holds its own name.
    fn new(paths: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Self { directory, ignore: Rules::default(), cache: StatCache::default() };
        paths.iter().for_each(|path| scratch.add(path));
        scratch
    }

    fn add(&self, path: &str) {
        let (path, target) = path.split_once(" -> ").map_or((path, None), |(path, to)| (path, Some(to)));
        let at = self.path(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        match target {
            Some(target) => symlink(target, at).unwrap(),
            None if path.ends_with('/') => fs::create_dir_all(at).unwrap(),
            None => fs::write(at, path).unwrap(),
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn ignoring(mut self, text: &str) -> Self {
        self.ignore = Rules::parse(text.as_bytes()).unwrap();
        self
    }

    fn root(&self) -> Arc<OwnedFd> {
        Arc::new(crate::tree::open_root(self.directory.path()).unwrap())
    }

    fn scan(&self, request: &SelectionRequest) -> Result<Selection, ScanError> {
        let context = Context { root: &self.root(), ignore: &self.ignore, cache: &self.cache, now: LATER };
        scan(&context, request)
    }

    fn check(&self, request: &SelectionRequest, expected: &[&str]) {
        let got = match self.scan(request) {
            Ok(selection) => selection.entries.iter().map(describe).collect(),
            Err(error) => vec![error.to_string()],
        };
        assert_eq!(got, expected, "{:?}", request.patterns);
    }
}

fn describe(entry: &Entry) -> String {
    let path = entry.path.display();
    match &entry.kind {
        Kind::Directory { .. } => format!("{path}/"),
        Kind::Symlink { target } => format!("{path} -> {}", target.display()),
        Kind::HardLink { target } => format!("{path} = {}", target.display()),
        Kind::File { content: Some(_), .. } => path.to_string(),
        Kind::File { content: None, .. } => format!("{path} without hash"),
        Kind::CharDevice(_) | Kind::BlockDevice(_) | Kind::Fifo | Kind::Whiteout => format!("{path}?"),
    }
}

fn request(patterns: &[&str]) -> SelectionRequest {
    SelectionRequest {
        patterns: patterns.iter().map(|text| (*text).to_owned()).collect(),
        wildcards: true,
        parents: false,
        excludes: Vec::new(),
        follow: true,
    }
}

fn excluding(patterns: &[&str], excludes: &[&str]) -> SelectionRequest {
    let excludes = excludes.iter().map(|text| (*text).to_owned()).collect();
    SelectionRequest { excludes, ..request(patterns) }
}

fn parents(patterns: &[&str]) -> SelectionRequest {
    SelectionRequest { parents: true, ..request(patterns) }
}

const TREE: [&str; 7] = ["a.txt", "b.md", "d/x.txt", "d/e/y.md", "d/e/z.txt", "d-e", "empty/"];

#[test]
fn selects_paths_with_their_ancestors_in_order() {
    let context = Scratch::new(&TREE);
    let all = ["/", "a.txt", "b.md", "d/", "d/e/", "d/e/y.md", "d/e/z.txt", "d/x.txt", "d-e", "empty/"];
    context.check(&request(&[""]), &all);
    context.check(&request(&["."]), &all);
    context.check(&request(&["d/e/y.md"]), &["/", "d/", "d/e/", "d/e/y.md"]);
    context.check(&request(&["a.txt", "d/e"]), &["/", "a.txt", "d/", "d/e/", "d/e/y.md", "d/e/z.txt"]);
    context.check(
        &request(&["d/e/z.txt", "d"]),
        &all[..1].iter().chain(&all[3..8]).copied().collect::<Vec<_>>(),
    );
}

#[test]
fn wildcards_and_excludes() {
    let context = Scratch::new(&TREE);
    context.check(&request(&["*.txt"]), &["/", "a.txt"]);
    context.check(&request(&["d/*.txt", "d/*/*.md"]), &["/", "d/", "d/e/", "d/e/y.md", "d/x.txt"]);
    context.check(&request(&["*.none"]), &["/"]);
    context.check(&excluding(&["d"], &["*.txt"]), &["/", "d/", "d/e/", "d/e/y.md", "d/e/z.txt"]);
    context.check(&excluding(&["d"], &["**/*.txt"]), &["/", "d/", "d/e/", "d/e/y.md"]);
    context.check(&excluding(&["d"], &["*", "!e"]), &["/", "d/", "d/e/", "d/e/y.md", "d/e/z.txt"]);
    context.check(
        &excluding(&["*"], &["*.txt"]),
        &["/", "b.md", "d/", "d/e/", "d/e/y.md", "d/e/z.txt", "d-e", "empty/"],
    );
    context.check(&excluding(&["a.txt"], &["*.txt"]), &["/", "a.txt"]);
    let literal = SelectionRequest { wildcards: false, ..request(&["*.txt"]) };
    context.check(&literal, &["\"*.txt\" is not in the build context; did you mean \"a.txt\"?"]);
}

#[test]
fn parents_select_by_pattern_below_the_pivot() {
    let context = Scratch::new(&["t/a/b/c/f", "t/a/b/g", "t/a/b2/c/h", "u"]);
    let check = |pattern: &str, expected: &[&str]| context.check(&parents(&[pattern]), expected);
    check("t/a/b/./c", &["/", "t/", "t/a/", "t/a/b/", "t/a/b/c/", "t/a/b/c/f"]);
    check(
        "t/a/*/c",
        &["/", "t/", "t/a/", "t/a/b/", "t/a/b/c/", "t/a/b/c/f", "t/a/b2/", "t/a/b2/c/", "t/a/b2/c/h"],
    );
    check("**/h", &["/", "t/", "t/a/", "t/a/b2/", "t/a/b2/c/", "t/a/b2/c/h"]);
    check("t/a/b*/./c/**/h", &["/", "t/", "t/a/", "t/a/b/", "t/a/b2/", "t/a/b2/c/", "t/a/b2/c/h"]);
    check("t/none", &["\"t/none\" is not in the build context"]);
    check("t/a/none*", &["/"]);
    check("none/./u", &["\"none/u\" is not in the build context"]);
}

#[test]
fn ignored_files_are_invisible() {
    let tree = ["keep", "node_modules/a", "node_modules/b/c", "src/a.o", "src/a.c", "logs/1", "logs/keep/2"];
    let context = Scratch::new(&tree).ignoring("node_modules\n**/*.o\nlogs\n!logs/keep\n");
    context.check(&request(&[""]), &["/", "keep", "logs/", "logs/keep/", "logs/keep/2", "src/", "src/a.c"]);
    context.check(&request(&["src/*"]), &["/", "src/", "src/a.c"]);
    context.check(&request(&["logs"]), &["/", "logs/", "logs/keep/", "logs/keep/2"]);
    let hidden = "is not in the build context: line";
    context.check(
        &request(&["node_modules/a"]),
        &[&format!("\"node_modules/a\" {hidden} 1 of the ignore file hides it (\"node_modules\")")],
    );
    context.check(
        &request(&["src/a.o"]),
        &[&format!("\"src/a.o\" {hidden} 2 of the ignore file hides it (\"**/*.o\")")],
    );
    context.check(
        &request(&["node_modules"]),
        &[&format!("\"node_modules\" {hidden} 1 of the ignore file hides it (\"node_modules\")")],
    );
}

#[test]
fn ignored_directories_are_not_even_opened() {
    let context = Scratch::new(&["keep", "secret/a"]);
    nest(&context, "secret", 3000);
    assert!(matches!(context.scan(&request(&[""])), Err(ScanError::Call { .. })), "too deep to be opened");
    context.ignoring("secret\n").check(&request(&[""]), &["/", "keep"]);
}

/// Makes a chain of directories in `start`.
fn nest(context: &Scratch, start: &str, levels: usize) {
    let path =
        |at: &OwnedFd, name: &str| rustix::fs::openat(at, name, rustix::fs::OFlags::PATH, Mode::empty());
    let mut at = path(&context.root(), start).unwrap();
    for _ in 0..levels {
        rustix::fs::mkdirat(&at, "d", Mode::from(0o755)).unwrap();
        at = path(&at, "d").unwrap();
    }
}

#[test]
fn missing_files_name_the_nearest() {
    let context = Scratch::new(&["Package.json", "src/main.rs", "requirements.txt", "ab"]);
    let check = |path: &str, nearest: &str| {
        let message = format!("{path:?} is not in the build context; did you mean {nearest:?}?");
        context.check(&request(&[path]), &[&message]);
    };
    check("package.json", "Package.json");
    check("src/mian.rs", "src/main.rs");
    check("SRC/main.rs", "src/main.rs");
    check("requirments.txt", "requirements.txt");
    context.check(&request(&["xyz"]), &["\"xyz\" is not in the build context"]);
    context.check(&request(&["ab/c"]), &["\"ab/c\" is not in the build context"]);
}

#[test]
fn named_links_are_followed_and_nested_ones_kept() {
    let context =
        Scratch::new(&["bar", "foo -> bar", "sub/f", "link -> sub", "sub/n -> ../bar", "sub/l0 -> f"]);
    context.check(&request(&["foo"]), &["/", "bar", "foo -> bar"]);
    context.check(&request(&["link/f"]), &["/", "link -> sub", "sub/", "sub/f"]);
    context.check(&request(&["link/f*"]), &["/", "link -> sub", "sub/", "sub/f"]);
    context.check(&request(&["sub"]), &["/", "sub/", "sub/f", "sub/l0 -> f", "sub/n -> ../bar"]);
    context.check(&request(&["sub/l*"]), &["/", "sub/", "sub/f", "sub/l0 -> f"]);
    context.check(&SelectionRequest { follow: false, ..request(&["foo"]) }, &["/", "foo -> bar"]);
}

#[test]
fn ctx_01_links_out_of_the_context_find_nothing() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("canary"), "secret").unwrap();
    let canary = outside.path().join("canary");
    let context = Scratch::new(&["d/ok"]);
    symlink(&canary, context.path("abs")).unwrap();
    symlink(outside.path(), context.path("dir")).unwrap();
    symlink("../../../../../../../../..", context.path("up")).unwrap();
    symlink("loop", context.path("loop")).unwrap();
    for path in ["abs", "dir/canary", "up/tmp"] {
        assert!(matches!(context.scan(&request(&[path])), Err(ScanError::NotFound { .. })), "{path}");
    }
    assert!(matches!(context.scan(&request(&["loop"])), Err(ScanError::Tree { .. })));
    let selection = context.scan(&request(&[""])).unwrap();
    assert!(selection.entries.iter().all(|entry| !entry.path.starts_with("dir/canary")));
    context.check(&request(&["up/d/ok"]), &["/", "d/", "d/ok", "up -> ../../../../../../../../.."]);
}

#[test]
fn ctx_02_paths_are_clamped_to_the_context() {
    let context = Scratch::new(&["x", "etc/passwd"]);
    context.check(&request(&["../x"]), &["/", "x"]);
    context.check(&request(&["a/../../x"]), &["/", "x"]);
    context.check(&request(&["/etc/passwd"]), &["/", "etc/", "etc/passwd"]);
}

#[test]
fn ctx_06_sockets_are_left_out_and_pipes_refused_when_selected() {
    let context = Scratch::new(&["f", "d/g"]);
    let _socket = std::os::unix::net::UnixListener::bind(context.path("socket")).unwrap();
    context.check(&request(&[""]), &["/", "d/", "d/g", "f"]);
    mknodat(context.root(), "pipe", FileType::Fifo, Mode::from(0o644), 0).unwrap();
    context.check(&request(&["d"]), &["/", "d/", "d/g"]);
    assert!(matches!(context.scan(&request(&[""])), Err(ScanError::Special { kind: "named pipe", .. })));
    assert!(matches!(context.scan(&request(&["pipe"])), Err(ScanError::Special { .. })));
}

#[test]
fn owners_are_reset_and_modes_kept() {
    let context = Scratch::new(&["d/f"]);
    fs::set_permissions(context.path("d/f"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(context.path("d"), fs::Permissions::from_mode(0o700)).unwrap();
    // Only root can give files away; others see their own id reset.
    let _ = std::os::unix::fs::chown(context.path("d/f"), Some(12), Some(13));
    fs::set_permissions(context.path("d/f"), fs::Permissions::from_mode(0o4755)).unwrap();
    let modes = |patterns: &[&str]| -> Vec<_> {
        let selection = context.scan(&request(patterns)).unwrap();
        selection.entries.iter().map(|e| (e.mode, e.uid, e.gid)).collect()
    };
    assert_eq!(modes(&["d"]), [(0o755, 0, 0), (0o700, 0, 0), (0o4755, 0, 0)]);
    assert_eq!(modes(&["d/f"]), [(0o755, 0, 0), (0o755, 0, 0), (0o4755, 0, 0)], "ancestors do not count");
    let selection = context.scan(&parents(&["d/f"])).unwrap();
    assert_eq!(selection.entries[1].mode, 0o700, "--parents copies them");
}

#[test]
fn content_changes_with_bytes_and_modes_and_not_with_times() {
    let context = Scratch::new(&["f"]);
    let content = || context.scan(&request(&[""])).unwrap().content();
    let first = content();
    let touched = fs::File::options().write(true).open(context.path("f")).unwrap();
    touched.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(content(), first);
    fs::set_permissions(context.path("f"), fs::Permissions::from_mode(0o755)).unwrap();
    let other_mode = content();
    assert_ne!(other_mode, first);
    fs::write(context.path("f"), "g").unwrap();
    assert_ne!(content(), other_mode);
}

#[test]
fn hard_links_stay_links() {
    let context = Scratch::new(&["a", "d/"]);
    fs::hard_link(context.path("a"), context.path("d/b")).unwrap();
    context.check(&request(&[""]), &["/", "a", "d/", "d/b = a"]);
    context.check(&request(&["d"]), &["/", "d/", "d/b"]);
}

#[test]
fn attributes_of_users_are_left_out() {
    let context = Scratch::new(&["f"]);
    let path = context.path("f");
    if rustix::fs::setxattr(&path, "user.note", b"1", rustix::fs::XattrFlags::empty()).is_err() {
        println!("SKIP: the scratch directory takes no user attributes");
        assert!(std::env::vars().all(|(name, _)| name != "XBUILD_TEST_STRICT"));
        return;
    }
    let cached = Scratch { cache: StatCache::read(context.path("../none")), ..context };
    for _ in 0..2 {
        let selection = cached.scan(&request(&["f"])).unwrap();
        assert!(selection.entries[1].xattrs.is_empty());
    }
}

/// Scans with the cache in `file` and returns it saved and read again.
fn through_cache(context: Scratch, file: &Path, now: Mtime) -> (Scratch, Selection) {
    let cache = StatCache::read(file.to_owned());
    let root = context.root();
    let scanned = {
        let with = Context { root: &root, ignore: &context.ignore, cache: &cache, now };
        scan(&with, &request(&[""])).unwrap()
    };
    cache.save().unwrap();
    (context, scanned)
}

#[test]
fn hashes_come_from_the_cache_while_stamps_agree() {
    let store = tempfile::tempdir().unwrap();
    let file = store.path().join("cache");
    let (context, first) = through_cache(Scratch::new(&TREE), &file, LATER);
    // Files that cannot be opened any more show that nothing is opened.
    let forged = fs::read(&file).unwrap();
    let inode = fs::metadata(&file).unwrap().ino();
    let (context, second) = through_cache(context, &file, LATER);
    assert_eq!(first.entries, second.entries);
    assert_eq!(fs::metadata(&file).unwrap().ino(), inode, "an unchanged cache is not written again");
    // A cached hash is believed: a cache with another hash gives another selection.
    let hash = first.entries.iter().find_map(|entry| match entry.kind {
        Kind::File { content, .. } => content,
        _ => None,
    });
    let at = forged.windows(32).position(|window| window == hash.unwrap().0).unwrap();
    let mut forged = forged[..forged.len() - 32].to_vec();
    forged[at] ^= 1;
    let checksum = blake3::hash(&forged);
    forged.extend_from_slice(checksum.as_bytes());
    fs::write(&file, &forged).unwrap();
    let (context, third) = through_cache(context, &file, LATER);
    assert_ne!(first.content(), third.content());
    // A damaged cache is an empty one.
    forged[20] ^= 1;
    fs::write(&file, &forged).unwrap();
    let (_, fourth) = through_cache(context, &file, LATER);
    assert_eq!(first.content(), fourth.content());
}

#[test]
fn ctx_08_a_changed_file_of_equal_size_and_time_is_read_again() {
    let store = tempfile::tempdir().unwrap();
    let file = store.path().join("cache");
    let (context, first) = through_cache(Scratch::new(&["f"]), &file, LATER);
    let time = fs::metadata(context.path("f")).unwrap().modified().unwrap();
    fs::write(context.path("f"), "g").unwrap();
    fs::File::options().write(true).open(context.path("f")).unwrap().set_modified(time).unwrap();
    let (_, second) = through_cache(context, &file, LATER);
    assert_ne!(first.content(), second.content());
}

#[test]
fn files_changed_just_now_are_not_cached() {
    let store = tempfile::tempdir().unwrap();
    let file = store.path().join("cache");
    let context = Scratch::new(&["f"]);
    let ctime = fs::metadata(context.path("f")).unwrap().ctime();
    let (context, _) = through_cache(context, &file, Mtime { seconds: ctime + 1, nanoseconds: 0 });
    assert!(!file.exists());
    let (_, _) = through_cache(context, &file, Mtime { seconds: ctime + 3, nanoseconds: 0 });
    assert!(file.exists());
}

#[test]
fn caches_keep_what_other_scans_found() {
    let store = tempfile::tempdir().unwrap();
    let file = store.path().join("cache");
    let (context, first) = through_cache(Scratch::new(&["a/1", "b"]), &file, LATER);
    context.add("a/0");
    context.add("c");
    let (_, second) = through_cache(context, &file, LATER);
    assert_eq!(second.entries.len(), first.entries.len() + 2);
    let cache = StatCache::read(file);
    let mut lookup = cache.lookup();
    let known = second.entries.iter().filter(|entry| matches!(entry.kind, Kind::File { .. }));
    let miss = walk::Stamp::default();
    assert!(
        known.clone().count() == 4
            && known.into_iter().all(|entry| lookup.find(&entry.path, &miss).is_none())
    );
}

#[test]
fn ctx_07_a_file_that_changed_since_it_was_listed_is_noticed() {
    let context = Scratch::new(&["f"]);
    let root = context.root();
    let with = Context { root: &root, ignore: &context.ignore, cache: &context.cache, now: LATER };
    let stamp = |path: &str| {
        let stat = crate::tree::stat_at(&root, std::ffi::OsStr::new(path)).unwrap();
        walk::Stamp::of(&stat)
    };
    let seen = stamp("f");
    assert!(hash::hash(&with, Path::new("f"), &seen).is_ok());
    fs::write(context.path("f"), "longer").unwrap();
    assert!(matches!(hash::hash(&with, Path::new("f"), &seen), Err(ScanError::Changed { .. })));
    fs::remove_file(context.path("f")).unwrap();
    symlink("/etc/passwd", context.path("f")).unwrap();
    assert!(matches!(hash::hash(&with, Path::new("f"), &seen), Err(ScanError::Changed { .. })));
}

#[test]
fn tar_52_deep_trees_cost_no_stack() {
    let context = Scratch::new(&[]);
    nest(&context, ".", 1000);
    assert_eq!(context.scan(&request(&[""])).unwrap().entries.len(), 1001);
    let context = Scratch::new(&[]);
    nest(&context, ".", 3000);
    let error = context.scan(&request(&[""])).unwrap_err();
    let ScanError::Call { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.raw_os_error(), Some(rustix::io::Errno::NAMETOOLONG.raw_os_error()));
}

#[test]
fn ctx_05_ignore_files_are_read_safely() {
    let context = Scratch::new(&[
        "dir/",
        "real",
        ".dockerignore -> real",
        "out -> /etc/passwd",
        "Dockerfile.dockerignore",
    ]);
    fs::write(context.path("real"), "# comment\n*.log\n").unwrap();
    mknodat(context.root(), "pipe", FileType::Fifo, Mode::from(0o644), 0).unwrap();
    fs::write(context.path("bad"), "ok\n[a-\n").unwrap();
    fs::File::create(context.path("large")).unwrap().set_len(ignore_file::LIMIT + 1).unwrap();
    let read = |name: &str| match ignore_file::read(&context.root(), &[Path::new("none"), Path::new(name)]) {
        Ok(Some(found)) => format!("{} rules in {}", found.rules.rules().len(), found.path.display()),
        Ok(None) => "none".to_owned(),
        Err(error) => error.to_string(),
    };
    assert_eq!(read("none"), "none");
    assert_eq!(read(".dockerignore"), "1 rules in .dockerignore");
    assert_eq!(read("Dockerfile.dockerignore"), "1 rules in Dockerfile.dockerignore");
    for name in ["out", "pipe", "dir"] {
        let expected =
            format!("{name} must be a plain file, not a directory, pipe, device or link out of the context");
        assert_eq!(read(name), expected);
    }
    assert!(read("large").starts_with("large is larger than"));
    assert_eq!(read("bad"), "bad");
}

#[test]
fn large_directories_are_split_and_complete() {
    let context = Scratch::new(&[]);
    for n in 0..1500 {
        fs::write(context.path(&format!("{n}")), n.to_string()).unwrap();
    }
    let selection = context.scan(&request(&[""])).unwrap();
    assert_eq!(selection.entries.len(), 1501);
    assert!(selection.entries.is_sorted_by(|left, right| left.path < right.path));
}
