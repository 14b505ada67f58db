//! The registry client of a command, made when it is first needed: reading the host's CA files costs more than
//! a cached build.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use oci::registry::{Client, Event, Events};

use super::RegistryOptions;
use crate::failure::Failure;
use crate::progress::{Transfers, note_of};

/// How often a blob that moves is mentioned.
const MENTION: Duration = Duration::from_secs(5);

/// Makes the client.
pub struct Registries {
    options: RegistryOptions,
    events: Events,
    client: OnceLock<Result<Client, Failure>>,
}

impl Registries {
    /// `note` is told what a user should know, as lines.
    pub fn new(options: RegistryOptions, note: impl Fn(String) + Send + Sync + 'static) -> Self {
        let (transfers, begun) = (Mutex::new(Transfers::new(MENTION)), Instant::now());
        Self::watched(options, move |event| {
            let news = || {
                let mut transfers = transfers.lock().unwrap_or_else(PoisonError::into_inner);
                transfers.hear(begun.elapsed(), &event).map(|news| news.text())
            };
            if let Some(text) = note_of(&event).or_else(news) {
                note(text);
            }
        })
    }

    /// `sink` is told all that the client tells.
    pub fn watched(options: RegistryOptions, sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self { options, events: Events::new(sink), client: OnceLock::new() }
    }

    /// Returns the client, which is made when it is asked for first.
    ///
    /// # Errors
    /// Usage failures of the files that say how registries are reached; the same again for who asks again.
    pub fn client(&self) -> Result<&Client, Failure> {
        let made = self.client.get_or_init(|| {
            let settings = super::settings(&self.options, &super::environment::paths())?;
            self.options.notes.iter().for_each(|note| self.tell(note.clone()));
            Ok(Client::new(settings, self.events.clone()))
        });
        made.as_ref().map_err(Failure::clone)
    }

    /// Returns the flags of a command that asks registries in the same way.
    pub fn flags(&self) -> &[String] {
        &self.options.again
    }

    /// Tells the user.
    pub fn tell(&self, text: String) {
        self.events.tell(Event::Note(text));
    }
}
