//! Glob patterns, as administrators write them in the settings.

use wildcard::WildcardBuilder;

/// A glob pattern of printable ASCII: `*` stands for any characters, `?` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Whether the pattern stands for the whole text.
    pub fn matches(&self, text: &str) -> bool {
        let pattern = WildcardBuilder::new(self.0.as_bytes()).without_escape().build();
        pattern.is_ok_and(|pattern| pattern.is_match(text.as_bytes()))
    }

    /// The pattern as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// A pattern that can be used.
    pub(crate) fn read(text: &str) -> Option<Self> {
        // What it is to match is ASCII, and a message lists it.
        let usable = (1..=512).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        usable.then(|| Pattern::from(text))
    }

    /// The patterns in a row, for a message.
    pub(crate) fn list(patterns: &[Pattern]) -> String {
        let texts: Vec<&str> = patterns.iter().map(|pattern| pattern.0.as_str()).collect();
        texts.join(", ")
    }
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Pattern(text.to_owned())
    }
}
