//! Files and contexts that come over the network or through standard input.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;

use crate::harness::{Run, Scratch, finish, have, tool, wait_until};
use crate::server::{Reply, Request, Server};

/// Serves the files of a directory as they are when asked for.
fn serving(root: &Path) -> Server {
    let root = root.to_owned();
    Server::start(move |request| {
        let path = request.target.split('?').next().unwrap_or_default().trim_start_matches('/');
        match std::fs::read(root.join(path)) {
            Ok(body) => Reply::new(200, body),
            Err(_) => Reply::new(404, ""),
        }
    })
}

fn url(server: &Server, path: &str) -> String {
    format!("http://{}/{path}", server.host)
}

/// What was asked for, and what logins came with it.
fn asked(server: &Server) -> Vec<(String, String)> {
    let pair = |request: Request| (request.target.clone(), request.header("authorization").to_owned());
    server.requests().into_iter().map(pair).collect()
}

/// A repository with two commits, served as files: the branch `main` and the tag `v1`.
fn repository(root: &Path) -> String {
    let path = root.join("r.git-work");
    std::fs::create_dir_all(path.join("sub")).unwrap();
    let git = |arguments: &[&str]| {
        let mut all = vec!["-C", path.to_str().unwrap(), "-c", "user.name=a", "-c", "user.email=a@b"];
        all.extend(arguments);
        tool("git", &all)
    };
    git(&["init", "-q", "-b", "main"]);
    std::fs::write(path.join("Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    std::fs::write(path.join(".dockerignore"), "sub\n").unwrap();
    std::fs::write(path.join("sub/f"), "one").unwrap();
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "one"]);
    git(&["tag", "-a", "-m", "v1", "v1"]);
    std::fs::write(path.join("sub/f"), "two").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", path.join("evil")).unwrap();
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "two"]);
    tool("git", &["clone", "-q", "--bare", path.to_str().unwrap(), root.join("r.git").to_str().unwrap()]);
    tool("git", &["-C", root.join("r.git").to_str().unwrap(), "update-server-info"]);
    git(&["rev-parse", "v1"]).trim().to_owned()
}

/// Builds and returns a file of the image.
#[track_caller]
fn built(scratch: &Scratch, context: &str, arguments: &[&str], file: &str) -> String {
    let out = scratch.path().join("out");
    let _ = std::fs::remove_dir_all(&out);
    let output = format!("type=local,dest={}", out.display());
    let mut all = vec!["build", "--progress", "plain", "-o", &output];
    all.extend(arguments);
    all.push(context);
    scratch.xbuild(&all).ok();
    std::fs::read_to_string(out.join(file)).unwrap()
}

fn build_from_stdin(scratch: &Scratch, arguments: &[&str], input: &[u8]) -> Run {
    let mut all = vec!["build", "--progress", "plain"];
    all.extend(arguments);
    let path = scratch.path().join("input");
    std::fs::write(&path, input).unwrap();
    finish(scratch.command(&all).stdin(Stdio::from(std::fs::File::open(path).unwrap())))
}

fn tar(directory: &Path) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    tool("tar", &["--mtime=@1600000000", "-C", directory.to_str().unwrap(), "-czf", path, "."]);
    std::fs::read(path).unwrap()
}

#[test]
fn add_of_a_url_is_fetched_cached_and_checked() {
    let scratch = Scratch::new();
    let served = scratch.context("served", &[("f.txt", "body")]);
    let server = serving(&served);
    let url = url(&server, "f.txt");
    let context = scratch.context("c", &[("Dockerfile", &format!("FROM scratch\nADD {url} /d/\n"))]);
    assert_eq!(built(&scratch, context.to_str().unwrap(), &[], "d/f.txt"), "body");
    assert_eq!(scratch.build(&context, &[]).ok().cached(), 1);
    std::fs::write(served.join("f.txt"), "other").unwrap();
    assert_eq!(built(&scratch, context.to_str().unwrap(), &[], "d/f.txt"), "other");

    let sum = "--checksum=sha256:230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5";
    let pinned = format!("FROM scratch\nADD {sum} {url} /\n");
    let context = scratch.context("pinned", &[("Dockerfile", &pinned)]);
    scratch.build(&context, &[]).fails(4, &["digest mismatch", "Dockerfile:2"]);
    let context = scratch.context("gone", &[("Dockerfile", &format!("FROM scratch\nADD {url}x /\n"))]);
    scratch.build(&context, &[]).fails(4, &["404", "f.txtx", "Dockerfile:2"]);
}

#[test]
fn a_token_for_a_url_comes_from_a_secret_and_stays_out_of_the_output() {
    let scratch = Scratch::new();
    let server = serving(&scratch.context("served", &[("f", "body")]));
    let text = format!("FROM scratch\nADD {} /\n", url(&server, "f"));
    let context = scratch.context("c", &[("Dockerfile", &text), ("token", "s3cret\n")]);
    let secret = format!("id=HTTP_AUTH_TOKEN_127.0.0.1,src={}", context.join("token").display());
    let run = scratch.build(&context, &["--secret", &secret]).ok();
    assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
    assert_eq!(asked(&server), [("/f".into(), "Bearer s3cret".into())]);
}

#[test]
fn src_05_a_login_in_a_url_is_sent_and_in_no_log_history_or_graph() {
    let scratch = Scratch::new();
    let server = serving(&scratch.context("served", &[("f", "body")]));
    let text = format!("FROM scratch\nADD http://user:s3cret@{}/f /\n", server.host);
    let context = scratch.context("c", &[("Dockerfile", &text)]);
    let logged = scratch.build(&context, &["-t", "x"]).ok().stderr;
    assert_eq!(asked(&server), [("/f".into(), "Basic dXNlcjpzM2NyZXQ=".into())]);
    let inspected = scratch.xbuild(&["inspect", "x"]).ok().stdout;
    let graph = scratch.build(&context, &["--print", "graph"]).ok().stdout;
    for shown in [logged, inspected, graph] {
        assert!(shown.contains(&format!("ADD http://{}/f /", server.host)), "{shown}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}

#[test]
fn add_of_a_repository_takes_references_subdirectories_and_checksums() {
    if !have(&["git"]) {
        return;
    }
    let scratch = Scratch::new();
    let served = scratch.context("served", &[]);
    let tag = repository(&served);
    let server = serving(&served);
    let remote = url(&server, "r.git");
    let check = |source: &str, file: &str, expected: &str| {
        let text = format!("FROM scratch\nADD {source} /d/\n");
        let context = scratch.context("c", &[("Dockerfile", &text)]);
        assert_eq!(built(&scratch, context.to_str().unwrap(), &[], file), expected, "{source}");
        assert!(!scratch.path().join("out/d/.git").exists());
    };
    check(&remote, "d/sub/f", "two");
    check(&format!("{remote}#v1"), "d/sub/f", "one");
    check(&format!("{remote}#v1:sub"), "d/f", "one");
    check(&format!("--checksum={tag} {remote}#v1"), "d/sub/f", "one");
    check(&format!("http://user:s3cret@{}/r.git#v1:sub", server.host), "d/f", "one");
    let text = format!("FROM scratch\nADD --checksum={tag} {remote}#main /\n");
    let context = scratch.context("c", &[("Dockerfile", &text)]);
    scratch.build(&context, &[]).fails(3, &["expected checksum to match", &tag]);
    let text = format!("FROM scratch\nADD http://user:s3cret@{}/r.git#nothing /\n", server.host);
    let context = scratch.context("c", &[("Dockerfile", &text)]);
    let run = scratch.build(&context, &[]).fails(4, &["repository does not contain ref nothing"]);
    assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
}

#[test]
fn a_repository_is_a_context_and_its_links_lead_nowhere() {
    if !have(&["git"]) {
        return;
    }
    let scratch = Scratch::new();
    let served = scratch.context("served", &[]);
    repository(&served);
    let server = serving(&served);
    let remote = url(&server, "r.git");
    // Its ignore file is not read, as in BuildKit.
    assert_eq!(built(&scratch, &remote, &[], "sub/f"), "two");
    assert_eq!(built(&scratch, &format!("{remote}#v1"), &[], "sub/f"), "one");
    let run = scratch.xbuild(&["build", "-f", "evil", &remote]).fails(6, &["leads out of the context"]);
    assert!(!run.stderr.contains("root:"), "{}", run.stderr);
    scratch.xbuild(&["build", "-f", "nowhere", &remote]).fails(3, &["nowhere"]);
    scratch.xbuild(&["build", &format!("{remote}#nothing")]).fails(4, &["does not contain ref nothing"]);
    let text = "FROM scratch\nCOPY --from=src sub /sub\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    let named = format!("src={remote}#v1");
    assert_eq!(built(&scratch, context.to_str().unwrap(), &["--build-context", &named], "sub/f"), "one");
}

#[test]
fn a_directory_is_a_named_context_by_its_path() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", "FROM scratch\nCOPY --from=lib f /g\n")]);
    let library = scratch.context("lib", &[("f", "of the library")]);
    let named = format!("lib={}", library.display());
    let flags = ["--build-context", named.as_str()];
    assert_eq!(built(&scratch, context.to_str().unwrap(), &flags, "g"), "of the library");
}

#[test]
fn standard_input_is_a_context_or_a_dockerfile() {
    let scratch = Scratch::new();
    let files =
        [("Dockerfile", "FROM scratch\nCOPY . /\n"), ("d/f", "x"), ("other", "FROM scratch\nLABEL a=b\n")];
    let archive = tar(&scratch.context("c", &files));
    let out = scratch.path().join("out");
    let output = format!("type=local,dest={}", out.display());
    build_from_stdin(&scratch, &["-o", &output, "-"], &archive).ok();
    assert_eq!(std::fs::read_to_string(out.join("d/f")).unwrap(), "x");
    assert_eq!(build_from_stdin(&scratch, &["-"], &archive).ok().cached(), 1);
    build_from_stdin(&scratch, &["-f", "other", "-"], &archive).ok();

    build_from_stdin(&scratch, &["-"], b"FROM scratch\nLABEL a=b\n").ok();
    build_from_stdin(&scratch, &["-"], b"FROM scratch\nCOPY a /\n").fails(4, &["\"a\" not found"]);
    build_from_stdin(&scratch, &["-f", "x", "-"], b"FROM scratch\n").fails(2, &["-f"]);
    build_from_stdin(&scratch, &["-f", "-", "-"], b"FROM scratch\n").fails(2, &["-f -"]);
    build_from_stdin(&scratch, &["-"], b"").fails(4, &["standard input", "empty"]);
    build_from_stdin(&scratch, &["-"], &archive[..archive.len() / 2]).fails(4, &["standard input"]);
}

#[test]
fn urls_are_contexts_too_and_nothing_stays_in_the_staging_directory() {
    let scratch = Scratch::new();
    let files = [("Dockerfile", "FROM scratch\nCOPY --from=n f /\nCOPY g /\n"), ("g", "g")];
    let served = scratch.context("served", &[("Dockerfile", "FROM scratch\nLABEL a=b\n")]);
    std::fs::write(served.join("main.tgz"), tar(&scratch.context("main", &files))).unwrap();
    std::fs::write(served.join("named.tgz"), tar(&scratch.context("named", &[("f", "f")]))).unwrap();
    let server = serving(&served);
    let named = format!("n={}", url(&server, "named.tgz"));
    let main = url(&server, "main.tgz");
    assert_eq!(built(&scratch, &main, &["--build-context", &named], "f"), "f");
    scratch.xbuild(&["build", &url(&server, "Dockerfile")]).ok();
    scratch.xbuild(&["build", &url(&server, "nothing")]).fails(4, &["404", "nothing"]);
    let epoch = ["--build-context", &named, "--build-arg", "SOURCE_DATE_EPOCH=context", "-t", "dated"];
    built(&scratch, &main, &epoch, "f");
    let history = scratch.xbuild(&["inspect", "dated"]).ok().stdout;
    assert!(history.contains("2020-09-13T12:26:40Z"), "{history}");
    assert_eq!(std::fs::read_dir(scratch.store().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_source_that_is_slow_is_told_and_an_interrupt_ends_it() {
    let scratch = Scratch::new();
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/f?token=s3cret", silent.local_addr().unwrap());
    let context = scratch.context("c", &[("Dockerfile", &format!("FROM scratch\nADD {url} /\n"))]);
    for context in [context.to_str().unwrap(), &url, "-"] {
        let mut build = scratch.command(&["build", "--progress", "plain", context]);
        let mut build = build.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(build.stderr.take().unwrap()).lines();
        let told = lines.by_ref().map_while(Result::ok).find(|line| line.contains("reading")).unwrap();
        assert!(told.contains(if context == "-" { "standard input" } else { "/f" }), "{told}");
        assert!(!told.contains("s3cret"), "{told}");
        tool("kill", &["-INT", &build.id().to_string()]);
        let rest: Vec<_> = lines.map_while(Result::ok).collect();
        // Not `wait`, which would close the pipe.
        wait_until(&format!("{context} ends: {rest:#?}"), || build.try_wait().unwrap().is_some());
        assert_eq!(build.wait().unwrap().code(), Some(130), "{rest:#?}");
        assert_eq!(std::fs::read_dir(scratch.store().join("tmp")).unwrap().count(), 0);
    }
}
