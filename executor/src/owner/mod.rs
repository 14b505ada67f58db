//! Who `user[:group]` is in an image: names are looked up in the image's own `/etc/passwd` and `/etc/group`.
//!
//! The host's accounts are never asked, and no name service is loaded. An unknown name is an error that names
//! the file it was looked for in; BuildKit falls to 0:0 for `--chown` there.

mod accounts;
mod inline;

use std::path::Path;

use frontend::graph::Owner;
use oci::layer::Kind;

use crate::tree::{Last, Tree, TreeError, resolve};
use accounts::{Group, User};
pub use inline::inline;

/// Larger account files are refused (BuildKit's limit, GHSA-72x6-4j93-7w86).
pub const FILE_LIMIT: u64 = oci::layer::index::INLINE_LIMIT;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// A user and a group as numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ids {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Whom a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessUser {
    /// User and primary group.
    pub ids: Ids,
    /// Supplementary groups: the primary one first, as containerd has it since CVE-2023-25173, then those of
    /// /etc/group in its order.
    pub groups: Vec<u32>,
    /// Home directory; `/` for users without a passwd entry.
    pub home: String,
    /// Login name, where there is a passwd entry.
    pub name: Option<String>,
}

/// Why there is no such owner.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// The file has no such name.
    #[error("{kind} {name:?} is not in the image's {file}; add it in an earlier RUN or use its number")]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// As written.
        name: String,
        /// Where it was looked for.
        file: &'static str,
    },
    /// There is a name to look up, and no file.
    #[error("{kind} {name:?} cannot be looked up: the image has no {file}; use its number")]
    NoFile {
        /// `user` or `group`.
        kind: &'static str,
        /// As written.
        name: String,
        /// Where it would be looked for.
        file: &'static str,
    },
    /// The file is no regular file.
    #[error("{file} of the image is not a regular file, so no name is looked up in it")]
    NotRegular {
        /// Which file.
        file: &'static str,
    },
    /// The file is too large.
    #[error("{file} of the image is larger than {FILE_LIMIT} bytes, so no name is looked up in it")]
    TooLarge {
        /// Which file.
        file: &'static str,
    },
    /// A number that no process can have.
    #[error("{0:?} is not a user or group number: it must be below 4294967295")]
    Number(String),
    /// The file cannot be read.
    #[error("read {file} of the image")]
    Tree {
        /// Which file.
        file: &'static str,
        /// Why.
        source: TreeError,
    },
}

/// Resolves `--chown`: a user number alone is its own group, a name alone has its primary group.
///
/// # Errors
/// [`OwnerError`].
pub fn resolve_chown(tree: &dyn Tree, owner: &Owner) -> Result<Ids, OwnerError> {
    let mut ids = if owner.user.is_empty() { Ids::default() } else { chown_user(tree, &owner.user)? };
    if let Some(group) = owner.group.as_deref().filter(|group| !group.is_empty()) {
        ids.gid = chown_group(tree, group)?;
    }
    Ok(ids)
}

fn chown_user(tree: &dyn Tree, name: &str) -> Result<Ids, OwnerError> {
    if let Some(uid) = number(name)? {
        return Ok(Ids { uid, gid: uid });
    }
    let users = users(tree)?;
    match find_user(users.as_deref(), name) {
        Some(user) => Ok(user.ids),
        // BuildKit takes `root` for 0 without looking.
        None if name == "root" => Ok(Ids::default()),
        None => Err(unknown("user", name, PASSWD, users.is_some())),
    }
}

fn chown_group(tree: &dyn Tree, name: &str) -> Result<u32, OwnerError> {
    if let Some(gid) = number(name)? {
        return Ok(gid);
    }
    let groups = groups(tree)?;
    match groups.iter().flatten().find(|group| group.name == name) {
        Some(group) => Ok(group.gid),
        None if name == "root" => Ok(0),
        None => Err(unknown("group", name, GROUP, groups.is_some())),
    }
}

/// Resolves USER for a process, as runc's `GetExecUser` does: a number without passwd entry gets group 0, an
/// explicit group replaces the supplementary ones.
///
/// # Errors
/// [`OwnerError`].
pub fn resolve_user(tree: &dyn Tree, spec: &str) -> Result<ProcessUser, OwnerError> {
    let (name, group) = spec.split_once(':').unwrap_or((spec, ""));
    let name = if name.is_empty() { "0" } else { name };
    let users = users(tree)?;
    let uid = number(name)?;
    let found = match uid {
        Some(uid) => users.iter().flatten().find(|user| user.ids.uid == uid),
        None => find_user(users.as_deref(), name),
    };
    let mut process = match (found, uid) {
        (Some(user), _) => ProcessUser {
            ids: user.ids,
            groups: Vec::new(),
            home: if user.home.is_empty() { "/".to_owned() } else { user.home.clone() },
            name: Some(user.name.clone()),
        },
        (None, Some(uid)) => without_entry(uid),
        (None, None) if name == "root" => without_entry(0),
        (None, None) => return Err(unknown("user", name, PASSWD, users.is_some())),
    };
    if !group.is_empty() {
        process.ids.gid = chown_group(tree, group)?;
    }
    process.groups = vec![process.ids.gid];
    if group.is_empty() {
        add_supplementary(tree, &mut process)?;
    }
    Ok(process)
}

/// Resolves the owner of a directory that WORKDIR makes under `USER spec`, where `user` alone means what it
/// means to `--chown`: BuildKit's mkdir takes the user through the same look-up. A name that the image does not
/// know is root here as there, since USER may name whom a later step makes; it is returned beside the owner.
///
/// # Errors
/// [`OwnerError`], but not for unknown names.
pub fn resolve_workdir(tree: &dyn Tree, spec: &str) -> Result<(Ids, Option<OwnerError>), OwnerError> {
    let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
    let mut unknown = None;
    let mut ids = Ids::default();
    if !user.is_empty() {
        ids = or_root(chown_user(tree, user), &mut unknown)?;
    }
    if !group.is_empty() {
        ids.gid = or_root(chown_group(tree, group), &mut unknown)?;
    }
    Ok((ids, unknown))
}

fn or_root<T: Default>(
    found: Result<T, OwnerError>,
    unknown: &mut Option<OwnerError>,
) -> Result<T, OwnerError> {
    match found {
        Err(error @ (OwnerError::Unknown { .. } | OwnerError::NoFile { .. })) => {
            unknown.get_or_insert(error);
            Ok(T::default())
        }
        found => found,
    }
}

fn without_entry(uid: u32) -> ProcessUser {
    ProcessUser { ids: Ids { uid, gid: 0 }, groups: Vec::new(), home: "/".to_owned(), name: None }
}

fn add_supplementary(tree: &dyn Tree, process: &mut ProcessUser) -> Result<(), OwnerError> {
    let Some(name) = &process.name else {
        return Ok(());
    };
    for group in groups(tree)?.iter().flatten().filter(|group| group.has_member(name)) {
        if !process.groups.contains(&group.gid) {
            process.groups.push(group.gid);
        }
    }
    Ok(())
}

fn find_user<'a>(users: Option<&'a [User]>, name: &str) -> Option<&'a User> {
    users?.iter().find(|user| user.name == name)
}

fn unknown(kind: &'static str, name: &str, file: &'static str, exists: bool) -> OwnerError {
    let name = name.to_owned();
    if exists { OwnerError::Unknown { kind, name, file } } else { OwnerError::NoFile { kind, name, file } }
}

/// Returns the number that `text` is, `None` for a name. The largest number means "nobody" to the kernel.
fn number(text: &str) -> Result<Option<u32>, OwnerError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(number) if number < u32::MAX => Ok(Some(number)),
        Ok(_) | Err(_) => Err(OwnerError::Number(text.chars().take(40).collect())),
    }
}

fn users(tree: &dyn Tree) -> Result<Option<Vec<User>>, OwnerError> {
    Ok(account_file(tree, PASSWD)?.map(|bytes| accounts::users(&bytes)))
}

fn groups(tree: &dyn Tree) -> Result<Option<Vec<Group>>, OwnerError> {
    Ok(account_file(tree, GROUP)?.map(|bytes| accounts::groups(&bytes)))
}

/// Reads an account file, `None` if there is none. Its links are resolved in the image's root.
fn account_file(tree: &dyn Tree, file: &'static str) -> Result<Option<Vec<u8>>, OwnerError> {
    let failed = |source| match source {
        TreeError::TooLarge { .. } => OwnerError::TooLarge { file },
        TreeError::NotRegular(_) => OwnerError::NotRegular { file },
        TreeError::Call { .. }
        | TreeError::Loop(_)
        | TreeError::NotDirectory(_)
        | TreeError::NotUnpacked { .. } => OwnerError::Tree { file, source },
    };
    let resolved = match resolve(tree, Path::new(file), Last::Follow) {
        Err(TreeError::NotDirectory(_)) => return Ok(None),
        resolved => resolved.map_err(failed)?,
    };
    let Some(node) = resolved.node else {
        return Ok(None);
    };
    match node.entry.kind {
        Kind::File { size, .. } if size > FILE_LIMIT => Err(OwnerError::TooLarge { file }),
        Kind::File { .. } => tree.read(&resolved.path, FILE_LIMIT).map(Some).map_err(failed),
        Kind::Directory { .. }
        | Kind::Symlink { .. }
        | Kind::HardLink { .. }
        | Kind::CharDevice(_)
        | Kind::BlockDevice(_)
        | Kind::Fifo
        | Kind::Whiteout => Err(OwnerError::NotRegular { file }),
    }
}

#[cfg(test)]
mod tests;
