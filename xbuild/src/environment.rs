//! Variables of xbuild's own environment, which are read here and nowhere else.

/// Reads a variable; `None` where it is not set, or no text.
pub fn variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place where the environment is read")]
    std::env::var(name).ok()
}
