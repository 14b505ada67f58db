//! What an unpacked layer is kept under.

use oci::{ChainId, DiffId};

/// The identity of an unpacked layer and its index.
///
/// A layer that stands for itself is the same whatever lies below, so it has the name of its diff id. One that
/// depends on the layers below (an archive that omits ancestors, or writes through a lower link) has that of its
/// chain; the two kinds never share a name, even at the bottom of a stack, where the digests are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LayerId {
    /// A layer that stands for itself.
    Diff(DiffId),
    /// A layer resolved onto the ones below it.
    Chain(ChainId),
}

impl LayerId {
    /// Returns the name in the store's directories.
    pub fn name(&self) -> String {
        match self {
            Self::Diff(diff_id) => diff_id.0.hex(),
            Self::Chain(chain_id) => format!("chain-{}", chain_id.0.hex()),
        }
    }
}

impl From<DiffId> for LayerId {
    fn from(diff_id: DiffId) -> Self {
        Self::Diff(diff_id)
    }
}
