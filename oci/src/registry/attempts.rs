//! The attempts at one request: counts its failures, tells them and sleeps in between. `retry` has the policy, `nature`
//! says which problems another attempt may mend.

use std::time::Duration;

use super::client::Client;
use super::error::{Problem, Transient};
use super::event::Event;
use super::nature::transience;
use super::retry;

/// Counts the failures of one request and sleeps between its attempts.
pub(super) struct Retrier {
    client: Client,
    host: String,
    what: String,
    failures: u32,
    patience: Patience,
}

/// How much is done for an answer of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// What the policy says: there is no other.
    Full,
    /// One more attempt, and no long wait: there is another host to ask.
    Little,
}

/// The longest wait that a host may ask for where there is another one.
const LITTLE_WAIT: Duration = Duration::from_secs(2);

impl Retrier {
    /// Begins with none; `what` is asked of `host`.
    pub fn new(client: Client, host: String, what: String, patience: Patience) -> Self {
        Self { client, host, what, failures: 0, patience }
    }

    /// Forgets earlier failures: there was progress.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Sleeps if another attempt may help; returns the problem, with the number of attempts, if not.
    pub async fn pause(&mut self, problem: Problem) -> Result<(), Problem> {
        let policy = &self.client.settings().retry;
        self.failures += 1;
        let attempts = match transience(&problem) {
            Transient::Yes => policy.attempts,
            // What has answered is being restarted; what has not may be a wrong name.
            Transient::Briefly if self.client.has_reached(&self.host) => policy.attempts,
            Transient::Briefly => policy.attempts.min(3),
            Transient::No => return Err(problem),
        };
        let attempts = match self.patience {
            Patience::Full => attempts,
            Patience::Little if is_silent(&problem) || asks_for_more(&problem) => 1,
            Patience::Little => attempts.min(2),
        };
        if self.failures >= attempts {
            return Err(match self.failures {
                1 => problem,
                attempts => Problem::Exhausted { attempts, last: Box::new(problem) },
            });
        }
        let delay = self.delay(&problem)?;
        self.client.events().tell(Event::Waiting {
            host: self.host.clone(),
            what: self.what.clone(),
            reason: problem.to_string(),
            delay,
            attempt: self.failures,
            attempts,
        });
        tokio::time::sleep(delay).await;
        Ok(())
    }

    fn delay(&self, problem: &Problem) -> Result<Duration, Problem> {
        let policy = &self.client.settings().retry;
        let own = policy.delay(self.failures, retry::random());
        let Problem::Status { host, messages, retry_after: Some(wait), .. } = problem else { return Ok(own) };
        if *wait > policy.longest_wait {
            let (host, messages) = (host.clone(), messages.clone());
            return Err(Problem::Wait { host, seconds: wait.as_secs(), messages });
        }
        // A little more than asked for, so that not all clients come back in the same instant.
        Ok(*wait + own.min(Duration::from_secs(1)))
    }
}

/// Whether a host has taken all the time that it may have already.
fn is_silent(problem: &Problem) -> bool {
    matches!(problem, Problem::Timeout { .. })
}

/// Whether a host wants a longer wait than one that could be passed over gets.
fn asks_for_more(problem: &Problem) -> bool {
    matches!(problem, Problem::Status { retry_after: Some(wait), .. } if *wait > LITTLE_WAIT)
}
