//! Small values in Go's notation: durations, sizes, comma-separated fields.

/// Reads a duration as Go's time.ParseDuration, in nanoseconds.
pub(super) fn duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}, expected for example 30s or 1m30s");
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, behind) = rest.split_at(end);
        let end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let scale: i64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(format!("time: missing unit in duration {text:?}, write for example {text}s")),
            _ => {
                return Err(format!(
                    "time: unknown unit {unit:?} in duration {text:?}, known are ns us ms s m h"
                ));
            }
        };
        let nanoseconds = scaled(number, scale).ok_or_else(invalid)?;
        total = total.checked_add(nanoseconds).ok_or_else(invalid)?;
        rest = behind;
    }
    Ok(sign * total)
}

/// Multiplies a decimal number by `scale`, dropping what is below one.
fn scaled(number: &str, scale: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut sum = whole.checked_mul(scale)?;
    let mut unit = scale;
    for digit in fraction.bytes().take(18) {
        // Nanoseconds are exact to 18 digits only for hours; more digits change nothing.
        sum = sum.checked_add(i64::from(digit - b'0').checked_mul(unit)? / 10)?;
        unit /= 10;
    }
    Some(sum)
}

/// Reads a size as docker/go-units' RAMInBytes: a number with k, m, g, t or p, all powers of 1024.
pub(super) fn size(text: &str) -> Option<u64> {
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.')? + 1;
    let (number, unit) = text.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let unit = if unit.len() == 2 { unit.strip_suffix('i')? } else { unit };
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let number: f64 = number.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
    let bytes = number * 1024f64.powi(power);
    (bytes < i64::MAX as f64).then_some(bytes as u64)
}

/// Splits at commas as Go's encoding/csv reads one record.
pub(super) fn fields(text: &str) -> Result<Vec<String>, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let end = rest.find(',').unwrap_or(rest.len());
            if rest[..end].contains('"') {
                return Err("bare \" in non-quoted field");
            }
            fields.push(rest[..end].to_owned());
            match rest[end..].strip_prefix(',') {
                Some(next) => rest = next,
                None => return Ok(fields),
            }
            continue;
        };
        let (field, behind) = quoted_field(quoted).ok_or("extraneous or missing \" in quoted field")?;
        fields.push(field);
        match behind.strip_prefix(',') {
            Some(next) => rest = next,
            None if behind.is_empty() => return Ok(fields),
            None => return Err("extraneous or missing \" in quoted field"),
        }
    }
}

/// Reads a field behind its opening quote; `""` is a quote.
fn quoted_field(text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(behind) => {
                field.push('"');
                rest = behind;
            }
            None => return Some((field, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expect) in [
            ("1m30s", Some(90_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            (".5ms", Some(500_000)),
            ("-1s", Some(-1_000_000_000)),
            ("0", Some(0)),
            ("", None),
            ("1", None),
            ("1x", None),
            (".s", None),
            ("99999999999h", None),
        ] {
            assert_eq!(duration(text).ok(), expect, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expect) in
            [("64m", Some(64 << 20)), ("1.5 KiB", Some(1536)), ("10b", Some(10)), ("x", None), ("1x", None)]
        {
            assert_eq!(size(text), expect, "{text}");
        }
    }

    #[test]
    fn records() {
        assert_eq!(fields("a=1,\"b=x,\"\"y\",").expect("valid"), ["a=1", "b=x,\"y", ""]);
        assert!(fields("a\"b").is_err() && fields("\"a").is_err() && fields("\"a\"b").is_err());
    }
}
