//! What a build holds in the store while it runs: a lease on what it uses, and a staging directory.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use oci::store::{Lease, Leased, Staging, Store};

use super::error::StepError;

/// A running build's lease, made when it is first needed and given back when the build ends.
pub struct Build {
    store: Arc<Store>,
    lease: OnceLock<Lease>,
    making: Mutex<()>,
    directories: AtomicU64,
    skeleton: Mutex<Option<PathBuf>>,
    /// Names of cache mounts that this build has begun anew.
    pub begun: Mutex<BTreeSet<String>>,
}

impl Build {
    /// Prepares a build in `store`; nothing is written yet.
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            lease: OnceLock::new(),
            making: Mutex::default(),
            directories: AtomicU64::new(0),
            skeleton: Mutex::default(),
            begun: Mutex::default(),
        }
    }

    /// Notes that the build uses `things`. To be called before they are looked up.
    pub fn lease(&self, things: &[Leased]) -> Result<(), StepError> {
        Ok(self.held()?.add(things)?)
    }

    /// Returns the staging directory.
    pub fn staging(&self) -> Result<&Staging, StepError> {
        Ok(self.held()?.staging())
    }

    /// Makes an empty directory that is removed with the build.
    pub fn scratch(&self) -> Result<PathBuf, StepError> {
        let number = self.directories.fetch_add(1, Ordering::Relaxed);
        let path = self.staging()?.path().join(number.to_string());
        std::fs::create_dir(&path).map_err(StepError::io("make directory", &path))?;
        Ok(path)
    }

    /// Returns the directory of mount points that goes below the layers of every step, made for the first one.
    pub fn skeleton(&self) -> Result<PathBuf, StepError> {
        let mut skeleton = self.skeleton.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &*skeleton {
            return Ok(path.clone());
        }
        let path = self.scratch()?;
        executor::sandbox::make_skeleton(&path)?;
        Ok(skeleton.insert(path).clone())
    }

    fn held(&self) -> Result<&Lease, StepError> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lease) = self.lease.get() {
            return Ok(lease);
        }
        let lease = self.store.lease()?;
        Ok(self.lease.get_or_init(|| lease))
    }
}
