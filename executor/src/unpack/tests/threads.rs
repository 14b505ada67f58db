//! Files made on several threads come out as if one had made them.

use std::os::unix::fs::MetadataExt;

use oci::digest::Algorithm;
use oci::layer::Mtime;

use super::*;

/// A layer of many files in some directories, with owners, modes, times, links and an attribute here and there.
fn many(count: usize) -> LayerIndex {
    let mut entries = Vec::new();
    for n in 0..count {
        let directory = PathBuf::from(format!("d{}", n % 7)).join(format!("e{}", n % 3));
        let mut entry = Entry::plain(
            directory.join(format!("f{n}")),
            Kind::File { size: n as u64 % 90, content: None },
            0o600,
        );
        entry.mode = [0o644, 0o4755, 0o400, 0o2711][n % 4];
        (entry.uid, entry.gid) = [(0, 0), (7, 8), (0, 9), (70_000, 0)][n % 4];
        entry.mtime = Mtime { seconds: n as i64, nanoseconds: 5 };
        if n % 11 == 0 {
            entry.xattrs.insert(b"user.n".to_vec(), n.to_string().into_bytes());
        }
        if n % 13 == 0 {
            let target = entry.path.clone();
            entries.push(Entry::plain(directory.join(format!("h{n}")), Kind::HardLink { target }, 0o644));
        }
        entries.push(entry);
    }
    for d in 0..7 {
        entries.push(Entry {
            mtime: Mtime { seconds: d, nanoseconds: 0 },
            ..Entry::directory(format!("d{d}"), 0o711)
        });
        entries.extend((0..3).map(|e| Entry::directory(format!("d{d}/e{e}"), 0o755)));
    }
    LayerIndex::new(entries, BTreeMap::new()).unwrap()
}

fn bytes(entry: &Entry) -> Vec<u8> {
    let name = entry.path.as_os_str().as_encoded_bytes();
    name.iter().cycle().take(usize::try_from(entry.size()).unwrap()).copied().collect()
}

fn unpacked(index: &LayerIndex, share: usize) -> (Scratch, Result<Vec<LeftOut>, UnpackError>) {
    let scratch = scratch();
    let mut content = |entry: &Entry| Ok(Content::Bytes(bytes(entry)));
    let left_out = unpack_shared(scratch.root.as_fd(), index, Flavour::Root, &mut content, share);
    (scratch, left_out)
}

#[test]
fn threads_make_what_one_thread_makes() {
    if !is_root() {
        return;
    }
    let index = many(1500);
    let alone = unpacked(&index, usize::MAX);
    let expected = pack_again(&alone.0.root).1;
    for share in [1, 3, files::SHARE] {
        let (scratch, left_out) = unpacked(&index, share);
        assert_eq!(left_out.unwrap(), []);
        assert!(pack_again(&scratch.root).1 == expected, "{share} at a time");
    }
}

#[test]
fn the_first_error_in_path_order_is_told_and_what_is_left_out_is_in_order() {
    if !is_root() {
        return;
    }
    let mut entries = many(400).entries().to_vec();
    for entry in &mut entries {
        // The file system knows no such class.
        entry.xattrs.insert(b"bogus.a".to_vec(), Vec::new());
    }
    entries.retain(|entry| matches!(entry.kind, Kind::File { .. } | Kind::Directory { .. }));
    let index = LayerIndex::new(entries.clone(), BTreeMap::new()).unwrap();
    let expected = unpacked(&index, usize::MAX).1.unwrap();
    let directories = index.entries().iter().filter(|entry| entry.is_directory()).count();
    assert_eq!(expected.len(), 400 + directories);
    assert_eq!(unpacked(&index, 1).1.unwrap(), expected);
    for (n, entry) in entries.iter_mut().filter(|entry| !entry.is_directory()).enumerate() {
        if let (Kind::File { content, .. }, true) = (&mut entry.kind, n % 90 == 77) {
            *content = Some(oci::layer::ContentHash([1; 32]));
        }
    }
    let wrong = LayerIndex::new(entries, BTreeMap::new()).unwrap();
    let first = |share| match unpacked(&wrong, share).1 {
        Err(UnpackError::Differs { path }) => path,
        other => panic!("{other:?}"),
    };
    let expected = first(usize::MAX);
    for share in [1, 2, 5] {
        assert_eq!(first(share), expected, "{share} at a time");
    }
}

#[test]
fn files_belong_to_whom_they_should_wherever_the_layer_is_made() {
    if !is_root() {
        return;
    }
    let index = many(40);
    let expected = pack_again(&unpacked(&index, 4).0.root).1;
    for (uid, gid, mode) in [(3, 0, 0o755), (0, 4, 0o2755), (3, 4, 0o2700)] {
        let scratch = scratch();
        let fs = scratch.dir.path().join("fs");
        std::os::unix::fs::chown(&fs, Some(uid), Some(gid)).unwrap();
        rustix::fs::fchmod(&*scratch.root, Mode::from_raw_mode(mode)).unwrap();
        let mut content = |entry: &Entry| Ok(Content::Bytes(bytes(entry)));
        unpack_shared(scratch.root.as_fd(), &index, Flavour::Root, &mut content, 4).unwrap();
        assert!(pack_again(&scratch.root).1 == expected, "{uid}:{gid} {mode:o}");
        let root = std::fs::metadata(&fs).unwrap();
        assert_eq!((root.uid(), root.gid(), root.mode() & 0o7777), (0, 0, 0o755));
    }
}

#[test]
fn a_streamed_archive_tells_the_earlier_of_two_errors() {
    if !is_root() {
        return;
    }
    let index = many(300);
    let alone = unpacked(&index, usize::MAX);
    let tar = pack_again(&alone.0.root).1;
    let stream_into = |scratch: &Scratch, tar: &[u8]| {
        stream(scratch.root.as_fd(), tar, Limits::default(), Algorithm::Sha256, Flavour::Root)
    };
    let cut = &tar[..tar.len() - 3000];
    assert!(matches!(
        stream_into(&scratch(), cut),
        Err(UnpackError::Archive(_) | UnpackError::Source { .. })
    ));
    // Something is in the way of an early file, the end of the archive is missing: the file is told.
    let whole = scratch();
    let streamed = stream_into(&whole, &tar).unwrap();
    let first = std::fs::read_dir(whole.dir.path().join("fs")).unwrap();
    let first =
        first.map(|entry| entry.unwrap().file_name().into_string().unwrap().parse::<usize>().unwrap());
    let first = first.min().unwrap();
    let scratch = scratch();
    std::fs::write(scratch.dir.path().join("fs").join(first.to_string()), "").unwrap();
    let Member::Object(entry) = &streamed.scan.members[first] else { panic!("a file") };
    match stream_into(&scratch, cut) {
        Err(UnpackError::Call { call: "openat", path, .. }) => assert_eq!(path, entry.path),
        other => panic!("{other:?}"),
    }
}
