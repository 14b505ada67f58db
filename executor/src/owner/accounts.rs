//! Lines of passwd(5) and group(5). Lines that are malformed are as if they were not there.

use super::Ids;

/// A line of passwd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User and primary group.
    pub ids: Ids,
    /// Home directory as written.
    pub home: String,
}

/// A line of group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Number.
    pub gid: u32,
    members: String,
}

impl Group {
    /// Returns whether a login name is in the member list.
    pub fn has_member(&self, name: &str) -> bool {
        self.members.split(',').any(|member| member.trim() == name)
    }
}

/// Reads a passwd file. The first line of a name counts, as everywhere.
pub fn users(bytes: &[u8]) -> Vec<User> {
    lines(bytes, |line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
        let uid = fields.nth(1)?.trim().parse().ok()?;
        let gid = fields.next()?.trim().parse().ok()?;
        let home = fields.nth(1).unwrap_or_default().to_owned();
        Some(User { name, ids: Ids { uid, gid }, home })
    })
}

/// Reads a group file.
pub fn groups(bytes: &[u8]) -> Vec<Group> {
    lines(bytes, |line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
        let gid = fields.nth(1)?.trim().parse().ok()?;
        Some(Group { name, gid, members: fields.next().unwrap_or_default().to_owned() })
    })
}

fn lines<T>(bytes: &[u8], read: impl Fn(&str) -> Option<T>) -> Vec<T> {
    let lines = bytes.split(|byte| *byte == b'\n');
    lines.filter_map(|line| std::str::from_utf8(line).ok()).filter_map(|line| read(line.trim())).collect()
}
