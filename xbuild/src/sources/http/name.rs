//! The name of a downloaded file. Whatever a server says, it is one name in one directory (SRC-07).

use reqwest::Url;

/// The name where nothing better is known.
const DEFAULT: &str = "download";

/// Longest name of a file (NAME_MAX).
const LONGEST: usize = 255;

/// Returns the name that `content_disposition` gives, else the last one in the URL's path, else `download`.
pub fn file_name(url: &Url, content_disposition: Option<&str>) -> String {
    let told = content_disposition.and_then(disposition_name).filter(|name| !name.ends_with('/'));
    if let Some(name) = told.filter(|name| !name.is_empty()) {
        return safe(&name);
    }
    safe(&unescape(url.path()).unwrap_or_default())
}

/// Returns the last part of a path if it can be the name of a file, else `download`.
pub fn safe(path: &str) -> String {
    let name = path.trim().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let bad = matches!(name, "" | "." | "..") || name.len() > LONGEST || name.chars().any(char::is_control);
    if bad { DEFAULT.to_owned() } else { name.to_owned() }
}

/// Returns the `filename` of a Content-Disposition; `filename*` wins (RFC 6266 §4.3).
fn disposition_name(header: &str) -> Option<String> {
    let mut plain = None;
    for parameter in parameters(header).skip(1) {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        match name.trim().to_ascii_lowercase().as_str() {
            "filename*" => {
                if let Some(name) = extended(value.trim()) {
                    return Some(name);
                }
            }
            "filename" => plain = Some(unquote(value.trim())),
            _ => {}
        }
    }
    plain
}

/// Splits at the semicolons outside of quotes.
fn parameters(header: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    header.split(move |c| {
        let separates = c == ';' && !quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        separates
    })
}

fn unquote(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) else {
        return value.to_owned();
    };
    let mut name = String::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => name.extend(rest.next()),
            c => name.push(c),
        }
    }
    name
}

/// `UTF-8''na%C3%AFve.txt` (RFC 8187).
fn extended(value: &str) -> Option<String> {
    let mut parts = value.splitn(3, '\'');
    let charset = parts.next()?;
    let (_language, text) = (parts.next()?, parts.next()?);
    charset.eq_ignore_ascii_case("utf-8").then(|| unescape(text)).flatten()
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digits = rest.clone();
        let mut digits = digits.map(|byte| char::from(byte).to_digit(16));
        match (byte, digits.next().flatten(), digits.next().flatten()) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).ok()?);
                rest.nth(1);
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, disposition: Option<&str>, expected: &str) {
        assert_eq!(file_name(&Url::parse(url).unwrap(), disposition), expected, "{url} {disposition:?}");
    }

    #[test]
    fn src_07_names_of_urls() {
        check("http://h/foo", None, "foo");
        check("http://h/a/b/c.txt?x=1#y", None, "c.txt");
        check("http://h/a/b/", None, "b");
        check("http://h/", None, "download");
        check("http://h", None, "download");
        check("http://h/%2e%2e%2f%2e%2e", None, "download");
        check("http://h/a%2f..%2fb", None, "b");
        check("http://h/a%00b", None, "download");
        check("http://h/a%0ab", None, "download");
        check("http://h/%E8%B3%87%E6%96%99.txt", None, "資料.txt");
        check("http://h/%ff", None, "download");
        check("http://h/a%zz", None, "a%zz");
        check(&format!("http://h/{}", "a".repeat(1000)), None, "download");
    }

    #[test]
    fn src_07_names_of_servers() {
        check("http://h/u", Some("attachment; filename=x.tar"), "x.tar");
        check("http://h/u", Some("attachment; filename=\"a b;c.tar\""), "a b;c.tar");
        check("http://h/u", Some(r#"attachment; filename="a\"b""#), "a\"b");
        check("http://h/u", Some("attachment; filename=\"../../x\""), "x");
        check("http://h/u", Some("attachment; filename=\"..\""), "download");
        check("http://h/u", Some("attachment; filename=\"x/\""), "u");
        check("http://h/u", Some("attachment; filename=\"\""), "u");
        check("http://h/u", Some("attachment; filename=y; filename*=UTF-8''na%C3%AFve"), "naïve");
        check("http://h/u", Some("attachment; filename*=UTF-8''..%2f..%2fx"), "x");
        check("http://h/u", Some("attachment; filename*=latin1''x; filename=y"), "y");
        check("http://h/u", Some("inline"), "u");
        check("http://h/u", Some(";;;=;\"\"\""), "u");
    }
}
