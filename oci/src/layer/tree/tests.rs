//! Archives as lists of members, and the layers they amount to.

use super::super::{ContentHash, MergedView};
use super::*;
use crate::{DiffId, Digest};

/// `d/` directory, `d/!` opaque mark, `-p` whiteout, `p>t` symlink, `p=t` hard link, anything else a file whose
/// hash is that of its name.
fn member(text: &str) -> Member {
    let object = |path: &str, kind| Member::Object(Entry::plain(path, kind, 0o700));
    if let Some(path) = text.strip_suffix("/!") {
        Member::Opaque(path.into())
    } else if let Some(path) = text.strip_suffix('/') {
        object(path, Kind::Directory { opaque: false })
    } else if let Some(path) = text.strip_prefix('-') {
        Member::Object(Entry::whiteout(path))
    } else if let Some((path, target)) = text.split_once('>') {
        object(path, Kind::Symlink { target: target.into() })
    } else if let Some((path, target)) = text.split_once('=') {
        object(path, Kind::HardLink { target: target.into() })
    } else {
        let content = Some(ContentHash(*blake3::hash(text.as_bytes()).as_bytes()));
        object(text, Kind::File { size: 1, content })
    }
}

fn scan(members: &[&str]) -> Scan {
    Scan {
        members: members.iter().map(|text| member(text)).collect(),
        inline: BTreeMap::new(),
        diff_id: DiffId(Digest::of(b"")),
        size: 0,
        warnings: Vec::new(),
    }
}

fn lines(resolved: &Resolved) -> Vec<String> {
    let line = |(entry, source): (&Entry, &Source)| {
        let path = entry.path.display();
        match (&entry.kind, source) {
            (Kind::Directory { opaque: true }, _) => format!("{path}/!"),
            (Kind::Directory { opaque: false }, _) => format!("{path}/"),
            (Kind::Whiteout, _) => format!("-{path}"),
            (Kind::Symlink { target }, _) => format!("{path}>{}", target.display()),
            (Kind::HardLink { target }, _) => format!("{path}={}", target.display()),
            (_, Source::Member(position)) => format!("{path} {position}"),
            (_, Source::Below { layer, path: at }) => format!("{path} {layer}:{}", at.display()),
            (_, Source::None) => format!("{path} ?"),
        }
    };
    resolved.index.entries().iter().zip(&resolved.sources).map(line).collect()
}

/// A layer that needs nothing below.
fn check(members: &[&str], expect: &[&str]) {
    let resolved = resolve(&scan(members)).unwrap();
    assert_eq!(lines(&resolved), expect, "{members:?}");
    assert!(resolved.self_contained, "{members:?}");
}

/// A layer on top of others.
fn check_onto(below: &[&[&str]], members: &[&str], expect: Result<&[&str], &str>) {
    let mut indexes: Vec<LayerIndex> = Vec::new();
    for layer in below {
        let view = MergedView::new(indexes.iter().collect());
        let index = resolve_onto(&scan(layer), &view).unwrap().index;
        indexes.push(index);
    }
    assert!(!resolve(&scan(members)).is_ok_and(|resolved| resolved.self_contained), "{members:?}");
    let view = MergedView::new(indexes.iter().collect());
    match (resolve_onto(&scan(members), &view), expect) {
        (Ok(resolved), Ok(expect)) => {
            assert_eq!(lines(&resolved), expect, "{members:?}");
            assert!(!resolved.self_contained);
        }
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
        (got, expect) => panic!("{got:?} instead of {expect:?}"),
    }
}

#[test]
fn plain_layers_stand_for_themselves() {
    check(&["d/", "d/f", "g"], &["d/", "d/f 1", "g 2"]);
    check(&["/", "d/"], &["/", "d/"]);
    check(&["d/f", "d/"], &["d/", "d/f 0"]);
    check(&[], &[]);
}

#[test]
fn tar_57_later_members_win() {
    check(&["f", "f"], &["f 1"]);
    check(&["d/", "d/f", "d"], &["d 2"]);
    check(&["d", "d/", "d/f"], &["d/!", "d/f 2"]);
    check(&["d/", "d/f", "d/"], &["d/", "d/f 1"]);
    check(&["f", "g=f", "f"], &["f 2", "g 0"]);
    check(&["b", "a=b"], &["a 0", "b=a"]);
    check(&["f>x", "f"], &["f 1"]);
}

#[test]
fn ovl_07_whiteouts_apply_to_lower_layers_only() {
    check(&["-f", "f"], &["f 1"]);
    check(&["f", "-f"], &["f 0"]);
    check(&["-d", "d/", "d/f"], &["d/!", "d/f 2"]);
    check(&["d/", "d/f", "-d"], &["d/!", "d/f 1"]);
    check(&["d/", "d/f", "d/!", "-d/g"], &["d/!", "d/f 1"]);
    check(&["d/", "-d/g", "d/!", "d/e/", "-d/e/x"], &["d/!", "d/e/"]);
    check(&["d/!", "d/"], &["d/!"]);
    check(&["-gone"], &["-gone"]);
}

#[test]
fn missing_ancestors_are_taken_from_below() {
    check_onto(&[&["d/", "d/e/"]], &["d/e/f"], Ok(&["d/", "d/e/", "d/e/f 0"]));
    check_onto(&[], &["d/e/f"], Ok(&["d/", "d/e/", "d/e/f 0"]));
    check_onto(&[&["d"]], &["d/f"], Ok(&["d/", "d/f 0"]));
    check_onto(&[&["d/", "d/e/"], &["-d"]], &["d/e/f"], Ok(&["d/", "d/e/", "d/e/f 0"]));
    check_onto(&[&["d/", "d/g"]], &["-d", "d/f"], Ok(&["d/!", "d/f 1"]));
    check_onto(&[&["d/"]], &["-d/f"], Ok(&["d/", "-d/f"]));
}

#[test]
fn tar_42_links_below_are_followed_inside_the_root() {
    let usr = &["lib>usr/lib", "usr/", "usr/lib/", "usr/lib/libc"][..];
    check_onto(&[usr], &["lib/new"], Ok(&["usr/", "usr/lib/", "usr/lib/new 0"]));
    check_onto(&[usr], &["-lib/libc"], Ok(&["usr/", "usr/lib/", "-usr/lib/libc"]));
    check_onto(&[usr], &["lib/!"], Ok(&["usr/", "usr/lib/!"]));
    check_onto(&[usr], &["x=lib/libc"], Ok(&["usr/", "usr/lib/", "x 0:usr/lib/libc"]));
    check_onto(&[&["up>../../../etc"]], &["up/f"], Ok(&["etc/", "etc/f 0"]));
    check_onto(&[&["abs>/etc", "etc/"]], &["abs/f"], Ok(&["etc/", "etc/f 0"]));
    check_onto(&[&["a>b", "b>a"]], &["a/f"], Err("too many symbolic links"));
    // A directory replaces a link, as in every extractor; what was behind the link stays.
    let indexes = [resolve(&scan(usr)).unwrap().index];
    let onto = resolve_onto(&scan(&["lib/", "lib/new"]), &MergedView::new(indexes.iter().collect()));
    assert_eq!(lines(&onto.unwrap()), ["lib/", "lib/new 1"]);
}

#[test]
fn tar_40_links_of_the_archive_are_followed_inside_the_root() {
    check_onto(&[], &["link>..", "link/exploit/f"], Ok(&["exploit/", "exploit/f 1", "link>.."]));
    check(&["victim/", "evil>/victim", "evil/f"], &["evil>/victim", "victim/", "victim/f 2"]);
    // TAR-41: the directory replaces the link, the link's target keeps its mode.
    check(&["victim/", "evil>/victim", "evil/"], &["evil/!", "victim/"]);
    check(&["victim/", "evil>/victim", "evil/", "evil/f"], &["evil/!", "evil/f 3", "victim/"]);
}

#[test]
fn what_lies_in_the_way_is_refused() {
    let error = |members: &[&str]| resolve(&scan(members)).unwrap_err().to_string();
    assert!(error(&["d", "d/f"]).contains("no directory"));
    assert!(error(&["a>a", "a/f"]).contains("too many symbolic links"));
    assert!(error(&["d/", "x=d"]).contains("a directory"));
    assert!(error(&["x", "x=x"]).contains("itself"));
    assert!(error(&["-y", "x=y"]).contains("deleted"));
    check_onto(&[&["f"]], &["x=y"], Err("missing"));
    check_onto(&[&["d/"]], &["x=d"], Err("missing"));
    check_onto(&[&["f"], &["-f"]], &["x=f"], Err("missing"));
}

#[test]
fn tar_43_hard_links_stay_inside() {
    check(&["d/", "d/f", "g=d/f"], &["d/", "d/f 1", "g=d/f"]);
    check_onto(&[&["victim"]], &["x=victim"], Ok(&["x 0:victim"]));
    check(&["f>g", "l=f"], &["f>g", "l=f"]);
}

#[test]
fn tar_51_cost_grows_with_the_archive() {
    let members: Vec<String> =
        (0..3000).flat_map(|at| [format!("d{at}/"), format!("d{at}/!"), format!("-w{at}")]).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    assert_eq!(resolve(&scan(&members)).unwrap().index.entries().len(), 6000);
}
