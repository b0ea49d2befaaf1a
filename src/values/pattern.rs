//! Glob patterns, which administrators write in the settings.

use wildcard::WildcardBuilder;

/// A glob pattern of printable ASCII: `*` matches any characters, `?` matches one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Whether the pattern matches the whole text.
    pub fn matches(&self, text: &str) -> bool {
        matches(&self.0, text)
    }

    /// The pattern as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The pattern, if it is valid.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // The texts to match are ASCII, and messages list the pattern.
        let usable = (1..=512).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        usable.then(|| Pattern::from(text))
    }

    /// The patterns as a list, for a message.
    pub(crate) fn list(patterns: &[Pattern]) -> String {
        let texts: Vec<&str> = patterns.iter().map(|pattern| pattern.0.as_str()).collect();
        texts.join(", ")
    }
}

/// Whether a pattern, or a part of one, matches the whole text.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let pattern = WildcardBuilder::new(pattern.as_bytes()).without_escape().build();
    pattern.is_ok_and(|pattern| pattern.is_match(text.as_bytes()))
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Pattern(text.to_owned())
    }
}
