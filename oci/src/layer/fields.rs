//! The fields of tar headers as values: numbers, PAX records, times, names. Nothing here knows an entry.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::Mtime;

/// Why a header is refused; the reader adds where.
#[derive(Debug)]
pub(super) struct Refusal(pub String);

pub(super) type Result<T> = std::result::Result<T, Refusal>;

pub(super) fn refuse<T>(what: impl Into<String>) -> Result<T> {
    Err(Refusal(what.into()))
}

/// Reads a number field: octal digits between blanks, or base-256 with its sign.
pub(super) fn number(field: &[u8]) -> Option<i128> {
    if field[0] & 0x80 != 0 {
        // GNU base-256: the marker bit aside, big-endian two's complement.
        let first = if field[0] & 0x40 == 0 {
            i128::from(field[0] & 0x3f)
        } else {
            i128::from(field[0] | 0x80) - 256
        };
        let value = field[1..].iter().fold(first, |value, byte| value << 8 | i128::from(*byte));
        return i64::try_from(value).ok().map(i128::from);
    }
    let start = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
    let digits = field[start..].iter().take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    let (digits, rest) = field[start..].split_at(digits);
    if !rest.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return None;
    }
    Some(digits.iter().fold(0, |value, digit| value << 3 | i128::from(digit - b'0')))
}

/// Splits PAX data into records; unlike tar-core's iterator it does not stop silently at a malformed one.
pub(super) fn pax_records(mut data: &[u8]) -> Result<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    let malformed = || Refusal("a PAX record is malformed".into());
    while !data.is_empty() {
        let blank = data.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
        let length = decimal(&data[..blank]).and_then(|length| usize::try_from(length).ok());
        let record = length.and_then(|length| data.get(..length)).ok_or_else(malformed)?;
        let body = record.get(blank + 1..).and_then(|body| body.strip_suffix(b"\n")).ok_or_else(malformed)?;
        let equals = body.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
        let key = &body[..equals];
        if key.is_empty() || key.contains(&0) {
            return Err(malformed());
        }
        records.push((key, &body[equals + 1..]));
        data = &data[record.len()..];
    }
    Ok(records)
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Reads `[-]digits[.digits]`, cutting below nanoseconds towards the past and clamping to 64 bits.
pub(super) fn parse_time(value: &[u8]) -> Option<Mtime> {
    let (negative, digits) = value.strip_prefix(b"-").map_or((false, value), |rest| (true, rest));
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let (whole, fraction) = (parts.next()?, parts.next());
    let is_number = |digits: &[u8]| digits.iter().all(u8::is_ascii_digit);
    if whole.is_empty() || !is_number(whole) || !fraction.is_none_or(is_number) {
        return None;
    }
    let magnitude = decimal(whole).and_then(|whole| i64::try_from(whole).ok()).unwrap_or(i64::MAX);
    let fraction = fraction.unwrap_or_default();
    let at = |place: usize| fraction.get(place).map_or(0, |digit| u32::from(digit - b'0'));
    let nanoseconds = (0..9).fold(0, |value, place| value * 10 + at(place));
    let beyond = fraction.iter().skip(9).any(|digit| *digit != b'0');
    if !negative {
        return Some(Mtime { seconds: magnitude, nanoseconds });
    }
    let nanoseconds = nanoseconds + u32::from(beyond);
    Some(match nanoseconds {
        0 => Mtime { seconds: -magnitude, nanoseconds: 0 },
        1_000_000_000 => Mtime { seconds: (-magnitude).saturating_sub(1), nanoseconds: 0 },
        part => Mtime { seconds: (-magnitude).saturating_sub(1), nanoseconds: 1_000_000_000 - part },
    })
}

/// Returns the path relative to the root: `.` and empty parts dropped, `..` clamped at the root.
pub(super) fn clean(name: &[u8]) -> Result<PathBuf> {
    if name.contains(&0) {
        return refuse("its name has a NUL");
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    Ok(PathBuf::from(OsString::from_vec(parts.join(&b'/'))))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn tar_47_number_fields() {
        let check = |field: &[u8], expect: Option<i128>| {
            assert_eq!(number(field), expect, "{}", field.escape_ascii());
        };
        check(b"0000644\0", Some(0o644));
        check(b"   644 \0", Some(0o644));
        check(b"00000644", Some(0o644));
        check(b"\0\0\0\0\0\0\0\0", Some(0));
        check(b"        ", Some(0));
        check(b"+000644\0", None);
        check(b"-000644\0", None);
        check(b"0x00644\0", None);
        check(b"64 4   \0", None);
        check(b"\x00000644\0", None);
        check(b"\x80\0\0\0\0\0\x01\0", Some(256));
        check(b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1));
        check(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX.into()));
        check(b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None);
        check(b"\x80\x01\0\0\0\0\0\0\0\0\0\0", None);
    }

    #[test]
    fn tar_47_pax_records() {
        let check = |data: &[u8], count: Option<usize>| {
            let got = pax_records(data).ok().map(|records| records.len());
            assert_eq!(got, count, "{}", data.escape_ascii());
        };
        check(b"", Some(0));
        check(b"6 a=b\n", Some(1));
        check(b"6 a=b\n6 c=d\n", Some(2));
        check(b"7 a=\n\n\n", Some(1));
        check(b"7 a=b\n", None);
        check(b"5 a=b\n", None);
        check(b"06 a=b\n", None);
        check(b"6 ab\n\n", None);
        check(b"4 =\n", None);
        check(b"x a=b\n", None);
        check(b"6 a=b\ngarbage", None);
        check(b"99999999999999999999 a=b\n", None);
        check(b"8 a=b\nc\n", Some(1));
    }

    #[test]
    fn tar_55_times() {
        let check = |text: &str, expect: Option<(i64, u32)>| {
            let got = parse_time(text.as_bytes()).map(|time| (time.seconds, time.nanoseconds));
            assert_eq!(got, expect, "{text}");
        };
        check("0", Some((0, 0)));
        check("-1", Some((-1, 0)));
        check("1.5", Some((1, 500_000_000)));
        check("-4.5", Some((-5, 500_000_000)));
        check("1.0000000019", Some((1, 1)));
        check("-0.0000000001", Some((-1, 999_999_999)));
        check("9223372036854775808", Some((i64::MAX, 0)));
        check("-99999999999999999999", Some((-i64::MAX, 0)));
        for text in ["inf", "nan", "", "-", "1e3", "+1", " 1", "0x1", "1.2.3"] {
            check(text, None);
        }
    }

    #[test]
    fn names_are_cleaned_and_clamped() {
        let check = |name: &[u8], expect: &str| {
            assert_eq!(clean(name).unwrap(), Path::new(expect), "{}", name.escape_ascii());
        };
        check(b"./a//b/./c/", "a/b/c");
        check(b"/../../etc/passwd", "etc/passwd");
        check(b"a/../../b", "b");
        check(b"./", "");
        check(b"..\\..\\x", "..\\..\\x");
        assert!(clean(b"a\0b").is_err());
    }
}
