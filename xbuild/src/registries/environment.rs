//! What variables of the environment say about registries. Interprets no host.

use std::path::{Path, PathBuf};

use oci::registry::Environment;

use super::Paths;
use crate::environment::variable;

/// Names xbuild's file of registries.
pub const OWN_FILE: &str = "XBUILD_REGISTRIES";

/// Names containers' file of registries.
pub const CONTAINERS_FILE: &str = "CONTAINERS_REGISTRIES_CONF";

/// Where kaniko's users put their credentials, whatever `HOME` is there.
const KANIKO_CREDENTIALS: &str = "/kaniko/.docker/config.json";

fn path(name: &str) -> Option<PathBuf> {
    variable(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Returns where files about registries may be.
pub fn paths() -> Paths {
    let home = path("HOME");
    // containers' tools know no XDG_CONFIG_HOME for some of these.
    let home_config = home.map(|home| home.join(".config"));
    let config = path("XDG_CONFIG_HOME").or_else(|| home_config.clone());
    let below = |base: &Option<PathBuf>, rest: &str| base.as_ref().map(|base| base.join(rest));
    let etc = |rest: &str| Some(PathBuf::from("/etc").join(rest));
    let all = |paths: &[Option<PathBuf>]| paths.iter().flatten().cloned().collect();
    Paths {
        own_chosen: path(OWN_FILE),
        own: all(&[below(&config, "xbuild/registries.toml"), etc("xbuild/registries.toml")]),
        containers_chosen: path(CONTAINERS_FILE),
        containers: all(&[below(&config, "containers/registries.conf"), etc("containers/registries.conf")]),
        containers_additions: all(&[
            etc("containers/registries.conf.d"),
            below(&config, "containers/registries.conf.d"),
        ]),
        certificates: all(&[
            below(&home_config, "containers/certs.d"),
            etc("containers/certs.d"),
            etc("docker/certs.d"),
        ]),
    }
}

/// Returns the variables that the client itself knows. A file of credentials that the command line names is the only
/// one.
pub fn of_client(credentials: Option<&Path>) -> Environment {
    // Under CGI a request's Proxy header becomes HTTP_PROXY, which is ignored then (golang.org/x/net/http/httpproxy).
    let upper = || variable("HTTP_PROXY").filter(|_| variable("REQUEST_METHOD").is_none());
    let either = |upper: &str, lower: &str| variable(lower).or_else(|| variable(upper));
    let proxies = Environment {
        http_proxy: variable("http_proxy").or_else(upper),
        https_proxy: either("HTTPS_PROXY", "https_proxy"),
        all_proxy: either("ALL_PROXY", "all_proxy"),
        no_proxy: either("NO_PROXY", "no_proxy"),
        ..Environment::default()
    };
    if let Some(credentials) = credentials {
        return Environment { registry_auth_file: Some(credentials.to_owned()), ..proxies };
    }
    Environment {
        home: path("HOME"),
        docker_config: path("DOCKER_CONFIG"),
        docker_auth_config: variable("DOCKER_AUTH_CONFIG"),
        registry_auth_file: path("REGISTRY_AUTH_FILE"),
        xdg_runtime_dir: path("XDG_RUNTIME_DIR"),
        xdg_config_home: path("XDG_CONFIG_HOME"),
        further_credentials: further_credentials(),
        ..proxies
    }
}

/// Where `podman login` keeps credentials without XDG_RUNTIME_DIR (containers-auth.json(5)), and kaniko's place.
fn further_credentials() -> Vec<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let podman =
        path("XDG_RUNTIME_DIR").is_none().then(|| format!("/run/containers/{user}/auth.json").into());
    podman.into_iter().chain([KANIKO_CREDENTIALS.into()]).collect()
}
