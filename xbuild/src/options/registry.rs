//! How registries are reached, as meant: flags, then environment, then files.

use std::collections::BTreeMap;

use oci::registry::settings::Transport;
use oci::registry::{Login, RegistrySettings};

use crate::args::RegistryArgs;
use crate::failure::Failure;

/// What the user says about registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Per registry, by its name in references.
    pub registries: BTreeMap<String, RegistrySettings>,
    /// Names and passwords given on the command line, by registry.
    pub logins: BTreeMap<String, Login>,
}

impl RegistryOptions {
    /// Says what the arguments mean.
    ///
    /// # Errors
    /// A usage failure that names the flag.
    pub fn new(args: &RegistryArgs) -> Result<Self, Failure> {
        let insecure = RegistrySettings { transport: Transport::Http, ..RegistrySettings::default() };
        let registries = args.insecure_registry.iter().map(|host| (host.clone(), insecure.clone())).collect();
        Ok(Self { registries, logins: BTreeMap::new() })
    }
}
