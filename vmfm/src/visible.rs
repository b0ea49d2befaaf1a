//! Shows texts that strangers wrote, in manifests and in the cluster, without giving a terminal commands, and without
//! characters that hide what is around them.

use std::fmt::Write;

use serde_json::Value;
use vm_feature_manager_policy::is_hidden;

/// The text with its hidden characters escaped, except for the ends of lines.
pub fn text(text: &str) -> String {
    escaped(text, |shown, c| shown.extend(c.escape_default()))
}

/// JSON in which hidden characters are written as escapes. It means the same.
pub fn json(value: &Value, is_pretty: bool) -> String {
    let json = if is_pretty { format!("{value:#}") } else { value.to_string() };
    // Outside of strings, there is no hidden character but the ends of lines.
    escaped(&json, |shown, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(shown, "\\u{unit:04x}");
        }
    })
}

/// Whether the text has hidden characters besides the ends of lines and tabs, which YAML has in long texts.
pub fn is_hiding(text: &str) -> bool {
    text.chars().any(|c| is_hidden(c) && !matches!(c, '\n' | '\t'))
}

fn escaped(text: &str, escape: impl Fn(&mut String, char)) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) && c != '\n' { escape(&mut shown, c) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Of C0, DEL, of C1, for the direction of the text, without width.
    const HIDDEN: &str = "a\x1b]0;b\x07\r\x7f\u{9b}\u{202e}\u{2066}\u{e0041}";

    #[test]
    fn a_text_shows_its_hidden_characters() {
        assert_eq!(text(HIDDEN), r"a\u{1b}]0;b\u{7}\r\u{7f}\u{9b}\u{202e}\u{2066}\u{e0041}");
        assert_eq!(text("two\nlines, \u{e9}"), "two\nlines, \u{e9}");
    }

    #[test]
    fn json_means_the_same() {
        let value = json!({HIDDEN: [HIDDEN, "\n\t\"\\", 1]});
        for is_pretty in [true, false] {
            let shown = json(&value, is_pretty);
            assert!(!shown.chars().any(|c| is_hidden(c) && c != '\n'), "{shown:?}");
            assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), value);
        }
    }
}
