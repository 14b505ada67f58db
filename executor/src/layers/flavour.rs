//! What differs between unpacked trees of root and of a user namespace: the class of overlay's attributes.

/// A way in which layers lie on disk. Trees of different flavours are not interchangeable; blobs and indexes
/// have no flavour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flavour {
    /// `trusted.overlay.*`, owners as they are.
    Root,
    /// `user.overlay.*`, owners as the user namespace maps them.
    Rootless,
}

impl Flavour {
    /// Returns the name of the flavour's directory in the store.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Rootless => "rootless",
        }
    }

    /// Returns what the names of overlay's own attributes start with.
    pub const fn overlay_prefix(self) -> &'static str {
        match self {
            Self::Root => "trusted.overlay.",
            Self::Rootless => "user.overlay.",
        }
    }

    /// Returns the attribute that makes a directory opaque.
    pub const fn opaque(self) -> &'static str {
        match self {
            Self::Root => "trusted.overlay.opaque",
            Self::Rootless => "user.overlay.opaque",
        }
    }

    /// Returns the name under which a layer's attribute lies on disk. One that overlayfs would take for its own
    /// is escaped one level, as overlayfs itself shows nested layers (Linux 6.7).
    pub fn to_disk(self, name: &[u8]) -> Vec<u8> {
        let prefix = self.overlay_prefix().as_bytes();
        match name.strip_prefix(prefix) {
            Some(rest) => [prefix, b"overlay.", rest].concat(),
            None => name.to_vec(),
        }
    }

    /// Returns the layer's name of an attribute on disk; `None` for overlay's own ones.
    pub fn from_disk(self, name: &[u8]) -> Option<Vec<u8>> {
        let prefix = self.overlay_prefix().as_bytes();
        match name.strip_prefix(prefix) {
            Some(rest) => rest.strip_prefix(b"overlay.").map(|rest| [prefix, rest].concat()),
            None => Some(name.to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ovl_04_escapes_go_one_level() {
        let check = |disk: &str, layer: Option<&str>| {
            let got = Flavour::Root.from_disk(disk.as_bytes());
            assert_eq!(got.as_deref(), layer.map(str::as_bytes), "{disk}");
            if let Some(layer) = layer {
                assert_eq!(Flavour::Root.to_disk(layer.as_bytes()), disk.as_bytes());
            }
        };
        check("user.a", Some("user.a"));
        check("user.overlay.a", Some("user.overlay.a"));
        check("trusted.overlay.opaque", None);
        check("trusted.overlay.overlay.opaque", Some("trusted.overlay.opaque"));
        check("trusted.overlay.overlay.overlay.x", Some("trusted.overlay.overlay.x"));
    }
}
