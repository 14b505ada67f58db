//! WORKDIR: a directory with its parents.

use std::path::{Path, PathBuf};

use frontend::graph::MkdirOp;

use super::copier::make_directories;
use super::target::Target;
use super::{CopyError, CopyPlan, Options};
use crate::owner::resolve_workdir;
use crate::tree::{Last, Tree};

/// Plans the layer of a WORKDIR on `parent`: what is missing is made with mode 0755 and owned by the user; a
/// directory that exists, also through links, is left alone, and the layer is empty.
///
/// # Errors
/// [`CopyError`]; [`CopyError::Workdir`] where something else is in the way.
pub fn plan(op: &MkdirOp, parent: &dyn Tree, options: &Options<'_>) -> Result<CopyPlan, CopyError> {
    let mut target = Target::new(parent);
    let in_the_way = |error| match error {
        CopyError::NotDirectory(found) => CopyError::Workdir { path: PathBuf::from(&op.path), found },
        other => other,
    };
    let path = target.resolve(Path::new(&op.path), Last::Follow).map_err(in_the_way)?;
    let (owner, unknown_owner) = resolve_workdir(parent, &op.user)?;
    make_directories(&mut target, &path, 0o755, owner, options.time_of_new()).map_err(in_the_way)?;
    let entries = target.finish();
    let unknown_owner = unknown_owner.filter(|_| !entries.is_empty());
    Ok(CopyPlan { entries, unknown_owner, ..CopyPlan::default() })
}
