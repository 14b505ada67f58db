//! Runs Docker's credential helpers (`docker-credential-<name> get|store|erase`). Knows no file format of credentials.
//!
//! A helper may hang, flood or leave children that hold its output open (reliability REG-09), so the process is
//! waited for, not the end of its output, for 30 s and 1 MiB.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdout, Command};

use super::credentials::Credential;
use super::settings::Login;

/// How long a helper may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of output that are taken.
const MAX_OUTPUT: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks helper `name` for the credential of `server`; `None` where it has none.
///
/// # Errors
/// A sentence that says what went wrong, without the helper's output, which may hold secrets.
pub async fn get(name: &str, server: &str) -> Result<Option<Credential>, String> {
    get_within(name, server, PATIENCE).await
}

/// Hands `input` to the helper's `verb` (`store`, `erase`).
///
/// # Errors
/// A sentence that says what went wrong.
pub async fn tell(name: &str, verb: &str, input: &str) -> Result<(), String> {
    let program = format!("docker-credential-{name}");
    match tokio::time::timeout(PATIENCE, converse(&program, verb, input)).await {
        Ok(Ok((true, _))) => Ok(()),
        Ok(Ok((false, _))) => Err(format!("credential helper {program} failed to {verb}")),
        Ok(Err(error)) => Err(format!("credential helper {program}: {error}")),
        Err(_) => Err(format!("credential helper {program} did not answer in {} s", PATIENCE.as_secs())),
    }
}

async fn get_within(name: &str, server: &str, patience: Duration) -> Result<Option<Credential>, String> {
    let program = format!("docker-credential-{name}");
    let talk = converse(&program, "get", server);
    let (succeeded, output) = match tokio::time::timeout(patience, talk).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => return Err(format!("credential helper {program}: {error}")),
        Err(_) => {
            return Err(format!("credential helper {program} did not answer in {} s", patience.as_secs()));
        }
    };
    if !succeeded {
        let text = String::from_utf8_lossy(&output);
        // The protocol's words for "none" (docker-credential-helpers, credentials/error.go).
        let none = text.contains("credentials not found") || text.contains("no credentials server URL");
        return if none { Ok(None) } else { Err(format!("credential helper {program} failed")) };
    }
    let answer: Answer = serde_json::from_slice(&output)
        .map_err(|_| format!("credential helper {program} printed no credential"))?;
    Ok(credential(answer))
}

fn credential(answer: Answer) -> Option<Credential> {
    match (answer.username.as_str(), answer.secret.is_empty()) {
        (_, true) => None,
        ("<token>", false) => Some(Credential::IdentityToken(answer.secret)),
        (_, false) => Some(Credential::Login(Login { username: answer.username, password: answer.secret })),
    }
}

async fn converse(program: &str, verb: &str, text: &str) -> io::Result<(bool, Vec<u8>)> {
    let mut child = Command::new(program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read its input breaks the pipe, and may answer all the same.
        let _ = input.write_all(text.as_bytes()).await;
    }
    let output = child.stdout.take().ok_or_else(|| io::Error::other("no standard output"))?;
    read_until_exit(&mut child, output).await
}

async fn read_until_exit(child: &mut Child, mut output: ChildStdout) -> io::Result<(bool, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    let status = loop {
        tokio::select! {
            biased;
            read = output.read(&mut buffer) => match read? {
                0 => break child.wait().await?,
                read => append(&mut bytes, &buffer[..read])?,
            },
            status = child.wait() => {
                // What the process wrote is in the pipe already; children of it may hold the pipe open.
                while let Ok(Ok(read @ 1..)) =
                    tokio::time::timeout(Duration::from_millis(50), output.read(&mut buffer)).await
                {
                    append(&mut bytes, &buffer[..read])?;
                }
                break status?;
            }
        }
    };
    Ok((status.success(), bytes))
}

fn append(bytes: &mut Vec<u8>, more: &[u8]) -> io::Result<()> {
    if bytes.len() + more.len() > MAX_OUTPUT {
        return Err(io::Error::other(format!("printed more than {MAX_OUTPUT} bytes")));
    }
    bytes.extend_from_slice(more);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Runs a helper whose body is `script` by its absolute path, as if it were found in PATH.
    async fn check(script: &str) -> io::Result<(bool, Vec<u8>)> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("helper");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        converse(path.to_str().unwrap(), "get", "example.com").await
    }

    #[tokio::test]
    async fn a_helper_answers_for_the_server_on_its_input() {
        let (succeeded, output) =
            check(r#"read s; echo "{\"Username\":\"u\",\"Secret\":\"$s\"}""#).await.unwrap();
        assert!(succeeded);
        let answer: Answer = serde_json::from_slice(&output).unwrap();
        let login = Login { username: "u".into(), password: "example.com".into() };
        assert_eq!(credential(answer), Some(Credential::Login(login)));
    }

    #[tokio::test]
    async fn reg_09_a_child_that_holds_the_output_is_not_waited_for() {
        let before = std::time::Instant::now();
        let (succeeded, output) = check("echo '{}'; sleep 120 & exit 0").await.unwrap();
        assert!(succeeded && output == b"{}\n");
        assert!(before.elapsed() < Duration::from_secs(100));
    }

    #[tokio::test]
    async fn reg_09_a_flood_is_cut() {
        assert!(check("yes").await.is_err());
    }

    #[tokio::test]
    async fn reg_09_a_helper_that_hangs_or_is_absent_is_named() {
        let absent = get("xbuild-test-absent", "h").await.unwrap_err();
        assert!(absent.contains("docker-credential-xbuild-test-absent"), "{absent}");
        let hung = tokio::time::timeout(Duration::from_millis(200), check("sleep 20")).await;
        assert!(hung.is_err());
    }

    #[test]
    fn tokens_and_absence_are_told_apart() {
        let answer =
            |username: &str, secret: &str| Answer { username: username.into(), secret: secret.into() };
        assert_eq!(credential(answer("<token>", "t")), Some(Credential::IdentityToken("t".into())));
        assert_eq!(credential(answer("u", "")), None);
    }
}
