//! A TOML file whose values are asked for by type; what is wrong is told with its line. Knows no key.

use std::ops::Range;
use std::path::{Path, PathBuf};

use frontend::suggest;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::words::Wrong;
use crate::failure::{Class, Failure};

/// Longest file that is read.
const LIMIT: u64 = 1 << 20;

/// One file.
#[derive(Debug, Clone)]
pub struct Document {
    /// Where it is.
    pub path: PathBuf,
    text: String,
}

/// A key or a value with its place.
pub type Value<'a> = Spanned<DeValue<'a>>;

impl Document {
    /// Reads a file; `None` where there is none.
    ///
    /// # Errors
    /// A usage failure where it cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let refused = |why: &str| {
            Failure::new(Class::Usage, &["unusable configuration", &path.display().to_string(), why])
        };
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.len() > LIMIT => return Err(refused("it is larger than 1 MiB")),
            Ok(_) => {}
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(refused(&error.to_string())),
        }
        match std::fs::read(path) {
            Ok(text) => match String::from_utf8(text) {
                Ok(text) => Ok(Some(Self { path: path.to_owned(), text })),
                Err(_) => Err(refused("it is not UTF-8")),
            },
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(refused(&error.to_string())),
        }
    }

    /// Reads the file that a variable names, which must be there.
    ///
    /// # Errors
    /// A usage failure where it is not.
    pub fn read_chosen(path: &Path, variable: &str) -> Result<Self, Failure> {
        Self::read(path)?.ok_or_else(|| {
            let fix = format!("name a file that is there in {variable}, or unset it");
            Failure::new(
                Class::Usage,
                &["unusable configuration", &path.display().to_string(), "no such file", &fix],
            )
        })
    }

    /// Returns the file's table.
    ///
    /// # Errors
    /// Where it is no TOML.
    pub fn table(&self) -> Result<DeTable<'_>, Failure> {
        let parsed = DeTable::parse(&self.text);
        parsed.map(Spanned::into_inner).map_err(|error| {
            self.failure(error.span().unwrap_or_default(), &format!("it is no TOML: {}", error.message()), "")
        })
    }

    /// Makes the failure of a place in the file.
    pub fn failure(&self, span: Range<usize>, why: &str, fix: &str) -> Failure {
        let before = self.text.get(..span.start).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let place = format!("{}:{line}", self.path.display());
        Failure::new(Class::Usage, &["unusable configuration", &place, why, fix])
    }

    /// Makes the failure of a value that is unusable.
    pub fn wrong(&self, span: Range<usize>, wrong: &Wrong) -> Failure {
        self.failure(span, &wrong.why, &wrong.fix)
    }

    /// Checks that there are no keys but `known`.
    ///
    /// # Errors
    /// The first that is not known, with the one that may be meant.
    pub fn check_keys(&self, table: &DeTable<'_>, known: &[&str]) -> Result<(), Failure> {
        match table.keys().find(|key| !known.contains(&&**key.get_ref())) {
            Some(key) => {
                let name = key.get_ref();
                let why = format!("unknown key {name:?}{}", suggest::did_you_mean(name, known));
                Err(self.failure(key.span(), &why, &format!("the keys are {}", known.join(", "))))
            }
            None => Ok(()),
        }
    }

    /// Returns a string.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn string<'a>(&self, value: &'a Value<'_>) -> Result<&'a str, Failure> {
        value.get_ref().as_str().ok_or_else(|| self.type_failure(value, "a string"))
    }

    /// Returns `true` or `false`.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn flag(&self, value: &Value<'_>) -> Result<bool, Failure> {
        value.get_ref().as_bool().ok_or_else(|| self.type_failure(value, "true or false"))
    }

    /// Returns a whole number, `None` where it is larger than any that means something.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn number(&self, value: &Value<'_>) -> Result<Option<i64>, Failure> {
        let number = value.get_ref().as_integer().ok_or_else(|| self.type_failure(value, "a number"))?;
        Ok(i64::from_str_radix(number.as_str(), number.radix()).ok())
    }

    /// Returns strings, of which one may stand without its list, each with its place.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn strings<'a>(&self, value: &'a Value<'_>) -> Result<Vec<(&'a str, Range<usize>)>, Failure> {
        let items = match value.get_ref().as_array() {
            Some(items) => items.iter().collect(),
            None => vec![value],
        };
        items.into_iter().map(|item| Ok((self.string(item)?, item.span()))).collect()
    }

    /// Returns a table.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn subtable<'a, 'b>(&self, value: &'a Value<'b>, form: &str) -> Result<&'a DeTable<'b>, Failure> {
        value.get_ref().as_table().ok_or_else(|| self.type_failure(value, form))
    }

    /// Returns the tables of an array of tables; none where it is absent.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn tables<'a, 'b>(
        &self,
        table: &'a DeTable<'b>,
        key: &str,
    ) -> Result<Vec<(&'a DeTable<'b>, Range<usize>)>, Failure> {
        let Some(value) = table.get(key) else { return Ok(Vec::new()) };
        let form = format!("[[{key}]]");
        let Some(items) = value.get_ref().as_array() else { return Err(self.type_failure(value, &form)) };
        items.iter().map(|item| Ok((self.subtable(item, &form)?, item.span()))).collect()
    }

    /// Makes the failure of a value of another type than `wanted`.
    pub fn type_failure(&self, value: &Value<'_>, wanted: &str) -> Failure {
        let found = value.get_ref().type_str();
        self.failure(value.span(), &format!("{wanted} is expected, not a value of type {found}"), "")
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}
