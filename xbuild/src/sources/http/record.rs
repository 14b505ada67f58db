//! What is remembered of a URL: `sources/<hash>.json`. A record that cannot be read, or whose blob is gone, is
//! none.

use std::path::PathBuf;

use oci::{Digest, Store};
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::{Fetched, Freshness};
use crate::sources::{SourceError, name_of};

/// Records of other versions are none.
pub const VERSION: u32 = 1;

/// One download.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// See [`VERSION`].
    pub version: u32,
    /// For people; without credentials and query.
    pub url: String,
    /// The server's name for these bytes.
    pub etag: Option<String>,
    /// The server's Last-Modified, where it may be asked whether the body is newer.
    pub unmodified_since: Option<String>,
    /// The same in seconds since the epoch.
    pub last_modified: Option<i64>,
    /// The name of the file.
    pub filename: String,
    /// The blob.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
}

impl Record {
    /// Returns what the URL serves.
    pub fn fetched(&self, freshness: Freshness) -> Fetched {
        Fetched {
            digest: self.digest,
            size: self.size,
            last_modified: self.last_modified,
            filename: self.filename.clone(),
            freshness,
        }
    }
}

/// Returns what is remembered of `url` if its body is still there.
pub fn read(store: &Store, url: &Url) -> Result<Option<Record>, SourceError> {
    let path = path(store, url);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(SourceError::io("read", &path)(error)),
    };
    let Ok(record) = serde_json::from_slice::<Record>(&bytes) else { return Ok(None) };
    let present = store.layout().size(&record.digest)? == Some(record.size);
    Ok(Some(record).filter(|record| present && record.version == VERSION))
}

/// Remembers a download.
pub fn write(store: &Store, url: &Url, record: &Record) -> Result<(), SourceError> {
    let bytes = serde_json::to_vec(record).expect("a record is plain data");
    Ok(store.replace(&path(store, url), &bytes)?)
}

/// The name is a hash of the whole URL, so that no credential in it lies on disk.
fn path(store: &Store, url: &Url) -> PathBuf {
    let name = name_of(&["xbuild-url-1", url.as_str()]);
    store.root().join("sources").join(format!("{name}.json"))
}

/// Returns the seconds since the epoch of an HTTP date in any of its three forms (RFC 9110 §5.6.7).
pub fn http_date(text: &str) -> Option<i64> {
    if let Ok(time) = jiff::fmt::rfc2822::parse(text) {
        return Some(time.timestamp().as_second());
    }
    let forms = ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let civil = forms.iter().find_map(|form| jiff::civil::DateTime::strptime(form, text).ok())?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_all_three_forms() {
        let seconds = Some(784_111_777);
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), seconds);
        assert_eq!(http_date("Sunday, 06-Nov-94 08:49:37 GMT"), seconds);
        assert_eq!(http_date("Sun Nov  6 08:49:37 1994"), seconds);
        for nonsense in ["", "yesterday", "784111777", "Sun, 06 Nov"] {
            assert_eq!(http_date(nonsense), None, "{nonsense}");
        }
    }
}
