//! What a store promises: it is ours alone, whole after any kill, and prune sees what builds use.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;
use crate::digest::Algorithm;
use crate::layout::LAYOUT_FILE;
use crate::lock::Attempt;
use crate::{DiffId, Digest, document};

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    (directory, store)
}

/// The store as a process of another boot finds it.
fn after_reboot(store: &Store) -> Store {
    let journal = Arc::new(Journal::open_in_boot(store.root(), "another-boot".to_owned()));
    let layout = Layout::open(&store.root().join("images")).unwrap().with_journal(journal.clone());
    Store { root: store.root.clone(), layout, journal }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn cache_01_a_store_is_its_owners_alone() {
    let (_directory, store) = store();
    assert_eq!(mode(store.root()), 0o700);
    std::fs::set_permissions(store.root(), Permissions::from_mode(0o755)).unwrap();
    Store::open(store.root()).unwrap();
    assert_eq!(mode(store.root()), 0o700, "readers are shut out");
    std::fs::set_permissions(store.root(), Permissions::from_mode(0o777)).unwrap();
    let error = Store::open(store.root()).unwrap_err().to_string();
    assert!(error.contains("others may write") && error.contains("chmod 700"), "{error}");
    if rustix::process::geteuid().is_root() {
        std::fs::set_permissions(store.root(), Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(store.root(), Some(4242), None).unwrap();
        let error = Store::open(store.root()).unwrap_err();
        assert!(matches!(error, Error::Owner { owner: 4242, user: 0, .. }), "{error}");
    } else {
        println!("SKIP: chown needs root");
    }
}

#[test]
fn cache_07_newer_stores_and_foreign_directories_are_refused() {
    let (directory, store) = store();
    for version in ["2\n", "0", "x"] {
        std::fs::write(store.root().join("version"), version).unwrap();
        assert!(matches!(Store::open(store.root()), Err(Error::Version { .. })), "{version:?}");
    }
    std::fs::write(directory.path().join("letters"), "x").unwrap();
    assert!(matches!(Store::open(directory.path()), Err(Error::NoStore { .. })));
    assert!(matches!(Store::open(&directory.path().join("letters")), Err(Error::NoStore { .. })));
}

#[test]
fn a_half_made_store_is_completed() {
    let (_directory, store) = store();
    for name in ["version", "tmp", "images"] {
        super::remove_tree(&store.root().join(name)).unwrap();
    }
    Store::open(store.root()).unwrap();
    super::remove_tree(&store.root().join("images")).unwrap();
    let again = Store::open(store.root()).unwrap();
    assert_eq!(again.layout().names().unwrap(), [], "missing images are a miss, not an error");
}

#[test]
fn files_that_a_power_failure_emptied_are_written_anew_and_the_rest_is_kept() {
    let (_directory, store) = store();
    let digest = store.layout().put(b"kept").unwrap();
    for damage in [&b""[..], &[0; 8], b"\n"] {
        for name in ["version", "images/oci-layout"] {
            std::fs::write(store.root().join(name), damage).unwrap();
        }
        let again = Store::open(store.root()).unwrap();
        assert!(again.layout().has(&digest).unwrap());
        assert_eq!(again.layout().names().unwrap(), []);
        assert_eq!(std::fs::read(store.root().join("version")).unwrap(), b"1\n");
        assert_eq!(std::fs::read(store.root().join("images/oci-layout")).unwrap(), LAYOUT_FILE.as_bytes());
    }
}

#[test]
fn first_builds_at_once_make_one_store() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("a/b");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| Store::open(&root).unwrap().layout().put(b"x").unwrap());
        }
    });
}

#[test]
fn opening_a_store_is_cheap() {
    let (_directory, store) = store();
    // Of processors: how busy the machine and its disks are counts for nothing.
    let time =
        || Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)).unwrap();
    let start = time();
    for _ in 0..100 {
        Store::open(store.root()).unwrap();
    }
    let each = (time() - start) / 100;
    println!("opening a store: {each:?}");
    assert!(each < Duration::from_millis(5), "{each:?}");
}

#[test]
fn staging_of_the_dead_is_swept_and_of_the_living_is_not() {
    let (_directory, store) = store();
    let live = store.staging().unwrap();
    std::fs::write(live.path().join("x"), "x").unwrap();
    let dead = store.root().join("tmp/dead");
    std::fs::create_dir_all(dead.join("work/work/deep")).unwrap();
    std::fs::write(dead.join("lock"), "").unwrap();
    std::fs::create_dir(store.root().join("tmp/without-lock")).unwrap();
    std::fs::write(store.root().join("tmp/.tmp-dead"), "").unwrap();
    std::fs::set_permissions(dead.join("work/work"), Permissions::from_mode(0o000)).unwrap();
    store.sweep().unwrap();
    let left: Vec<_> =
        std::fs::read_dir(store.root().join("tmp")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, [live.path()]);
    assert!(live.path().join("x").exists());
    drop(live);
    assert_eq!(std::fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
}

#[test]
fn staging_survives_a_sweeper_that_never_stops() {
    let (_directory, store) = store();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                store.sweep().unwrap();
            }
        });
        for number in 0..60 {
            let staging = store.staging().unwrap();
            std::fs::write(staging.path().join("x"), "x").unwrap();
            staging
                .move_out(&staging.path().join("x"), &store.root().join(format!("index/{number}")))
                .unwrap();
            store.write_step("key", b"record").unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(std::fs::read_dir(store.root().join("index")).unwrap().count(), 60);
}

#[test]
fn tar_52_deep_trees_are_removed_without_recursion() {
    let (_directory, store) = store();
    let staging = store.staging().unwrap();
    let top = staging.path().join("deep");
    std::fs::create_dir(&top).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut handle = rustix::fs::open(&top, flags, Mode::empty()).unwrap();
    for _ in 0..1_500 {
        rustix::fs::mkdirat(&handle, "d", Mode::from_raw_mode(0o755)).unwrap();
        handle = rustix::fs::openat(&handle, "d", flags, Mode::empty()).unwrap();
    }
    drop(handle);
    std::os::unix::fs::symlink("/", top.join("link")).unwrap();
    super::remove_tree(&top).unwrap();
    assert!(!top.exists());
    super::remove_tree(&top).unwrap();
}

#[test]
fn unmarked_objects_of_another_boot_are_checked_or_dropped() {
    let (_directory, store) = store();
    let (good, torn) = (store.layout().put(b"good").unwrap(), store.layout().put(b"torn").unwrap());
    let staging = store.staging().unwrap();
    std::fs::create_dir(staging.path().join("l")).unwrap();
    store.place_layer(&staging, &staging.path().join("l"), "root", "id").unwrap();
    std::fs::write(store.layout().blob_path(&torn), "").unwrap();
    assert!(store.layer("root", "id").unwrap().is_some(), "this boot trusts what it made");
    assert!(
        Store::open(store.root()).unwrap().layer("root", "id").unwrap().is_some(),
        "so does another process"
    );

    let rebooted = after_reboot(&store);
    assert!(rebooted.layout().has(&good).unwrap(), "a whole blob is verified and kept");
    assert!(!rebooted.layout().has(&torn).unwrap(), "a torn blob is dropped");
    assert!(!store.layout().blob_path(&torn).exists());
    assert!(rebooted.layer("root", "id").unwrap().is_none());
    assert!(!store.layer_path("root", "id").exists());
}

#[test]
fn sha512_blobs_are_marked_checked_and_kept_like_others() {
    let (_directory, store) = store();
    let [good, torn] = ["good", "torn"].map(|text| {
        let mut writer = store.layout().writer_by(Algorithm::Sha512).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
        writer.finish().unwrap().digest
    });
    store.layout().put(b"torn").unwrap();
    std::fs::write(store.layout().blob_path(&torn), "").unwrap();
    let rebooted = after_reboot(&store);
    assert!(rebooted.layout().has(&good).unwrap() && !rebooted.layout().has(&torn).unwrap());
    assert_eq!(store.layout().blobs_in_store().unwrap(), [(Digest::of(b"torn"), 4), (good, 4)]);
    let (_, blobs) = store.usage().into_iter().find(|(kind, _)| *kind == Kind::Blobs).unwrap();
    assert_eq!(blobs.objects, 2);
    // Shortening the list of marks looks for a blob where it is.
    store.make_durable().unwrap();
    let marks = store.root().join("marks/durable");
    let gone: String = (0..3000).map(|number| format!("layer/root/{number}\n")).collect();
    std::fs::write(&marks, std::fs::read_to_string(&marks).unwrap() + &gone).unwrap();
    store.sweep().unwrap();
    assert!(after_reboot(&store).journal().trusts(&Journal::blob(&good)));
    assert!(!after_reboot(&store).journal().trusts(&Journal::blob(&torn)));
}

#[test]
fn durable_objects_outlive_a_boot() {
    let (_directory, store) = store();
    let staging = store.staging().unwrap();
    std::fs::create_dir(staging.path().join("l")).unwrap();
    store.place_layer(&staging, &staging.path().join("l"), "root", "id").unwrap();
    store.make_durable().unwrap();
    let marks = std::fs::metadata(store.root().join("marks/durable")).unwrap().len();
    store.make_durable().unwrap();
    assert_eq!(
        std::fs::metadata(store.root().join("marks/durable")).unwrap().len(),
        marks,
        "nothing new, no work"
    );
    assert!(after_reboot(&store).layer("root", "id").unwrap().is_some());
    // A torn list trusts less, never more.
    std::fs::write(store.root().join("marks/durable"), b"\0\0\0layer/root/i").unwrap();
    assert!(after_reboot(&store).layer("root", "id").unwrap().is_none());
}

#[test]
fn a_long_list_of_marks_is_shortened_to_what_is_there() {
    let (_directory, store) = store();
    let kept = store.layout().put(b"kept").unwrap();
    store.make_durable().unwrap();
    let marks = store.root().join("marks/durable");
    let gone: String = (0..3000).map(|number| format!("layer/root/{number}\n")).collect();
    std::fs::write(&marks, std::fs::read_to_string(&marks).unwrap() + &gone).unwrap();
    store.sweep().unwrap();
    assert_eq!(std::fs::read_to_string(&marks).unwrap().lines().count(), 2);
    assert!(after_reboot(&store).journal().trusts(&Journal::blob(&kept)));
    store.sweep().unwrap();
    assert_eq!(std::fs::read_to_string(&marks).unwrap().lines().count(), 2);
}

#[test]
fn prune_sees_live_leases_only() {
    let (_directory, store) = store();
    let things = [
        Leased::Blob(Digest::of(b"b")),
        Leased::Blob(Algorithm::Sha512.digest(b"b")),
        Leased::Layer("root".into(), "id".into()),
        Leased::Diff(DiffId(Digest::of(b"d"))),
        Leased::Diff(DiffId(Algorithm::Sha512.digest(b"d"))),
        Leased::Step("k".into()),
    ];
    let lease = store.lease().unwrap();
    lease.add(&things[..2]).unwrap();
    lease.add(&things[1..]).unwrap();
    let dead = store.root().join("tmp/dead");
    std::fs::create_dir(&dead).unwrap();
    std::fs::write(dead.join("lease"), "step dead\n").unwrap();
    {
        let guard = store.prune_guard().unwrap();
        assert!(things.iter().all(|thing| guard.is_leased(thing)), "{:?}", guard.leased());
        assert!(!guard.is_leased(&Leased::Step("dead".into())));
        assert_eq!(guard.leased().len(), 6);
    }
    drop(lease);
    assert_eq!(store.prune_guard().unwrap().leased(), []);
}

#[test]
fn packed_blobs_that_somebody_removed_are_a_miss() {
    let (_directory, store) = store();
    let diff_id = DiffId(Digest::of(b"tar"));
    assert_eq!(store.packed(&diff_id, "gzip-1").unwrap(), None);
    let digest = store.layout().put(b"blob").unwrap();
    let descriptor = document::descriptor("a/b", digest, 4);
    store.set_packed(&diff_id, "gzip-1", &descriptor).unwrap();
    assert_eq!(store.packed(&diff_id, "gzip-1").unwrap(), Some(descriptor));
    assert_eq!(store.packed(&diff_id, "zstd-3").unwrap(), None);
    store.layout().remove(&digest).unwrap();
    assert_eq!(store.packed(&diff_id, "gzip-1").unwrap(), None);
    std::fs::write(store.root().join("packed").join(format!("{}.gzip-1", diff_id.0.hex())), "").unwrap();
    assert_eq!(store.packed(&diff_id, "gzip-1").unwrap(), None, "a torn record");
}

#[test]
fn keys_never_become_paths() {
    let (_directory, store) = store();
    for key in ["../../x", "/etc/passwd", "..", ".", "a/b", "\0"] {
        let path = store.step_path(key);
        assert_eq!(path.parent(), Some(store.steps().as_path()), "{key:?}");
        store.write_step(key, b"r").unwrap();
        assert_eq!(store.read_step(key).unwrap().as_deref(), Some(&b"r"[..]));
    }
    assert_eq!(store.read_step("missing").unwrap(), None);
}

#[test]
fn waiting_for_a_step_names_the_holder_and_ends_with_it() {
    let (_directory, store) = store();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let Attempt::Acquired(held) = store.try_lock_step("k", "RUN make").unwrap() else { panic!("free") };
    runtime.block_on(async {
        let mut told = Vec::new();
        let patience = Duration::from_millis(30);
        let cancelled =
            tokio::time::timeout(patience, store.lock_step("k", "x", |holder| told.push(holder.clone())))
                .await;
        assert!(cancelled.is_err(), "waiting can be given up");
        assert_eq!(told.len(), 1);
        assert!(told[0].0.contains("RUN make"), "{told:?}");
        drop(held);
        store.lock_step("k", "x", |_| panic!("free")).await.unwrap();
    });
}

#[test]
fn a_full_disk_is_a_resource_error() {
    let (_directory, store) = store();
    let space = store.space().unwrap();
    assert!(space.reserve() <= space.total / 20);
    let error = store.check_space(u64::MAX).unwrap_err();
    assert!(error.is_resource() && error.to_string().contains("--root"), "{error}");
    assert!(Error::io("write", store.root())(rustix::io::Errno::NOSPC).is_resource());
    assert!(Error::io("write", store.root())(rustix::io::Errno::DQUOT).is_resource());
    assert!(!Error::io("write", store.root())(rustix::io::Errno::IO).is_resource());
    assert_eq!(
        (human(0), human(1023), human(1536), human(3 << 30)),
        ("0 B".into(), "1023 B".into(), "1.5 KiB".into(), "3.0 GiB".into())
    );
}

#[test]
fn usage_counts_files_with_two_names_once() {
    let (_directory, store) = store();
    let layer = store.layer_path("root", "id");
    std::fs::create_dir_all(&layer).unwrap();
    std::fs::write(layer.join("a"), [1; 100_000]).unwrap();
    std::fs::hard_link(layer.join("a"), layer.join("b")).unwrap();
    let usage = store.usage();
    let (_, layers) = usage.iter().find(|(kind, _)| *kind == Kind::Layers).unwrap();
    assert_eq!(layers.objects, 1);
    assert_eq!(layers.inodes, 3, "flavour, layer, file");
    assert!((100_000..200_000).contains(&layers.bytes), "{layers:?}");
}
