//! Blobs of the store that are not what their digest says. Reads none: who reads or sends one finds it.

use oci::Digest;
use oci::registry::Error;
use oci::store::Store;

use crate::failure::{Class, Failure};

/// Takes a damaged blob out of the store, so that whoever needs it next makes or fetches it again. Makes the failure of
/// whoever needed it now, of which `parts` say what is wrong where.
pub fn taken_out(store: &Store, digest: &Digest, parts: &[&str]) -> Failure {
    let fix = match store.layout().remove(digest) {
        Ok(()) => "it is out of the store now: build, pull or load the image again".to_owned(),
        Err(error) => format!("remove it: {error}"),
    };
    Failure::new(Class::Store, &[parts, &[&fix]].concat())
}

/// Makes the failure of a push from the store.
pub fn pushed(store: &Store, error: Error) -> Failure {
    match error.damaged() {
        Some(digest) => taken_out(store, &digest, &[&error.to_string()]),
        None => error.into(),
    }
}
