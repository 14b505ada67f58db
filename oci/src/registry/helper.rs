//! Runs Docker's credential helpers (`docker-credential-<name> get|store|erase`). Knows no file format of credentials.
//!
//! A helper may hang, flood or leave children that hold its output open (reliability REG-09), so the process is
//! waited for, not the end of its output, for 30 s and 1 MiB.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdout, Command};

use super::credentials::Credential;
use super::error::clean;
use super::settings::Login;

/// How long a helper may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of output that are taken.
const MAX_OUTPUT: usize = 1 << 20;

/// Characters of a helper's words that are shown.
const SHOWN: usize = 300;

/// How a helper ended, and what it printed.
struct Said {
    status: ExitStatus,
    output: Vec<u8>,
}

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
/// A sentence that says what went wrong, in the helper's words where they cannot hold a secret.
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
        Ok(Ok(said)) if said.status.success() => Ok(()),
        Ok(Ok(said)) => {
            let secret = serde_json::from_str::<Answer>(input).map_or(String::new(), |entry| entry.secret);
            Err(format!("credential helper {program} failed to {verb} {}", said.reason(&secret)))
        }
        Ok(Err(error)) => Err(format!("credential helper {program}: {error}")),
        Err(_) => Err(format!("credential helper {program} did not answer in {} s", PATIENCE.as_secs())),
    }
}

async fn get_within(name: &str, server: &str, patience: Duration) -> Result<Option<Credential>, String> {
    let program = format!("docker-credential-{name}");
    let talk = converse(&program, "get", server);
    let said = match tokio::time::timeout(patience, talk).await {
        Ok(Ok(said)) => said,
        Ok(Err(error)) => return Err(format!("credential helper {program}: {error}")),
        Err(_) => {
            return Err(format!("credential helper {program} did not answer in {} s", patience.as_secs()));
        }
    };
    if !said.status.success() {
        let text = String::from_utf8_lossy(&said.output);
        // The protocol's words for "none" (docker-credential-helpers, credentials/error.go).
        let none = text.contains("credentials not found") || text.contains("no credentials server URL");
        let failed = || format!("credential helper {program} failed {}", said.reason(""));
        return if none { Ok(None) } else { Err(failed()) };
    }
    let answer: Answer = serde_json::from_slice(&said.output)
        .map_err(|_| format!("credential helper {program} printed no credential"))?;
    Ok(credential(answer))
}

impl Said {
    /// Says how the helper failed. Helpers print why on standard output; what has the secret or an object in it, which
    /// may have one, is not repeated.
    fn reason(&self, secret: &str) -> String {
        let text = String::from_utf8_lossy(&self.output);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let is_open = !text.contains('{') && (secret.is_empty() || !text.contains(secret));
        let line: String = clean(line).chars().take(if is_open { SHOWN } else { 0 }).collect();
        let separator = if line.is_empty() { "" } else { ": " };
        format!("({}){separator}{line}", self.status)
    }
}

fn credential(answer: Answer) -> Option<Credential> {
    match (answer.username.as_str(), answer.secret.is_empty()) {
        (_, true) => None,
        ("<token>", false) => Some(Credential::IdentityToken(answer.secret)),
        (_, false) => Some(Credential::Login(Login { username: answer.username, password: answer.secret })),
    }
}

async fn converse(program: &str, verb: &str, text: &str) -> io::Result<Said> {
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

async fn read_until_exit(child: &mut Child, mut output: ChildStdout) -> io::Result<Said> {
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
    Ok(Said { status, output: bytes })
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
    async fn check(script: &str) -> io::Result<Said> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("helper");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        converse(path.to_str().unwrap(), "get", "example.com").await
    }

    #[tokio::test]
    async fn a_helper_answers_for_the_server_on_its_input() {
        let said = check(r#"read s; echo "{\"Username\":\"u\",\"Secret\":\"$s\"}""#).await.unwrap();
        assert!(said.status.success());
        let answer: Answer = serde_json::from_slice(&said.output).unwrap();
        let login = Login { username: "u".into(), password: "example.com".into() };
        assert_eq!(credential(answer), Some(Credential::Login(login)));
    }

    #[tokio::test]
    async fn reg_09_a_child_that_holds_the_output_is_not_waited_for() {
        let before = std::time::Instant::now();
        let said = check("echo '{}'; sleep 120 & exit 0").await.unwrap();
        assert!(said.status.success() && said.output == b"{}\n");
        assert!(before.elapsed() < Duration::from_secs(100));
    }

    #[tokio::test]
    async fn a_helper_that_fails_is_quoted_without_secrets() {
        for (script, expected) in [
            ("echo; echo ' boom\u{1b}[2J'; echo more; exit 3", "(exit status: 3): boom [2J"),
            ("exit 1", "(exit status: 1)"),
            ("kill -9 $$", "(signal: 9 (SIGKILL))"),
            ("echo 'cannot keep hunter2'; exit 1", "(exit status: 1)"),
            (r#"echo '{"Secret":"s"}'; exit 1"#, "(exit status: 1)"),
        ] {
            assert_eq!(check(script).await.unwrap().reason("hunter2"), expected, "{script}");
        }
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
