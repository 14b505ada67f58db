//! Layers from one residence to another, packed after each other, and what damage does.

use oci::layer::Kind;

use super::*;

fn layers() -> (tempfile::TempDir, LayerStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, LayerStore::new(store, Flavour::Root))
}

fn items() -> Vec<Item> {
    let file = Entry::plain("d/f", Kind::File { size: 5, content: None }, 0o644);
    vec![
        Item { entry: Entry::directory("d", 0o755), content: Content::None },
        Item { entry: file, content: Content::Bytes(b"12345".to_vec()) },
    ]
}

#[test]
fn a_layer_goes_through_all_residences() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: needs root: owners");
        return;
    }
    let (_dir, layers) = layers();
    let packed = layers.pack(items(), Encoding::GZIP).unwrap();
    let id = LayerId::from(packed.diff_id);
    let found = layers.packed(&packed.diff_id, Encoding::GZIP).unwrap().unwrap();
    assert_eq!(found.digest(), packed.descriptor.digest());
    assert!(layers.packed(&packed.diff_id, Encoding::ZSTD).unwrap().is_none());
    let scan = layers.scan_blob(&packed.descriptor, Algorithm::Sha256).unwrap();
    assert_eq!(scan.diff_id, packed.diff_id);
    let resolved = oci::layer::resolve(&scan).unwrap();
    assert_eq!(resolved.index, *packed.index);
    assert!(!layers.has_unpacked(id).unwrap());
    let below = &mut |_, _: &Path| Err(io::ErrorKind::NotFound.into());
    let (path, left_out) = layers.unpack_blob(id, &resolved, &packed.descriptor, below).unwrap();
    assert_eq!((std::fs::read(path.join("d/f")).unwrap(), left_out), (b"12345".to_vec(), vec![]));
    assert_eq!(layers.path(id).unwrap(), Some(path.clone()));
    let streamed = layers.stream(layers.open_tar(&packed.descriptor).unwrap(), Algorithm::Sha256).unwrap();
    assert_eq!(streamed.scan().diff_id, packed.diff_id);
    let other = LayerId::Chain(packed.diff_id.bottom());
    let (second, _) = layers.assemble(other, &streamed, &resolved, below).unwrap();
    assert_eq!(std::fs::read(second.join("d/f")).unwrap(), b"12345");
    drop(streamed);
    let again = layers.unpack_index(id, &resolved.index, &mut |_| panic!("it is there already")).unwrap();
    assert_eq!(again.0, path);
    assert_eq!(std::fs::read_dir(layers.store().root().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_layer_packed_after_another_is_the_one_that_is_packed_alone() {
    let many = |edited: usize| {
        let item = move |number: usize| {
            let text =
                if number == edited { "other bytes".repeat(400) } else { format!("{number} ").repeat(900) };
            let content = Some(oci::layer::ContentHash(*blake3::hash(text.as_bytes()).as_bytes()));
            let kind = Kind::File { size: text.len() as u64, content };
            let entry = Entry::plain(format!("f{number:04}"), kind, 0o644);
            Item { entry, content: Content::Bytes(text.into_bytes()) }
        };
        (0..1000).map(item)
    };
    let (_dir, layers) = layers();
    let earlier = layers.pack(many(usize::MAX), Encoding::GZIP).unwrap();
    let name = Encoding::GZIP.to_string();
    let known = layers.store.pieces(&earlier.diff_id, &name).expect("a layer of several chunks");
    assert!(known(&oci::compress::ChunkName([0; 32])).is_none());
    let after = layers.pack_after(&earlier.diff_id, many(500), Encoding::GZIP).unwrap();
    assert_ne!(after.diff_id, earlier.diff_id);
    let (_other, others) = super::tests::layers();
    let alone = others.pack(many(500), Encoding::GZIP).unwrap();
    assert_eq!((after.diff_id, &after.descriptor), (alone.diff_id, &alone.descriptor));
    let nothing = DiffId(oci::Digest::of(b"nobody packed it"));
    let again = others.pack_after(&nothing, many(500), Encoding::GZIP).unwrap();
    assert_eq!(again.descriptor, alone.descriptor);
    let scan = layers.scan_blob(&after.descriptor, Algorithm::Sha256).unwrap();
    assert_eq!(scan.diff_id, after.diff_id);
}

#[test]
fn layers_by_sha512_are_kept_apart_from_those_by_sha256() {
    let (_dir, layers) = layers();
    let packed = layers.pack(items(), Encoding::None).unwrap();
    let scan = layers.scan_blob(&packed.descriptor, Algorithm::Sha512).unwrap();
    let tar = std::fs::read(layers.store().layout().blob_path(&packed.diff_id.0)).unwrap();
    assert_eq!(scan.diff_id, DiffId(Algorithm::Sha512.digest(&tar)));
    assert_eq!(scan.size, tar.len() as u64);
    let resolved = oci::layer::resolve(&scan).unwrap();
    let (short, long) = (LayerId::from(packed.diff_id), LayerId::from(scan.diff_id));
    let chain = LayerId::Chain(scan.diff_id.bottom());
    assert!(layers.index(long).is_none(), "nobody has put it there");
    layers.put_index(long, &Arc::new(resolved.index.clone())).unwrap();
    assert!(layers.index(chain).is_none());
    let names: BTreeMap<String, ()> = [short, long, chain].map(|id| (id.name(), ())).into();
    assert_eq!(names.len(), 3);
    assert!(layers.packed(&scan.diff_id, Encoding::None).unwrap().is_none());
    let encoding = Encoding::None.to_string();
    layers.store().set_packed(&scan.diff_id, &encoding, &packed.descriptor).unwrap();
    assert!(layers.packed(&scan.diff_id, Encoding::None).unwrap().is_some());
    if rustix::process::geteuid().is_root() {
        let below = &mut |_, _: &Path| Err(io::ErrorKind::NotFound.into());
        let (path, _) = layers.unpack_blob(long, &resolved, &packed.descriptor, below).unwrap();
        assert_eq!(std::fs::read(path.join("d/f")).unwrap(), b"12345");
        assert!(!layers.has_unpacked(short).unwrap() && !layers.has_unpacked(chain).unwrap());
    } else {
        println!("SKIP: needs root: owners");
    }
}

#[test]
fn indexes_outlive_the_process_and_damage_is_a_miss() {
    let (_dir, layers) = layers();
    let packed = layers.pack(items(), Encoding::None).unwrap();
    let id = LayerId::from(packed.diff_id);
    let other = LayerStore::new(layers.store().clone(), Flavour::Root);
    assert_eq!(*other.index(id).unwrap(), *packed.index);
    std::fs::write(layers.index_path(id), b"junk").unwrap();
    assert!(other.index(id).is_some(), "still in memory");
    assert!(LayerStore::new(layers.store().clone(), Flavour::Root).index(id).is_none());
    assert!(layers.index(LayerId::Chain(packed.diff_id.bottom())).is_none(), "another identity");
}

#[test]
fn a_damaged_blob_is_noticed() {
    let (_dir, layers) = layers();
    let packed = layers.pack(items(), Encoding::None).unwrap();
    let digest = packed.descriptor.digest().to_string().parse().unwrap();
    let path = layers.store().layout().blob_path(&digest);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.iter().position(|byte| *byte == b'1').unwrap();
    bytes[at + 512] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    assert!(layers.scan_blob(&packed.descriptor, Algorithm::Sha256).is_err());
}
