//! STOPSIGNAL: which names and numbers are signals (Linux, as moby/sys/signal lists them).

const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// Returns whether a text names a signal.
pub(super) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u32>() {
        return number > 0;
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    NAMES.contains(&name) || is_real_time(name)
}

/// RTMIN+1 to RTMIN+15, RTMAX-1 to RTMAX-14.
fn is_real_time(name: &str) -> bool {
    let offset = |prefix: &str| name.strip_prefix(prefix).and_then(|offset| offset.parse::<u32>().ok());
    offset("RTMIN+").is_some_and(|offset| (1..=15).contains(&offset))
        || offset("RTMAX-").is_some_and(|offset| (1..=14).contains(&offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for good in ["SIGTERM", "term", "9", "SIGRTMIN+3", "RTMAX-14", "SIGRTMAX"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["", "0", "-1", "SIGFOO", "RTMIN+16", "$SIG"] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
