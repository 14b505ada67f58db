//! Owners against account files in memory.

use super::*;
use crate::tree::Memory;
use oci::layer::Entry;

const PASSWD_TEXT: &str = "root:x:0:0:root:/root:/bin/sh\n\
    # comment\n\
    broken:x:one:2::/:\n\
    app:x:1000:2000:App,,,:/home/app:/bin/sh\n\
    app:x:7:7::/second:\n\
    nohome:x:1001:1001\n";
const GROUP_TEXT: &str =
    "root:x:0:\nwheel:x:10:root,app\nstaff:x:50:app, nohome\nstaff2:x:50:app\napp:x:2000:app\nbad:x:y:app\n";

fn file(path: &str) -> Entry {
    Entry::plain(path, Kind::Fifo, 0o644)
}

fn image() -> Memory {
    Memory::default()
        .with(Entry::directory("etc", 0o755))
        .with_file(file("etc/passwd"), PASSWD_TEXT.as_bytes())
        .with_file(file("etc/group"), GROUP_TEXT.as_bytes())
}

fn check_chown(tree: &dyn Tree, spec: &str, expected: &str) {
    let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
    let owner = Owner { user: user.to_owned(), group: (!group.is_empty()).then(|| group.to_owned()) };
    let got = match resolve_chown(tree, &owner) {
        Ok(ids) => format!("{}:{}", ids.uid, ids.gid),
        Err(error) => error.to_string(),
    };
    assert!(got.starts_with(expected), "{spec}: {got:?}, expected {expected:?}");
}

#[test]
fn chown_takes_names_and_numbers() {
    let image = image();
    for (spec, expected) in [
        ("app", "1000:2000"),
        ("app:wheel", "1000:10"),
        ("app:7", "1000:7"),
        ("12", "12:12"),
        ("12:staff", "12:50"),
        ("0:0", "0:0"),
        ("root", "0:0"),
        (":wheel", "0:10"),
        ("", "0:0"),
    ] {
        check_chown(&image, spec, expected);
    }
}

#[test]
fn ctx_14_unknown_owners_are_errors_naming_the_file() {
    let image = image();
    check_chown(&image, "nobody", "user \"nobody\" is not in the image's /etc/passwd");
    check_chown(&image, "app:none", "group \"none\" is not in the image's /etc/group");
    check_chown(&image, "broken", "user \"broken\" is not");
    check_chown(&image, "$(id)", "user \"$(id)\" is not");
    check_chown(&image, "4294967295", "\"4294967295\" is not a user or group number");
    check_chown(&image, "4294967296", "\"4294967296\" is not a user or group number");
    check_chown(&image, "1:99999999999", "\"99999999999\" is not");
    check_chown(&Memory::default(), "app", "user \"app\" cannot be looked up: the image has no /etc/passwd");
    check_chown(&Memory::default(), "root:root", "0:0");
}

fn check_user(tree: &dyn Tree, spec: &str, ids: (u32, u32), groups: &[u32], home: &str) {
    let user = resolve_user(tree, spec).unwrap();
    let got = ((user.ids.uid, user.ids.gid), user.groups.as_slice(), user.home.as_str());
    assert_eq!(got, (ids, groups, home), "{spec}");
}

#[test]
fn rt_14_processes_have_the_images_groups_only() {
    let image = image();
    check_user(&image, "app", (1000, 2000), &[2000, 10, 50], "/home/app");
    check_user(&image, "1000", (1000, 2000), &[2000, 10, 50], "/home/app");
    check_user(&image, "app:wheel", (1000, 10), &[10], "/home/app");
    check_user(&image, "1000:5", (1000, 5), &[5], "/home/app");
    check_user(&image, "4242", (4242, 0), &[0], "/");
    check_user(&image, "nohome", (1001, 1001), &[1001, 50], "/");
    check_user(&image, "", (0, 0), &[0, 10], "/root");
    check_user(&Memory::default(), "", (0, 0), &[0], "/");
    check_user(&Memory::default(), "root", (0, 0), &[0], "/");
    assert!(matches!(resolve_user(&image, "nobody"), Err(OwnerError::Unknown { .. })));
}

#[test]
fn rt_15_hostile_account_files_are_answered() {
    let link = |target: &str| {
        let link = Entry::plain("etc/passwd", Kind::Symlink { target: target.into() }, 0o777);
        image().with(link)
    };
    check_chown(&link("/real").with_file(file("real"), PASSWD_TEXT.as_bytes()), "app", "1000:2000");
    check_chown(&link("../../../dev/zero"), "app", "user \"app\" cannot be looked up");
    check_chown(&link("passwd"), "app", "read /etc/passwd of the image");
    check_chown(&link("group/x"), "app", "user \"app\" cannot be looked up");
    let device = oci::layer::Device { major: 1, minor: 5 };
    for kind in [Kind::Fifo, Kind::CharDevice(device), Kind::Directory { opaque: false }] {
        let image = image().with(Entry::plain("etc/passwd", kind, 0o644));
        check_chown(&image, "app", "/etc/passwd of the image is not a regular file");
        check_chown(&image, "1", "1:1");
    }
    let large = vec![b'a'; (FILE_LIMIT + 1) as usize];
    check_chown(&image().with_file(file("etc/passwd"), &large), "app", "/etc/passwd of the image is larger");
    let members = format!("app:x:1:{}\n", "m,".repeat(1_000_000));
    check_chown(&image().with_file(file("etc/group"), members.as_bytes()), "app:app", "1000:1");
}

#[test]
fn names_that_are_no_text_are_skipped() {
    let image = image().with_file(file("etc/passwd"), b"\xff\xfe:x:1:1::/:\nlast:x:3:4::/h:");
    check_chown(&image, "last", "3:4");
}

#[test]
fn workdir_belongs_to_root_where_the_user_is_unknown() {
    let image = image();
    for (spec, expected) in [
        ("app", (1000, 2000)),
        ("nobody-here", (0, 0)),
        ("nobody-here:wheel", (0, 10)),
        ("app:no-group", (1000, 0)),
        ("", (0, 0)),
    ] {
        let (ids, unknown) = resolve_workdir(&image, spec).unwrap();
        assert_eq!((ids.uid, ids.gid), expected, "{spec}");
        assert_eq!(unknown.is_some(), spec.contains("no"), "{spec}");
    }
    assert_eq!(resolve_workdir(&Memory::default(), "app").unwrap().0, Ids::default());
    assert!(matches!(resolve_workdir(&image, "4294967295"), Err(OwnerError::Number(_))));
}
