//! `RUN --mount=type=ssh`: a socket of the step's own, joined to the user's agent.
//!
//! The agent's socket belongs to the user, and a step may be somebody else; the step's has the owner and mode that
//! the mount asks for. It lives as long as the step.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use executor::sandbox::MountSource;
use frontend::graph::SshMount;
use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};

use super::error::StepError;

/// Name of a socket in its directory.
const NAME: &str = "agent";

/// A socket that is joined to an agent until this is dropped.
pub struct AgentSocket {
    path: PathBuf,
    forwarding: AbortHandle,
}

impl AgentSocket {
    /// Listens in `directory`, which is otherwise empty, for a step that asks for `mount`.
    pub fn listen(directory: &Path, agent: &Path, mount: &SshMount) -> Result<Self, StepError> {
        let found = std::fs::metadata(agent).map_err(StepError::io("find the ssh agent", agent))?;
        if !found.file_type().is_socket() {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a socket");
            return Err(StepError::io("use the ssh agent", agent)(source));
        }
        let path = directory.join(NAME);
        let listener = bind(directory).map_err(StepError::io("listen at", &path))?;
        std::os::unix::fs::chown(&path, Some(mount.uid), Some(mount.gid))
            .map_err(StepError::io("chown", &path))?;
        let permissions = std::fs::Permissions::from_mode(mount.mode);
        std::fs::set_permissions(&path, permissions).map_err(StepError::io("chmod", &path))?;
        let forwarding = tokio::spawn(forward(listener, agent.to_owned())).abort_handle();
        Ok(Self { path, forwarding })
    }

    /// Returns the socket as the source of a mount.
    pub fn handle(&self) -> Result<MountSource, StepError> {
        let handle = rustix::fs::open(&self.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| StepError::io("open", &self.path)(errno.into()))?;
        Ok(MountSource::Handle(handle))
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        self.forwarding.abort();
    }
}

/// Addresses of sockets have at most 107 bytes (unix(7)), stores may be deeper: the directory goes by its descriptor.
fn bind(directory: &Path) -> std::io::Result<UnixListener> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory: OwnedFd = rustix::fs::open(directory, flags, Mode::empty())?;
    UnixListener::bind(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()))
}

/// Joins every connection to one of the agent; those that it refuses are closed.
async fn forward(listener: UnixListener, agent: PathBuf) {
    let mut connections = JoinSet::new();
    while let Ok((mut step, _)) = listener.accept().await {
        let agent = agent.clone();
        connections.spawn(async move {
            if let Ok(mut agent) = UnixStream::connect(&agent).await {
                let _ = tokio::io::copy_bidirectional(&mut step, &mut agent).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn mount() -> SshMount {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        SshMount { id: "default".to_owned(), target: "/s".to_owned(), required: true, mode: 0o741, uid, gid }
    }

    #[tokio::test]
    async fn a_step_talks_to_the_agent_through_a_socket_of_its_own_mode() {
        let scratch = tempfile::tempdir().unwrap();
        let deep = scratch.path().join("d".repeat(100));
        std::fs::create_dir(&deep).unwrap();
        let agent = scratch.path().join("real");
        let listener = UnixListener::bind(&agent).unwrap();
        let socket = AgentSocket::listen(&deep, &agent, &mount()).unwrap();
        assert_eq!(std::fs::metadata(&socket.path).unwrap().mode(), 0o140_741);
        std::os::unix::fs::symlink(&deep, scratch.path().join("l")).unwrap();
        let mut step = UnixStream::connect(scratch.path().join("l").join(NAME)).await.unwrap();
        let (mut served, _) = listener.accept().await.unwrap();
        step.write_all(b"ask").await.unwrap();
        let mut got = [0; 3];
        served.read_exact(&mut got).await.unwrap();
        served.write_all(b"yes").await.unwrap();
        step.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"yes");
        drop(socket);
        assert_eq!(step.read(&mut got).await.unwrap(), 0, "the connection outlived the step");
    }

    #[tokio::test]
    async fn mt_11_without_an_agent_the_mistake_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        std::fs::write(&file, "").unwrap();
        for (agent, why) in [(scratch.path().join("none"), "No such file"), (file, "not a socket")] {
            let error = AgentSocket::listen(scratch.path(), &agent, &mount()).err().unwrap().to_string();
            assert!(error.contains(why) && error.contains("ssh agent"), "{error}");
        }
    }
}
