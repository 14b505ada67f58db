//! The registry client: pull and push over the OCI distribution API (distribution-spec 1.1).
//!
//! In reading order: what a user sets (`settings`), where things are (`endpoint`, `route`, `scheme`), what may be
//! connected to (`address`, `dns`, `proxy`, `tls`, `verify`, `connections`, `no_nss`), who we are (`credentials`,
//! `helper`, `challenge`, `token`, `auth`), one exchange (`client`, `answer`, `body`) and its repetition (`retry`,
//! `nature`, `attempts`), and the two directions (`pull`, `range`, `blob`, `arrival`, `assembly`, `fetch`, `push`,
//! `upload`, `course`, `restricted`, `referrers`, `tags`). `login` keeps credentials for later, `download` gets what is no
//! registry's; `event`, `message`, `error` and `hint` hold what can be told. The client stores no blob and draws
//! nothing: it hands out verified bytes and events.
//!
//! Nothing here reads the environment or a clock that reaches an output.

pub mod address;
mod answer;
mod arrival;
mod assembly;
mod attempts;
mod auth;
mod blob;
mod body;
mod challenge;
mod client;
mod connections;
mod course;
pub mod credentials;
mod dns;
mod download;
mod endpoint;
pub mod error;
pub mod event;
mod fetch;
mod helper;
mod hint;
pub mod login;
mod message;
mod nature;
mod no_nss;
mod proxy;
mod pull;
mod push;
mod range;
mod referrers;
mod restricted;
mod retry;
mod route;
mod scheme;
pub mod settings;
mod tags;
mod tls;
mod token;
mod upload;
mod verify;

pub use arrival::{Arrival, ArrivalReader};
pub use blob::BlobStream;
pub use body::BlobSource;
pub use client::{Client, Entrance};
pub use download::{Attempts, UrlAnswer, UrlRequest};
pub use error::{Action, Error, Mismatch, Problem, Refusal};
pub use event::{Event, Events, Way};
pub use pull::ResolvedImage;
pub use push::{PushBlob, PushDocument, PushImage, PushPlan, Pushed, Upload, plan_push};
pub use retry::RetryPolicy;
pub use settings::{Environment, Login, RegistrySettings, Settings};
pub use tls::check_certificates;
