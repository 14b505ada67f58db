//! What several processes do to one store at the same moment. Each `Store` value stands for a process: it has its own
//! journal and its own descriptors of locks.

use std::sync::Barrier;
use std::time::Duration;

use super::*;
use crate::Digest;

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    (directory, store)
}

fn another(store: &Store) -> Store {
    Store::open(store.root()).unwrap()
}

/// The store as a process of another boot finds it.
fn after_reboot(store: &Store) -> Store {
    let journal = Arc::new(Journal::open_in_boot(store.root(), "another-boot".to_owned()));
    let layout = Layout::open(&store.root().join("images")).unwrap().with_journal(journal.clone());
    Store { root: store.root.clone(), layout, journal }
}

/// Does `look` in a thread while this one is between its two acts; returns what it found.
fn meanwhile<T: Send>(
    journal: &Journal,
    object: &str,
    put: impl FnOnce(),
    look: impl FnOnce() -> T + Send,
) -> T {
    std::thread::scope(|scope| {
        let looking = journal.place(object, || {
            put();
            let looking = scope.spawn(look);
            // Long enough to see it if nothing holds it back.
            for _ in 0..20 {
                if looking.is_finished() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(looking)
        });
        looking.unwrap().join().unwrap()
    })
}

#[test]
fn a_layer_that_is_not_recorded_yet_is_not_taken_away() {
    let (_directory, store) = store();
    let other = another(&store);
    let staging = store.staging().unwrap();
    std::fs::create_dir(staging.path().join("l")).unwrap();
    let path = store.layer_path("root", "id");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let put = || staging.move_out(&staging.path().join("l"), &path).unwrap();
    let found =
        meanwhile(store.journal(), &Journal::layer("root", "id"), put, || other.layer("root", "id").unwrap());
    assert_eq!(found.as_ref(), Some(&path));
    assert!(path.is_dir());
}

#[test]
fn processes_that_unpack_the_same_layers_find_them() {
    let (_directory, store) = store();
    let start = Barrier::new(6);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            let process = another(&store);
            let start = &start;
            scope.spawn(move || {
                start.wait();
                for number in 0..40 {
                    let id = number.to_string();
                    let _ = process.layer("root", &id).unwrap();
                    let staging = process.staging().unwrap();
                    let made = staging.path().join("l");
                    std::fs::create_dir_all(made.join("fs")).unwrap();
                    let placed = process.place_layer(&staging, &made, "root", &id).unwrap();
                    assert!(placed.join("fs").is_dir(), "layer {id} was taken away");
                }
            });
        }
    });
    for number in 0..40 {
        assert!(store.layer("root", &number.to_string()).unwrap().is_some());
    }
}

#[test]
fn a_torn_blob_is_not_mistaken_for_the_whole_one_that_replaces_it() {
    let (_directory, store) = store();
    let digest = store.layout().put(b"whole").unwrap();
    let path = store.layout().blob_path(&digest);
    let (one, two) = (after_reboot(&store), after_reboot(&store));
    std::fs::write(&path, "torn").unwrap();
    // The first has read torn bytes; before it removes them, the second has put the whole ones there.
    assert!(!two.layout().has(&digest).unwrap());
    two.layout().put(b"whole").unwrap();
    let displaced = one.journal().displace(&Journal::blob(&digest), || one.layout().remove(&digest)).unwrap();
    assert_eq!(displaced, None);
    assert_eq!(one.layout().size(&digest).unwrap(), Some(5));
    assert!(path.exists());
}

#[test]
fn a_blob_that_another_process_removes_while_it_is_checked_is_a_miss() {
    let (_directory, store) = store();
    let blobs: Vec<Digest> =
        (0..200).map(|number| store.layout().put(format!("{number}").as_bytes()).unwrap()).collect();
    blobs.iter().for_each(|digest| std::fs::write(store.layout().blob_path(digest), "torn").unwrap());
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let process = after_reboot(&store);
            let (start, blobs) = (&start, &blobs);
            scope.spawn(move || {
                start.wait();
                blobs.iter().for_each(|digest| assert_eq!(process.layout().size(digest).unwrap(), None));
            });
        }
    });
}

#[test]
fn what_is_made_again_after_its_marks_were_dropped_is_trusted_by_others() {
    let (_directory, store) = store();
    let digest = store.layout().put(b"x").unwrap();
    let object = Journal::blob(&digest);
    // Somebody removes the object, and the lists forget it; this process does not.
    store.layout().remove(&digest).unwrap();
    for entry in std::fs::read_dir(store.root().join("marks")).unwrap() {
        std::fs::write(entry.unwrap().path(), "").unwrap();
    }
    assert!(store.journal().trusts(&object) && !another(&store).journal().trusts(&object));
    store.layout().put(b"x").unwrap();
    assert!(another(&store).journal().trusts(&object));
}

#[test]
fn layouts_that_are_made_at_the_same_time_lose_no_name() {
    let image = crate::document::descriptor("a/b", Digest::of(b"x"), 1);
    for _ in 0..60 {
        let directory = tempfile::tempdir().unwrap();
        let start = Barrier::new(6);
        std::thread::scope(|scope| {
            for number in 0..6 {
                let (start, image, path) = (&start, &image, directory.path());
                scope.spawn(move || {
                    start.wait();
                    let layout = Layout::create(path).unwrap();
                    layout.tag(&format!("a:{number}").parse().unwrap(), image).unwrap();
                });
            }
        });
        assert_eq!(Layout::open(directory.path()).unwrap().names().unwrap().len(), 6);
    }
}
