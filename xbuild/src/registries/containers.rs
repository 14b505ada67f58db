//! The files of Podman, Buildah and Skopeo: `registries.conf` with its additions (containers-registries.conf(5)).
//!
//! Read are `[[registry]]` tables, the lists of the first version of the format, and `credential-helpers`. What else may
//! stand in these files (search lists, aliases) is for those tools: a short name is Docker Hub's here.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use oci::registry::settings::{Checks, Mirror, Route, Serves};
use toml::de::DeTable;

use super::Paths;
use super::document::{Document, Value};
use super::words::{self, Wrong};
use crate::failure::{Class, Failure};

/// What these files say.
#[derive(Debug, Default)]
pub struct Said {
    /// What stands for registries and parts of them.
    pub routes: Vec<Route>,
    /// Credential helpers for all registries.
    pub helpers: Vec<String>,
}

/// What stands for the files of credentials in a list of helpers.
const FILES: &str = "containers-auth.json";

/// Reads the file that is chosen, or the first that is there, and what is added to it.
///
/// # Errors
/// A usage failure with the line.
pub fn read(paths: &Paths) -> Result<Said, Failure> {
    let (mut routes, mut helpers) = (BTreeMap::new(), Vec::new());
    let main = match &paths.containers_chosen {
        Some(path) => Some(Document::read_chosen(path, super::environment::CONTAINERS_FILE)?),
        None => first(&paths.containers)?,
    };
    if let Some(document) = main {
        parse(&document, &mut routes, &mut helpers)?;
    }
    for directory in &paths.containers_additions {
        for path in additions(directory)? {
            if let Some(document) = Document::read(&path)? {
                parse(&document, &mut routes, &mut helpers)?;
            }
        }
    }
    Ok(Said { routes: routes.into_values().collect(), helpers })
}

fn first(paths: &[PathBuf]) -> Result<Option<Document>, Failure> {
    for path in paths {
        if let Some(document) = Document::read(path)? {
            return Ok(Some(document));
        }
    }
    Ok(None)
}

/// Returns the `*.conf` of a directory in the order of their names.
fn additions(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new(
            Class::Usage,
            &["unusable configuration", &directory.display().to_string(), &error.to_string()],
        )
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(unreadable(error)),
    };
    let paths =
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>().map_err(unreadable)?;
    let mut paths: Vec<_> = paths
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    paths.sort();
    Ok(paths)
}

/// Adds the routes of one file. A prefix that an earlier file has is replaced; of two in one file the first counts.
/// Helpers stand for those of an earlier file.
fn parse(
    document: &Document,
    routes: &mut BTreeMap<String, Route>,
    helpers: &mut Vec<String>,
) -> Result<(), Failure> {
    let table = document.table()?;
    if let Some(list) = table.get("credential-helpers") {
        let names = document.strings(list)?.into_iter().map(|(name, _)| name.to_owned());
        *helpers = names.filter(|name| name != FILES).collect();
    }
    let mut own = BTreeMap::new();
    for (registry, span) in document.tables(&table, "registry")? {
        let route = route(document, registry, span)?;
        own.entry(route.prefix.clone()).or_insert(route);
    }
    if let Some(lists) = table.get("registries") {
        first_version(document, document.subtable(lists, "[registries.insecure]")?, &mut own)?;
    }
    routes.extend(own);
    Ok(())
}

fn route(document: &Document, table: &DeTable<'_>, span: Range<usize>) -> Result<Route, Failure> {
    let named = |key: &str, parse: fn(&str) -> Result<String, Wrong>| -> Result<Option<String>, Failure> {
        let Some(value) = table.get(key) else { return Ok(None) };
        match document.string(value)? {
            "" => Ok(None),
            text => parse(text).map(Some).map_err(|wrong| document.wrong(value.span(), &wrong)),
        }
    };
    let location = named("location", words::location)?;
    let Some(prefix) = named("prefix", prefix)?.or_else(|| location.clone()) else {
        return Err(document.failure(span, "there is neither prefix nor location", "name the registry"));
    };
    let by_digest = enabled(document, table, "mirror-by-digest-only")?;
    let mut mirrors = Vec::new();
    for (mirror, span) in document.tables(table, "mirror")? {
        mirrors.push(self::mirror(document, mirror, span, by_digest)?);
    }
    Ok(Route {
        location: location.filter(|location| *location != prefix),
        prefix,
        mirrors,
        checks: checks(document, table)?,
        blocked: enabled(document, table, "blocked")?.then(|| document.path.display().to_string()),
    })
}

fn mirror(
    document: &Document,
    table: &DeTable<'_>,
    span: Range<usize>,
    by_digest: bool,
) -> Result<Mirror, Failure> {
    let Some(location) = table.get("location") else {
        return Err(document.failure(span, "the mirror has no location", ""));
    };
    let text = document.string(location)?;
    Ok(Mirror {
        location: words::location(text).map_err(|wrong| document.wrong(location.span(), &wrong))?,
        serves: match table.get("pull-from-mirror") {
            Some(value) => serves(document, value)?,
            None if by_digest => Serves::Digests,
            None => Serves::All,
        },
        checks: checks(document, table)?,
    })
}

fn serves(document: &Document, value: &Value<'_>) -> Result<Serves, Failure> {
    match document.string(value)? {
        "all" | "" => Ok(Serves::All),
        "digest-only" => Ok(Serves::Digests),
        "tag-only" => Ok(Serves::Tags),
        other => {
            let why = format!("unknown pull-from-mirror {other:?}");
            Err(document.failure(value.span(), &why, "write all, digest-only or tag-only"))
        }
    }
}

fn checks(document: &Document, table: &DeTable<'_>) -> Result<Checks, Failure> {
    Ok(if enabled(document, table, "insecure")? { Checks::None } else { Checks::Usual })
}

fn enabled(document: &Document, table: &DeTable<'_>, key: &str) -> Result<bool, Failure> {
    table.get(key).map_or(Ok(false), |value| document.flag(value))
}

/// Parses `*.domain`, or `HOST[:PORT][/PATH]` behind which a tag or digest may stand.
fn prefix(text: &str) -> Result<String, Wrong> {
    let text = text.trim_end_matches('/');
    if let Some(domain) = text.strip_prefix("*.") {
        return words::host(&format!("{domain}:443")).map(|_| text.to_owned());
    }
    let path = text.find('/').unwrap_or(text.len());
    let end = text[path..].find([':', '@']).map_or(text.len(), |at| path + at);
    Ok(words::location(&text[..end])? + &text[end..])
}

/// The lists of the first version: `[registries.insecure]` and `[registries.block]`, each with `registries`.
fn first_version(
    document: &Document,
    lists: &DeTable<'_>,
    routes: &mut BTreeMap<String, Route>,
) -> Result<(), Failure> {
    let blocked = Some(document.path.display().to_string());
    let kinds: [(&str, Checks, Option<String>); 2] =
        [("insecure", Checks::None, None), ("block", Checks::Usual, blocked)];
    for (kind, checks, blocked) in kinds {
        let Some(list) = lists.get(kind) else { continue };
        let Some(values) = document.subtable(list, "a table")?.get("registries") else { continue };
        for (text, span) in document.strings(values)? {
            let prefix = words::location(text).map_err(|wrong| document.wrong(span, &wrong))?;
            let route = routes.entry(prefix.clone()).or_insert_with(|| Route { prefix, ..Route::default() });
            route.checks = route.checks.max(checks);
            route.blocked = route.blocked.take().or_else(|| blocked.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_texts(main: &str, additions: &[(&str, &str)]) -> Result<Vec<Route>, Failure> {
        read_all(main, additions).map(|said| said.routes)
    }

    fn read_all(main: &str, additions: &[(&str, &str)]) -> Result<Said, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registries.conf");
        std::fs::write(&path, main).unwrap();
        let added = directory.path().join("registries.conf.d");
        std::fs::create_dir(&added).unwrap();
        for (name, text) in additions {
            std::fs::write(added.join(name), text).unwrap();
        }
        let absent = directory.path().join("absent");
        read(&Paths {
            containers: vec![absent.clone(), path],
            containers_additions: vec![added, absent],
            ..Paths::default()
        })
    }

    #[test]
    fn tables_become_routes() {
        let routes = read_texts(
            "unqualified-search-registries = [\"quay.io\"]\nshort-name-mode = \"enforcing\"\n\
             [[registry]]\nprefix = \"docker.io/library\"\nlocation = \"docker.io/library\"\n\
             [[registry.mirror]]\nlocation = \"m.io:5/hub\"\ninsecure = true\npull-from-mirror = \"digest-only\"\n\
             [[registry.mirror]]\nlocation = \"n.io\"\n\
             [[registry]]\nprefix = \"*.example.com\"\nblocked = true\n\
             [[registry]]\nprefix = \"v.io\"\nlocation = \"inside.io/vendor/\"\ninsecure = true\n\
             [[registry]]\nlocation = \"v.io\"\n",
            &[],
        )
        .unwrap();
        let by = |prefix: &str| routes.iter().find(|route| route.prefix == prefix).unwrap();
        let library = by("docker.io/library");
        assert_eq!((&library.location, library.checks), (&None, Checks::Usual));
        let first = &library.mirrors[0];
        assert_eq!(
            (first.location.as_str(), first.serves, first.checks),
            ("m.io:5/hub", Serves::Digests, Checks::None)
        );
        assert_eq!(library.mirrors[1].serves, Serves::All);
        assert!(by("*.example.com").blocked.as_ref().unwrap().ends_with("registries.conf"));
        let vendor = by("v.io");
        assert_eq!(vendor.location.as_deref(), Some("inside.io/vendor"), "the first of two counts");
        assert_eq!(vendor.checks, Checks::None);
        assert_eq!(routes.len(), 3);
    }

    #[test]
    fn additions_replace_in_the_order_of_their_names() {
        let block = |yes: bool| format!("[[registry]]\nlocation = \"h.io\"\nblocked = {yes}\n");
        let added = [("20.conf", block(false)), ("10.conf", block(true)), ("30.txt", block(true))];
        let added: Vec<_> = added.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let routes = read_texts(&block(true), &added).unwrap();
        assert_eq!((routes.len(), &routes[0].blocked), (1, &None));
    }

    #[test]
    fn helpers_for_all_registries_are_those_of_the_last_file_that_has_some() {
        let check = |main: &str, added: &str, expected: &[&str]| {
            assert_eq!(read_all(main, &[("1.conf", added)]).unwrap().helpers, expected);
        };
        check("credential-helpers = [\"containers-auth.json\"]\n", "", &[]);
        check(
            "credential-helpers = [\"pass\", \"containers-auth.json\", \"ecr-login\"]\n",
            "",
            &["pass", "ecr-login"],
        );
        check("credential-helpers = [\"pass\"]\n", "credential-helpers = [\"other\"]\n", &["other"]);
        refuses("credential-helpers = 1\n", &[":1"]);
    }

    #[test]
    fn the_first_version_has_lists() {
        let routes = read_texts(
            "[registries.search]\nregistries = [\"docker.io\"]\n[registries.insecure]\nregistries = [\"h.io:5\"]\n\
             [registries.block]\nregistries = [\"bad.io\", \"h.io:5\"]\n",
            &[],
        )
        .unwrap();
        assert_eq!(routes.len(), 2);
        assert!(
            routes[0].prefix == "bad.io" && routes[0].checks == Checks::Usual && routes[0].blocked.is_some()
        );
        assert!(
            routes[1].prefix == "h.io:5" && routes[1].checks == Checks::None && routes[1].blocked.is_some()
        );
    }

    #[track_caller]
    fn refuses(text: &str, parts: &[&str]) {
        let line = read_texts(text, &[]).unwrap_err().line;
        for part in parts {
            assert!(line.contains(part), "{part:?} is not in {line:?}");
        }
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        refuses("[[registry]]\nblocked = true\n", &["registries.conf:1", "neither prefix nor location"]);
        refuses("\n[[registry]]\nlocation = \"https://h.io\"\n", &[":3", "without a scheme"]);
        refuses("[[registry]]\nlocation = \"h.io\"\n[[registry.mirror]]\n", &["no location"]);
        refuses("[[registry]]\nlocation = \"h.io\"\nblocked = 1\n", &[":3", "true or false"]);
        refuses("[registry]\nlocation = \"h.io\"\n", &[":1", "[[registry]]"]);
        let mirror = "[[registry]]\nlocation = \"h.io\"\n[[registry.mirror]]\nlocation = \"m.io\"\npull-from-mirror = \"x\"\n";
        refuses(mirror, &[":5", "digest-only"]);
        refuses("[[registry]]\nprefix = \"*.\"\n", &[":2"]);
        refuses("x\n", &["it is no TOML"]);
    }

    #[test]
    fn prefixes_name_hosts_parts_and_single_images() {
        for text in ["h.io", "h.io:5/a/b", "*.example.com", "h.io/a:tag", "localhost/a"] {
            assert_eq!(prefix(text).unwrap(), text);
        }
        assert!(prefix("*.a/b").is_err() && prefix("nodot/a").is_err());
    }
}
