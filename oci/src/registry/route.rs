//! Which image names a route of the settings is for, and what their names become (containers-registries.conf(5)).
//! Knows no transport.

use super::settings::Route;
use crate::Reference;

/// A route that is for a name, with the part of the name that it replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Matched<'a> {
    /// The route.
    pub route: &'a Route,
    /// Bytes at the start of `registry/repository` that its locations stand for.
    length: usize,
}

/// Returns the route for an image: the longest prefix wins, the first of the same length.
pub(super) fn find<'a>(routes: &'a [Route], image: &Reference) -> Option<Matched<'a>> {
    let found = find_name(routes, &image.to_string())?;
    // What a prefix says of tag or digest is no part of the name that a location replaces.
    Some(Matched { length: found.length.min(image.name().len()), ..found })
}

/// Returns the route for a name without a version: a registry, or a repository of one.
pub(super) fn find_name<'a>(routes: &'a [Route], name: &str) -> Option<Matched<'a>> {
    let mut found: Option<Matched<'a>> = None;
    for route in routes {
        let Some(length) = matched(&route.prefix, name) else { continue };
        if found.is_none_or(|found| length > found.length) {
            found = Some(Matched { route, length });
        }
    }
    found
}

/// Returns how much of `name` is `prefix`. A part of a component is none: `h/te` is not for `h/team`.
fn matched(prefix: &str, name: &str) -> Option<usize> {
    let host = name.find('/').unwrap_or(name.len());
    if let Some(domain) = prefix.strip_prefix('*') {
        // A wildcard has no port and matches with any.
        let without_port = name[..host].rfind(':').unwrap_or(host);
        let labels = name[..without_port].strip_suffix(domain)?;
        return (domain.starts_with('.') && !labels.is_empty()).then_some(without_port);
    }
    let rest = name.strip_prefix(prefix)?;
    // Behind a host a colon begins a port, which makes it another host.
    let version = prefix.contains('/') && rest.starts_with([':', '@']);
    (rest.is_empty() || rest.starts_with('/') || version).then_some(prefix.len())
}

impl Matched<'_> {
    /// Returns host and repository of `name` where its matched part is `location` instead.
    pub fn rewrite(&self, name: &str, location: &str) -> (String, String) {
        let name = format!("{location}{}", &name[self.length..]);
        match name.split_once('/') {
            Some((host, repository)) => (host.to_owned(), repository.to_owned()),
            None => (name, String::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(prefixes: &[&str], name: &str, location: &str, expected: Option<(&str, &str)>) {
        let routes: Vec<Route> = prefixes
            .iter()
            .map(|prefix| Route { prefix: (*prefix).to_owned(), ..Route::default() })
            .collect();
        let (registry, rest) = name.split_once('/').unwrap();
        let (repository, tag) = rest.split_once(':').map_or((rest, None), |(path, tag)| (path, Some(tag)));
        let image = Reference {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest: None,
        };
        let found = find(&routes, &image).map(|found| found.rewrite(&image.name(), location));
        let found = found.as_ref().map(|(host, repository)| (host.as_str(), repository.as_str()));
        assert_eq!(found, expected, "{prefixes:?} for {name}");
    }

    #[test]
    fn a_location_stands_for_the_prefix() {
        check(&["docker.io"], "docker.io/library/a", "m.example/hub", Some(("m.example", "hub/library/a")));
        check(&["docker.io/library"], "docker.io/library/a", "m:5", Some(("m:5", "a")));
        check(&["docker.io/library/a"], "docker.io/library/a", "m/copy", Some(("m", "copy")));
        check(&["h:5000"], "h:5000/a/b", "m", Some(("m", "a/b")));
        check(&["*.example.com"], "a.b.example.com/x", "m/all", Some(("m", "all/x")));
        check(&["*.example.com"], "a.example.com:5/x", "m", Some(("m:5", "x")));
    }

    #[test]
    fn the_longest_prefix_of_whole_components_wins() {
        check(&["h", "h/team/app", "h/team"], "h/team/app", "m", Some(("m", "")));
        check(&["h", "h/te"], "h/team/app", "m", Some(("m", "team/app")));
        check(&["h/te"], "h/team/app", "m", None);
        check(&["h"], "h:5000/team", "m", None);
        check(&["h/a:1"], "h/a:1", "m/b", Some(("m", "b")));
        check(&["h/a:1"], "h/a:2", "m/b", None);
        check(&["h/a", "h/a:1"], "h/a:10", "m/b", Some(("m", "b")));
        check(&["*.example.com"], "example.com/x", "m", None);
        check(&["*.example.com"], "badexample.com/x", "m", None);
        check(&["*.example.com"], "a.example.com.evil.org/x", "m", None);
    }
}
