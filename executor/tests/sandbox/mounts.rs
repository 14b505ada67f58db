//! What a step sees, and what stays of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use executor::sandbox::*;

use crate::cases;
use crate::fixture::{Image, bind, handle, leaves_nothing, run, tree, write};

cases! {
    writes_land_in_the_upper_directory_only,
    the_root_directory_keeps_the_images_attributes,
    etc_files_are_bound_and_leave_no_trace,
    a_skeleton_spares_the_upper_directory,
    net_06_etc_files_are_bound_through_links_of_the_image,
    a_missing_working_directory_is_made,
    devices_and_links_of_dev,
    mt_04_what_the_step_puts_in_place_of_a_mount_point_stays,
    mt_05_writes_to_layers_are_discarded,
    mt_06_kinds_and_targets_are_checked,
    mt_07_paths_are_never_parsed_as_options,
    mt_10_secrets_are_files_in_memory,
    cache_directories_are_shared,
    tmpfs_mounts_have_a_size,
    pipes_are_read_only_scripts,
    host_ca_is_trusted_and_leaves_no_trace,
    empty_root_and_missing_directories,
    many_layers,
    a_layer_may_occur_twice,
    views_show_layers_to_the_builder,
}

fn writes_land_in_the_upper_directory_only(spawner: &Spawner) {
    let image = Image::new();
    let before = tree(&image.lower);
    let outcome = run(
        spawner,
        image.shell("echo x > /new; mkdir /run/d; rm /etc/group; chown 1000:1000 /etc/passwd; ln /new /new2"),
    );
    outcome.success();
    assert_eq!(tree(&image.lower), before);
    assert_eq!(
        tree(&outcome.upper),
        ["/etc", "/etc/group", "/etc/passwd", "/new", "/new2", "/run", "/run/d"]
    );
    assert_eq!(fs::metadata(outcome.upper.join("etc/passwd")).expect("it was copied up").uid(), 1000);
    assert_eq!(fs::metadata(outcome.upper.join("new")).expect("it was made").nlink(), 2);
}

fn the_root_directory_keeps_the_images_attributes(spawner: &Spawner) {
    let image = Image::new();
    fs::set_permissions(&image.lower, fs::Permissions::from_mode(0o555)).expect("mode can be set");
    std::os::unix::fs::chown(&image.lower, Some(7), Some(8)).expect("owner can be set");
    let time = fs::metadata(&image.lower).expect("it exists").mtime();
    let outcome = run(spawner, image.shell("stat -c '%a %u %g %Y' /"));
    assert_eq!(outcome.success(), format!("555 7 8 {time}\n"));
}

fn etc_files_are_bound_and_leave_no_trace(spawner: &Spawner) {
    let image = Image::new();
    write(image.lower.join("etc/hosts"), "of the image\n");
    let before = fs::metadata(image.lower.join("etc")).expect("it exists").mtime_nsec();
    let outcome =
        run(spawner, image.shell("cat /etc/hosts /etc/resolv.conf /etc/hostname; stat -c %a /etc/hosts"));
    assert_eq!(outcome.success(), "127.0.0.1 localhost\nnameserver 192.0.2.1\nstep\n644\n");
    leaves_nothing(&outcome);
    let end = outcome.ended();
    assert_eq!(end.stubs, [Path::new("/etc/hostname"), Path::new("/etc/resolv.conf")]);
    assert_eq!(end.stub_parents, [Path::new("/etc")]);
    assert_eq!(
        fs::metadata(outcome.upper.join("etc")).expect("it was copied up").mtime_nsec(),
        before,
        "the time is restored"
    );
    let written = run(spawner, image.shell("echo evil > /etc/hosts || echo refused; touch /etc/x"));
    assert!(written.success().contains("refused"), "{}", written.output);
    let after = fs::metadata(written.upper.join("etc")).expect("it was copied up").mtime_nsec();
    assert_ne!(after, before, "the step's own change of the directory counts");
}

fn a_skeleton_spares_the_upper_directory(spawner: &Spawner) {
    let image = Image::new();
    let mut spec = image.shell("cat /etc/hosts /etc/resolv.conf /etc/hostname; stat -c %d /etc/hosts /bin/sh | sort -u | wc -l; touch /x; rm -r /etc/group");
    spec.rootfs.lowers.push(image.skeleton());
    let outcome = run(spawner, spec);
    assert_eq!(outcome.success(), "127.0.0.1 localhost\nnameserver 192.0.2.1\nstep\n2\n");
    assert_eq!(outcome.ended().stubs, Vec::<std::path::PathBuf>::new());
    assert_eq!(tree(&outcome.upper), ["/etc", "/etc/group", "/x"]);
}

fn net_06_etc_files_are_bound_through_links_of_the_image(spawner: &Spawner) {
    let image = Image::new();
    symlink("../run/systemd/resolve/stub-resolv.conf", image.lower.join("etc/resolv.conf"))
        .expect("the image can be made");
    let outcome = run(spawner, image.shell("cat /etc/resolv.conf; readlink /etc/resolv.conf"));
    assert_eq!(outcome.success(), "nameserver 192.0.2.1\n../run/systemd/resolve/stub-resolv.conf\n");
    assert!(!tree(&outcome.upper).iter().any(|path| path.contains("systemd")), "{:?}", tree(&outcome.upper));
}

fn a_missing_working_directory_is_made(spawner: &Spawner) {
    let image = Image::new();
    symlink("/run", image.lower.join("var/lock")).expect("the image can be made");
    let mut spec = image.shell("pwd");
    spec.cwd = "/var/lock/a/b".into();
    let outcome = run(spawner, spec);
    assert_eq!(outcome.success(), "/run/a/b\n");
    let made = fs::metadata(outcome.upper.join("run/a/b")).expect("it stays");
    assert_eq!((made.mode() & 0o7777, made.uid()), (0o755, 0));
    let mut spec = image.shell("pwd");
    spec.cwd = "/etc/passwd".into();
    assert!(run(spawner, spec).refusal().contains("not a directory"));
}

fn devices_and_links_of_dev(spawner: &Spawner) {
    let image = Image::new();
    let script =
        "cd /dev; ls | tr '\\n' ' '; stat -c %a null shm; echo ok > /dev/fd/1; touch shm/x; ls pts mqueue";
    let outcome = run(spawner, image.shell(script));
    assert!(outcome.success().starts_with("core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero 666\n1777\nok\n"), "{}", outcome.output);
    leaves_nothing(&outcome);
}

fn mt_04_what_the_step_puts_in_place_of_a_mount_point_stays(spawner: &Spawner) {
    let image = Image::new();
    let canary = image.scratch.path().join("canary");
    fs::create_dir(&canary).expect("it can be made");
    fs::create_dir(canary.join("b")).expect("it can be made");
    let mount = || bind("/a/b", MountSource::Tmpfs { size: None, mode: 0o755 }, Access::ReadWrite);
    let mut spec = image.shell("touch /a/b/x; ls /a/b");
    spec.mounts.push(mount());
    let plain = run(spawner, spec);
    assert_eq!(plain.success(), "x\n");
    assert!(!tree(&plain.upper).contains(&"/a".to_owned()), "{:?}", tree(&plain.upper));
    let mut spec = image.shell(&format!("mv /a /old && ln -s {} /a && ls /old/b", canary.display()));
    spec.mounts.push(mount());
    let moved = run(spawner, spec);
    assert_eq!(tree(&canary), ["/b"], "the canary is untouched");
    if moved.ended().status == ExitStatus::Code(0) {
        assert!(fs::symlink_metadata(moved.upper.join("a")).expect("the step's link stays").is_symlink());
    }
    let mut spec = image.shell("touch /a/kept");
    spec.mounts.push(mount());
    let kept = run(spawner, spec);
    kept.success();
    assert!(
        tree(&kept.upper).contains(&"/a/kept".to_owned()) && !tree(&kept.upper).contains(&"/a/b".to_owned())
    );
}

fn mt_05_writes_to_layers_are_discarded(spawner: &Spawner) {
    let image = Image::new();
    let context = image.scratch.path().join("context");
    write(context.join("dir/file"), "original");
    symlink("/dir", context.join("rootdir")).expect("it can be made");
    let layers = |writes: Option<Writes>, subpath: &str| MountSource::Layers {
        overlay: Overlay { lowers: vec![context.clone()], writes },
        subpath: subpath.into(),
    };
    let mut spec = image.shell("echo changed > /x/file && cat /x/file; touch /y/new || echo refused; cat /z");
    spec.mounts = vec![
        bind("/x", layers(Some(image.writes("view")), "/rootdir"), Access::ReadWrite),
        bind("/y", layers(None, "/dir"), Access::ReadOnly),
        bind("/z", layers(None, "/dir/file"), Access::ReadOnly),
    ];
    let outcome = run(spawner, spec);
    assert!(
        outcome.success().starts_with("changed\n")
            && outcome.output.contains("refused")
            && outcome.output.ends_with("original"),
        "{}",
        outcome.output
    );
    assert_eq!(fs::read_to_string(context.join("dir/file")).expect("it is there"), "original");
    leaves_nothing(&outcome);
    let mut spec = image.shell("true");
    spec.mounts = vec![bind("/x", layers(None, "/nosuch"), Access::ReadOnly)];
    assert!(run(spawner, spec).refusal().contains("/nosuch"));
}

fn mt_06_kinds_and_targets_are_checked(spawner: &Spawner) {
    let image = Image::new();
    let file = image.scratch.path().join("file");
    write(&file, "content");
    for (target, source, expected) in [
        ("/etc", handle(&file), "the source is a file"),
        ("/etc/passwd", handle(&image.lower), "the source is a directory"),
        ("relative", handle(&file), "not absolute"),
    ] {
        let mut spec = image.shell("true");
        spec.mounts.push(bind(target, source, Access::ReadOnly));
        let refusal = run(spawner, spec).refusal();
        assert!(refusal.contains(expected), "{target}: {refusal}");
    }
    let mut spec = image.shell("cat /etc/passwd /new/file");
    spec.mounts = vec![
        bind("/etc/passwd", handle(&file), Access::ReadOnly),
        bind("/new/file", handle(&file), Access::ReadOnly),
    ];
    let outcome = run(spawner, spec);
    assert_eq!(outcome.success(), "contentcontent");
    leaves_nothing(&outcome);
}

fn mt_07_paths_are_never_parsed_as_options(spawner: &Spawner) {
    let image = Image::new();
    let odd = image.scratch.path().join("a,upperdir=/x:b\\c\"d e\nf").join("g".repeat(200));
    fs::create_dir_all(&odd).expect("it can be made");
    let lower = odd.join("lower,:");
    fs::rename(&image.lower, &lower).expect("it can be moved");
    let mut spec = image.shell("echo x > /new");
    let writes = Writes { upper: odd.join("up:per"), work: odd.join("wo,rk") };
    fs::create_dir(&writes.upper).expect("it can be made");
    fs::create_dir(&writes.work).expect("it can be made");
    spec.rootfs = Overlay { lowers: vec![lower], writes: Some(writes) };
    let outcome = run(spawner, spec);
    outcome.success();
    assert!(outcome.upper.join("new").exists());
}

fn mt_10_secrets_are_files_in_memory(spawner: &Spawner) {
    let image = Image::new();
    symlink("/etc", image.lower.join("run/secrets")).expect("the image can be made");
    let secret = |mode| MountSource::File(MemoryFile { data: b"s3cret".to_vec(), mode, uid: 1000, gid: 5 });
    let mut spec = image.shell("cat /run/secrets/token /etc/passwd; stat -Lc '%a %u %g' /run/secrets/token; echo x > /run/secrets/token || echo refused");
    spec.mounts = vec![
        bind("/run/secrets/token", secret(0o400), Access::ReadOnly),
        bind("/etc/passwd", secret(0o644), Access::ReadOnly),
    ];
    let outcome = run(spawner, spec);
    assert!(
        outcome.success().starts_with("s3crets3cret400 1000 5\n") && outcome.output.contains("refused"),
        "{}",
        outcome.output
    );
    leaves_nothing(&outcome);
}

fn cache_directories_are_shared(spawner: &Spawner) {
    let image = Image::new();
    let cache = image.scratch.path().join("cache");
    fs::create_dir(&cache).expect("it can be made");
    for (access, script, code) in [
        (Access::ReadWrite, "echo x > /root/.cache/a", 0),
        (Access::ReadOnly, "cat /root/.cache/a && touch /root/.cache/b", 1),
    ] {
        let mut spec = image.shell(script);
        spec.mounts.push(bind("/root/.cache", handle(&cache), access));
        let outcome = run(spawner, spec);
        assert_eq!(outcome.ended().status, ExitStatus::Code(code), "{}", outcome.output);
        assert!(
            !tree(&outcome.upper).iter().any(|path| path.contains("cache")),
            "{:?}",
            tree(&outcome.upper)
        );
    }
    assert_eq!(tree(&cache), ["/a"]);
}

fn tmpfs_mounts_have_a_size(spawner: &Spawner) {
    let image = Image::new();
    let mut spec = image.shell("stat -c %a /data; head -c 100000 /dev/zero > /data/x || echo full");
    spec.mounts.push(bind(
        "/data",
        MountSource::Tmpfs { size: Some(65536), mode: 0o1777 },
        Access::ReadWrite,
    ));
    let outcome = run(spawner, spec);
    assert!(
        outcome.success().starts_with("1777\n") && outcome.output.ends_with("full\n"),
        "{}",
        outcome.output
    );
}

fn pipes_are_read_only_scripts(spawner: &Spawner) {
    let image = Image::new();
    let mut spec = image.program(&["/dev/pipes/EOF"]);
    spec.pipes.push(PipeFile {
        name: "EOF".to_owned(),
        data: b"#!/bin/sh\necho from a heredoc\n".to_vec(),
        mode: 0o755,
    });
    let outcome = run(spawner, spec);
    assert_eq!(outcome.success(), "from a heredoc\n");
    leaves_nothing(&outcome);
    let mut spec = image.shell("true");
    spec.pipes.push(PipeFile { name: "../evil".to_owned(), data: Vec::new(), mode: 0o755 });
    assert!(run(spawner, spec).refusal().contains("not one path component"));
}

fn host_ca_is_trusted_and_leaves_no_trace(spawner: &Spawner) {
    let image = Image::new();
    let bundle = image.scratch.path().join("bundle.pem");
    write(&bundle, "host bundle\n");
    write(image.lower.join("etc/ssl/certs/ca-certificates.crt"), "image bundle\n");
    let mut spec =
        image.shell("cat /etc/ssl/certs/ca-certificates.crt $SSL_CERT_FILE $PIP_CERT; echo $CURL_CA_BUNDLE");
    spec.host_ca = Some(bundle);
    spec.env.push(("CURL_CA_BUNDLE".into(), "/mine".into()));
    let outcome = run(spawner, spec);
    assert_eq!(outcome.success(), "host bundle\nhost bundle\nhost bundle\n/mine\n");
    leaves_nothing(&outcome);
}

fn empty_root_and_missing_directories(spawner: &Spawner) {
    let image = Image::new();
    let bare = image.scratch.path().join("bare");
    fs::create_dir(&bare).expect("it can be made");
    fs::copy("/bin/busybox", bare.join("busybox")).expect("it can be copied");
    let mut spec = image.program(&["/busybox", "ls", "/", "/etc"]);
    spec.rootfs.lowers = vec![bare];
    let outcome = run(spawner, spec);
    assert_eq!(
        outcome.success(),
        "/:\nbusybox\ndev\netc\nproc\nsys\n\n/etc:\nhostname\nhosts\nresolv.conf\n"
    );
    assert_eq!(tree(&outcome.upper), Vec::<String>::new());
    let mut spec = image.program(&["/busybox"]);
    spec.rootfs.lowers = Vec::new();
    assert!(run(spawner, spec).refusal().contains("no such file in the image"));
}

/// One overlay takes 500: of more, the lowest are one of their own. Whiteouts reach through.
fn many_layers(spawner: &Spawner) {
    let image = Image::new();
    let whiteout = |path: &std::path::Path| {
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::empty(), 0)
            .expect("a whiteout can be made");
    };
    let layers: Vec<_> = (0..999)
        .map(|number| {
            let layer = image.scratch.path().join(format!("layer{number}"));
            write(layer.join(format!("layers/{number}")), "");
            // Each takes away what two below it had.
            if number >= 2 {
                whiteout(&layer.join(format!("layers/{}", number - 2)));
            }
            layer
        })
        .collect();
    for count in [200, 500, 501, 999] {
        let mut lowers = vec![image.lower.clone()];
        lowers.extend(layers.iter().take(count - 1).cloned());
        lowers.reverse();
        let mut spec = image.shell("ls /layers; echo x > /layers/new; rm /layers/[0-9]*; ls /layers");
        spec.rootfs.lowers = lowers;
        let expected = format!("{}\n{}\nnew\n", count - 3, count - 2);
        assert_eq!(run(spawner, spec).success(), expected, "{count} layers");
    }
    let mut spec = image.program(&["/busybox"]);
    spec.rootfs.lowers = [layers, vec![image.lower.clone()]].concat();
    assert!(run(spawner, spec).refusal().contains("1000 layers"), "the kernel takes 999");
}

fn a_layer_may_occur_twice(spawner: &Spawner) {
    let image = Image::new();
    let (empty, twice, between) =
        (image.scratch.path().join("e"), image.scratch.path().join("t"), image.scratch.path().join("b"));
    fs::create_dir(&empty).expect("it can be made");
    write(twice.join("d/a"), "a");
    fs::create_dir_all(between.join("d")).expect("it can be made");
    let whiteout = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, between.join("d/a"), whiteout, rustix::fs::Mode::empty(), 0)
        .expect("a whiteout can be made");
    let mut spec = image.shell("cat /d/a; ls /d");
    spec.rootfs.lowers = vec![empty.clone(), twice.clone(), between, empty, twice, image.lower.clone()];
    assert_eq!(run(spawner, spec).success(), "aa\n");
}

fn views_show_layers_to_the_builder(_: &Spawner) {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    use std::io::Read;
    use std::os::fd::AsFd;
    let image = Image::new();
    let top = image.scratch.path().join("top");
    let empty = image.scratch.path().join("empty");
    fs::create_dir(&empty).expect("it can be made");
    write(top.join("etc/new"), "new");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        top.join("etc/group"),
        rustix::fs::FileType::CharacterDevice,
        Mode::empty(),
        0,
    )
    .expect("a whiteout can be made");
    for (lowers, visible, hidden) in [
        (vec![top.clone(), image.lower.clone()], "etc/new", "etc/group"),
        (vec![image.lower.clone()], "etc/group", "etc/new"),
        (vec![top.clone()], "etc/new", "etc/group"),
        (vec![], ".", "etc"),
    ] {
        let view = mount_readonly(&lowers, &empty).expect("it can be mounted");
        let open = |path: &str| {
            rustix::fs::openat2(view.as_fd(), path, OFlags::RDONLY, Mode::empty(), ResolveFlags::IN_ROOT)
        };
        let mut file = fs::File::from(open(visible).expect("it is visible"));
        if visible == "etc/new" {
            let mut text = String::new();
            file.read_to_string(&mut text).expect("it can be read");
            assert_eq!(text, "new");
        }
        assert!(open(hidden).is_err(), "{hidden} in {lowers:?}");
        assert!(
            rustix::fs::openat(view.as_fd(), "x", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).is_err(),
            "it is read-only"
        );
    }
    assert!(
        fs::metadata(image.lower.join("bin/busybox")).expect("it is there").permissions().mode() & 0o111 != 0
    );
}
