//! Blobs on their way between the store and registries: how far they are, and what is worth saying of it. Draws
//! nothing and asks no registry: the client tells.

use std::collections::BTreeMap;
use std::time::Duration;

use oci::Digest;
use oci::registry::{Event, Way};

use super::text::{size, with_short_digests};

/// Which way a blob goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From a registry.
    Pull,
    /// To a registry.
    Push,
}

/// One blob at one registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Passage {
    /// Which way.
    pub direction: Direction,
    /// Registry and repository.
    pub place: String,
    /// The blob.
    pub digest: Digest,
}

/// Where a blob is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// This many bytes of it have passed.
    Moving(u64),
    /// All of it has come.
    Pulled,
    /// It is in the target repository.
    Pushed(Way),
}

/// Something worth saying of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// Which blob.
    pub passage: Passage,
    /// Its bytes.
    pub size: u64,
    /// Where it is.
    pub stage: Stage,
}

/// All blobs that move.
#[derive(Debug)]
pub struct Transfers {
    moving: BTreeMap<Passage, Moving>,
    /// How long a blob that moves is not mentioned again.
    pause: Duration,
}

#[derive(Debug)]
struct Moving {
    done: u64,
    size: u64,
    said: Duration,
}

impl Transfers {
    /// Mentions a blob that moves at most once in `pause`, for the first time when it has moved for that long.
    pub fn new(pause: Duration) -> Self {
        Self { moving: BTreeMap::new(), pause }
    }

    /// Takes what a client told at `now` and returns what is worth saying of it.
    pub fn hear(&mut self, now: Duration, event: &Event) -> Option<News> {
        match event {
            Event::Received { digest, from, bytes, size } => {
                let passage = pull(from, *digest);
                // All of it may have come before, and not have been right.
                let before = self.moving.get(&passage).map(|moving| moving.done).filter(|done| done < size);
                self.moves(now, passage, before.unwrap_or(0) + bytes, *size)
            }
            Event::Pulled { digest, from, size } => {
                let passage = pull(from, *digest);
                self.moving.remove(&passage);
                Some(News { passage, size: *size, stage: Stage::Pulled })
            }
            Event::Sent { digest, to, end, size, bytes: _ } => {
                self.moves(now, push(to, *digest), *end, *size)
            }
            Event::Pushed { digest, to, size, way } => {
                let passage = push(to, *digest);
                self.moving.remove(&passage);
                Some(News { passage, size: *size, stage: Stage::Pushed(way.clone()) })
            }
            Event::Waiting { .. }
            | Event::TokenServer { .. }
            | Event::MirrorFailed { .. }
            | Event::Note(_) => None,
        }
    }

    fn moves(&mut self, now: Duration, passage: Passage, done: u64, size: u64) -> Option<News> {
        let moving = self.moving.entry(passage.clone()).or_insert(Moving { done, size, said: now });
        moving.done = done;
        if now.saturating_sub(moving.said) < self.pause {
            return None;
        }
        moving.said = now;
        Some(News { passage, size, stage: Stage::Moving(done) })
    }

    /// Says in one line what moves; nothing where nothing does.
    pub fn line(&self) -> Option<String> {
        let of = |direction: Direction, verb: &str| {
            let moving = || self.moving.iter().filter(|(passage, _)| passage.direction == direction);
            let count = moving().count();
            let (done, all) =
                moving().fold((0, 0), |(done, all), (_, moving)| (done + moving.done, all + moving.size));
            let blobs = if count == 1 { "layer" } else { "layers" };
            (count > 0).then(|| format!("{verb} {count} {blobs}, {} of {}", size(done), size(all)))
        };
        let parts: Vec<_> =
            [of(Direction::Pull, "pulling"), of(Direction::Push, "pushing")].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

fn pull(from: &str, digest: Digest) -> Passage {
    Passage { direction: Direction::Pull, place: from.to_owned(), digest }
}

fn push(to: &str, digest: Digest) -> Passage {
    Passage { direction: Direction::Push, place: to.to_owned(), digest }
}

impl News {
    /// Returns it as a line for people.
    pub fn text(&self) -> String {
        let Passage { direction, place, digest } = &self.passage;
        let blob = format!("{}:{}", digest.algorithm().name(), &digest.hex()[..12]);
        let all = size(self.size);
        match (&self.stage, direction) {
            (Stage::Moving(done), Direction::Pull) => {
                format!("pulling {blob} from {place}, {} of {all}", size(*done))
            }
            (Stage::Moving(done), Direction::Push) => {
                format!("pushing {blob} to {place}, {} of {all}", size(*done))
            }
            (Stage::Pulled, _) => format!("pulled {blob} from {place}, {all}"),
            (Stage::Pushed(Way::Uploaded), _) => format!("pushed {blob} to {place}, {all}"),
            (Stage::Pushed(Way::Mounted { from }), _) => {
                format!("mounted {blob} in {place} from {from}, {all}")
            }
            (Stage::Pushed(Way::Existed), _) => format!("{blob} is in {place} already, {all}"),
        }
    }
}

/// Returns what a client tells besides the bytes that come and go, as a line for people.
pub fn note_of(event: &Event) -> Option<String> {
    match event {
        Event::Waiting { host, what, reason, delay, attempt, attempts } => {
            let problem = if reason.starts_with(what) { reason.clone() } else { format!("{what}: {reason}") };
            let (problem, delay) = (with_short_digests(&problem), delay.as_secs_f64());
            Some(format!("{problem}; attempt {attempt} of {attempts}, trying {host} again in {delay:.1} s"))
        }
        Event::TokenServer { registry, host } => Some(format!("{registry} has its tokens from {host}")),
        Event::MirrorFailed { mirror, reason } => {
            Some(format!("mirror {mirror}: {}", with_short_digests(reason)))
        }
        Event::Note(text) => Some(text.clone()),
        Event::Received { .. } | Event::Pulled { .. } | Event::Sent { .. } | Event::Pushed { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sent(end: u64) -> Event {
        Event::Sent { digest: Digest::of(b"x"), to: "r/app".to_owned(), bytes: 1, end, size: 3_000_000 }
    }

    fn received(bytes: u64) -> Event {
        Event::Received { digest: Digest::of(b"y"), from: "r/base".to_owned(), bytes, size: 2_000_000 }
    }

    fn pulled() -> Event {
        Event::Pulled { digest: Digest::of(b"y"), from: "r/base".to_owned(), size: 2_000_000 }
    }

    fn check(events: &[(u32, Event)], expected: &[&str]) {
        let mut transfers = Transfers::new(SECOND * 5);
        let said = events.iter().filter_map(|(at, event)| transfers.hear(SECOND * *at, event));
        let said: Vec<_> = said.map(|news| news.text()).collect();
        assert_eq!(said, expected);
    }

    #[test]
    fn what_moves_is_mentioned_now_and_then_and_its_end_always() {
        let pushed =
            |way| Event::Pushed { digest: Digest::of(b"x"), to: "r/app".to_owned(), size: 3_000_000, way };
        check(
            &[(0, sent(1_000_000)), (4, sent(1_500_000)), (5, sent(2_000_000)), (9, sent(3_000_000))],
            &["pushing sha256:2d711642b726 to r/app, 2.0 MB of 3.0 MB"],
        );
        check(&[(0, pushed(Way::Uploaded))], &["pushed sha256:2d711642b726 to r/app, 3.0 MB"]);
        check(&[(0, pushed(Way::Existed))], &["sha256:2d711642b726 is in r/app already, 3.0 MB"]);
        check(
            &[(0, pushed(Way::Mounted { from: "base".to_owned() }))],
            &["mounted sha256:2d711642b726 in r/app from base, 3.0 MB"],
        );
        check(
            &[(0, received(500_000)), (6, received(500_000)), (7, received(1_000_000)), (8, pulled())],
            &[
                "pulling sha256:a1fce4363854 from r/base, 1.0 MB of 2.0 MB",
                "pulled sha256:a1fce4363854 from r/base, 2.0 MB",
            ],
        );
        // What has come as a whole and is wrong was not pulled, and begins again.
        check(
            &[(0, received(2_000_000)), (6, received(500_000)), (7, received(1_500_000)), (8, pulled())],
            &[
                "pulling sha256:a1fce4363854 from r/base, 500.0 kB of 2.0 MB",
                "pulled sha256:a1fce4363854 from r/base, 2.0 MB",
            ],
        );
    }

    #[test]
    fn all_that_moves_is_one_line() {
        let mut transfers = Transfers::new(SECOND);
        assert_eq!(transfers.line(), None);
        transfers.hear(SECOND, &sent(1_000_000));
        // A broken connection goes on where the registry stopped.
        transfers.hear(SECOND, &sent(500_000));
        transfers.hear(SECOND, &received(500_000));
        assert_eq!(
            transfers.line().as_deref(),
            Some("pulling 1 layer, 500.0 kB of 2.0 MB; pushing 1 layer, 500.0 kB of 3.0 MB")
        );
        transfers.hear(SECOND, &received(1_500_000));
        transfers.hear(SECOND, &pulled());
        assert_eq!(transfers.line().as_deref(), Some("pushing 1 layer, 500.0 kB of 3.0 MB"));
    }

    #[test]
    fn attempts_are_told_once_and_with_short_digests() {
        let digest = Digest::of(b"x");
        let waiting = |what: &str, reason: &str| {
            let (host, delay) = ("h".to_owned(), Duration::from_millis(500));
            let (what, reason) = (what.to_owned(), reason.to_owned());
            note_of(&Event::Waiting { host, what, reason, delay, attempt: 1, attempts: 6 }).expect("a line")
        };
        let end = "; attempt 1 of 6, trying h again in 0.5 s";
        let layer = format!("layer {digest}");
        assert_eq!(
            waiting(&layer, &format!("{layer} from h ended after 1 of 2 bytes")),
            format!("layer sha256:2d711642b726 from h ended after 1 of 2 bytes{end}")
        );
        assert_eq!(waiting(&layer, "h stalls"), format!("layer sha256:2d711642b726: h stalls{end}"));
    }
}
