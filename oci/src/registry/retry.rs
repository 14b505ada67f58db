//! When a request is tried again, and after how long. Sleeps nowhere and reads no clock.
//!
//! Six attempts, exponential with full jitter, 60 s at most, `Retry-After` up to five minutes (reliability
//! §1.6). Full jitter (uniform in 0..=delay) spreads the clients of a registry that has just come back.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// How often and how patiently a request is repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in total, the first included.
    pub attempts: u32,
    /// Upper bound of the first delay; it doubles with each attempt.
    pub base: Duration,
    /// Upper bound of every delay of our own.
    pub cap: Duration,
    /// Longest `Retry-After` that is waited for; a longer one ends the attempt at once.
    pub longest_wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 6,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(60),
            longest_wait: Duration::from_secs(300),
        }
    }
}

impl RetryPolicy {
    /// Returns the delay before attempt `attempt + 1`, with `attempt` counted from 1 and `random` uniform.
    pub fn delay(&self, attempt: u32, random: u64) -> Duration {
        let factor = 1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        let bound = self.base.saturating_mul(factor).min(self.cap).as_micros();
        let bound = u64::try_from(bound).unwrap_or(u64::MAX - 1);
        Duration::from_micros(random % (bound + 1))
    }
}

/// Returns a uniform number for [`RetryPolicy::delay`].
pub fn random() -> u64 {
    // Without entropy the delay is the same for every client, which is still a delay.
    getrandom::u64().unwrap_or(u64::MAX / 2)
}

/// Returns whether the same request may succeed later.
pub fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// Returns how long the server asks to wait: seconds, or an HTTP date relative to the answer's own `Date`.
///
/// The server's `Date` is the reference, so that a machine whose clock is off by a day waits right. Proxies and
/// scripts leave it out; then `now`, the seconds since the epoch by our clock, has to do.
pub fn retry_after(headers: &HeaderMap, now: i64) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let until = http_date(value)?;
    let date = headers.get(reqwest::header::DATE).and_then(|date| http_date(date.to_str().ok()?));
    let now = date.unwrap_or(now);
    Some(Duration::from_secs(u64::try_from(until.saturating_sub(now)).unwrap_or(0)))
}

/// Seconds since the epoch of an IMF-fixdate (RFC 9110 §5.6.7).
fn http_date(text: &str) -> Option<i64> {
    jiff::fmt::rfc2822::parse(text).ok().map(|time| time.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn reg_14_retry_after_is_read_as_seconds_and_as_date() {
        // Our clock is three seconds behind the server's.
        let ours = http_date("Sun, 06 Nov 1994 08:49:34 GMT").unwrap();
        let seconds = |pairs: &[(&'static str, &'static str)]| {
            retry_after(&headers(pairs), ours).map(|wait| wait.as_secs())
        };
        assert_eq!(seconds(&[("retry-after", "2")]), Some(2));
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(seconds(&[("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT"), date]), Some(10));
        assert_eq!(seconds(&[("retry-after", "Sun, 06 Nov 1994 08:49:07 GMT"), date]), Some(0));
        for absent in [&[][..], &[("date", "today")]] {
            let later = [&[("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT")][..], absent].concat();
            assert_eq!(seconds(&later), Some(13), "{absent:?}");
        }
        assert_eq!(seconds(&[("retry-after", "999999999999999999999999")]), Some(u64::MAX));
        for nonsense in ["", "-1", "soon", "1.5"] {
            assert_eq!(seconds(&[("retry-after", nonsense), date]), None, "{nonsense}");
        }
        assert_eq!(seconds(&[]), None);
    }

    #[test]
    fn delays_double_up_to_the_cap_and_jitter_fully() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.delay(1, 0), Duration::ZERO);
        assert_eq!(policy.delay(1, 500_000), Duration::from_millis(500));
        assert_eq!(policy.delay(3, 2_000_000), Duration::from_secs(2));
        for attempt in 0..100 {
            assert!(policy.delay(attempt, u64::MAX) <= policy.cap);
        }
    }
}
