//! Shows people text that a user wrote: short, on one line, in ASCII.

use std::fmt::{self, Write};

/// How many characters of a value or name that a user wrote a message or log line shows. docs/security.md names this number.
const QUOTED: usize = 128;

/// The most names that a message lists.
const LISTED: usize = 8;

/// How long the message of a failure may be, in characters.
const LINE: usize = 4096;

/// How many characters of an admission warning the Kubernetes API server passes on.
/// Source: `k8s.io/api/admission/v1`, `AdmissionResponse.Warnings`.
const WARNING: usize = 256;

/// How many warnings a single message may fill.
const WARNINGS: usize = 4;

/// A value that a user wrote, quoted, escaped and shortened: the value of a directive can be a megabyte long.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for (count, c) in self.0.chars().enumerate() {
            if count == QUOTED {
                return f.write_str("\"...");
            }
            match c {
                '"' | ' '..='~' if c != '\\' => f.write_char(c)?,
                _ => write!(f, "{}", c.escape_default())?,
            }
        }
        f.write_char('"')
    }
}

/// Whether a character can hide in a text, or change how what is around it is shown: control characters, those that set the
/// direction of the text, separators of lines, and characters without width.
pub fn is_hidden(c: char) -> bool {
    let is_format =
        matches!(c, '\u{ad}' | '\u{61c}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}');
    let is_rare =
        matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    // Unicode's other Default_Ignorable characters: a joiner, fillers, vowels that are not drawn, and variation selectors.
    let is_ignorable = matches!(
        c,
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}' | '\u{fe00}'
            ..='\u{fe0f}' | '\u{ffa0}'
    );
    c.is_control() || is_format || is_rare || is_ignorable
}

/// The text with its hidden characters escaped.
pub(crate) fn visible(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(|c| {
        let (escaped, itself) = if is_hidden(c) { (Some(c.escape_default()), None) } else { (None, Some(c)) };
        escaped.into_iter().flatten().chain(itself)
    })
}

/// The text without hidden characters, and shortened.
fn shortened(text: &str, length: usize) -> String {
    let mut chars = visible(text);
    let mut short: String = chars.by_ref().take(length).collect();
    if chars.next().is_some() {
        short.push_str("...");
    }
    short
}

/// A name that a user wrote, shortened: names that Kubernetes takes are short, but the policy sees them before it checks them.
pub(crate) fn name(text: &str) -> String {
    shortened(text, QUOTED)
}

/// The beginning of a name that is too long for any object's, as much of it as a message shows.
pub(crate) fn beginning(name: &str) -> &str {
    first(name, QUOTED)
}

/// The first characters of a text.
pub(crate) fn first(text: &str, count: usize) -> &str {
    text.char_indices().nth(count).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

/// The texts in alphabetical order, each once.
pub(crate) fn unique(mut texts: Vec<&str>) -> Vec<&str> {
    texts.sort_unstable();
    texts.dedup();
    texts
}

/// Names that a user wrote, as a list: the first eight, each shortened.
pub(crate) fn list(names: &[&str]) -> String {
    let mut listed: Vec<String> = names.iter().take(LISTED).map(|text| name(text)).collect();
    if names.len() > LISTED {
        listed.push("...".to_owned());
    }
    listed.join(", ")
}

/// The message on one line. A name in it may be any text that a user wrote.
pub(crate) fn line(message: &str) -> String {
    shortened(message, LINE)
}

/// The message as admission warnings, each one line of printable ASCII. If the message is too long, it continues in
/// another warning. It is split after a clause if possible, otherwise after a word, so that a command in it stays in one piece.
pub(crate) fn warnings(message: &str) -> Vec<String> {
    let to_ascii = |c: char| match c {
        ' '..='~' => c,
        c if c.is_whitespace() => ' ',
        _ => '?',
    };
    let mut chars = visible(message).map(to_ascii);
    let text: String = chars.by_ref().take(WARNING * WARNINGS).collect();
    let mut is_cut = chars.next().is_some();
    let mut warnings = Vec::new();
    let mut rest = text.as_str();
    while !rest.is_empty() && warnings.len() < WARNINGS {
        let (line, after) = rest.split_at_checked(end_of_line(rest)).unwrap_or((rest, ""));
        warnings.push(line.trim_end().to_owned());
        rest = after.trim_start();
    }
    is_cut |= !rest.is_empty();
    if let Some(last) = warnings.last_mut().filter(|_| is_cut) {
        last.truncate(WARNING - 3);
        last.push_str("...");
    }
    warnings
}

/// The length of the first warning, in an ASCII text.
fn end_of_line(text: &str) -> usize {
    let Some((line, _)) = text.split_at_checked(WARNING).filter(|_| text.len() > WARNING) else {
        return text.len();
    };
    let pairs = line.as_bytes().windows(2);
    // If the clause is too short, most of the line would be empty.
    let clause = pairs.clone().rposition(|pair| matches!(pair, b"; " | b": ")).map(|at| at + 2);
    let clause = clause.filter(|end| *end > WARNING / 4);
    clause.or_else(|| line.rfind(' ')).unwrap_or(WARNING)
}

/// How long a mistyped name may be, in bytes. Known names are shorter, and long ones take long to compare.
const LONGEST: usize = 64;

/// The known name that is most similar to a mistyped one, if at most a third of its letters differ.
pub(crate) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    if name.len() > LONGEST {
        return None;
    }
    let name = name.to_ascii_lowercase();
    known
        .map(|k| (strsim::levenshtein(&name, &k.to_ascii_lowercase()), k))
        .filter(|(distance, k)| *distance <= k.len() / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// How many characters of a value are searched for words.
const BEGINNING: usize = 4 << 10;

/// The words of a value that may be written in any syntax: letters, digits and what joins them in addresses and names. Only
/// short ones at its beginning, because a value can be a megabyte long.
pub(crate) fn words(value: &str) -> Vec<&str> {
    let value = first(value, BEGINNING);
    let mut words: Vec<&str> = value.split(|c: char| !c.is_ascii_alphanumeric() && !":./-*_".contains(c)).collect();
    words.retain(|word| (1..=QUOTED).contains(&word.len()));
    words
}

/// The known names that may be meant by an unknown one: one that differs in at most two letters, or else one that shares
/// words with it, and the most similar one.
pub(crate) fn hints(name: &str, known: &[&'static str]) -> Vec<&'static str> {
    let mut hints = Vec::new();
    if name.len() > LONGEST {
        return hints;
    }
    let similar = nearest(name, known.iter().copied());
    if similar.is_none_or(|near| strsim::levenshtein(&name.to_ascii_lowercase(), near) > 2) {
        hints.extend(sharing_words(name, known));
    }
    hints.extend(similar.filter(|near| !hints.contains(near)));
    hints
}

/// The first known name that shares most words with another one, as `gpu-device-plugin` does with `vgpu` and
/// `nested-virt` with `nestedVirtualization`. The first word says what it is about, so it counts twice.
fn sharing_words(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let name = name.to_ascii_lowercase().replace('_', "-");
    let (mut most, mut best) = (0, None);
    for known in known {
        let mut score = 0;
        for (index, word) in name.split('-').enumerate() {
            if known.split('-').any(|of_known| is_same_word(word, of_known)) {
                score += if index == 0 { 2 } else { 1 };
            }
        }
        if score > most {
            (most, best) = (score, Some(*known));
        }
    }
    best
}

/// Whether a word begins or ends with a known one, or begins it. Two letters are not enough to be a word.
fn is_same_word(word: &str, known: &str) -> bool {
    known.len() > 2 && (word.starts_with(known) || word.ends_with(known)) || word.len() > 2 && known.starts_with(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::plain("0000:00:02.0", r#""0000:00:02.0""#)]
    #[case::quotes(r#"{"a":1}"#, r#""{"a":1}""#)]
    #[case::control_characters("a\nb\u{1b}[31m", r#""a\nb\u{1b}[31m""#)]
    #[case::not_ascii("gpu\u{fc}", r#""gpu\u{fc}""#)]
    #[case::backslash(r"a\b", r#""a\\b""#)]
    fn a_value_is_quoted_on_one_line(#[case] value: &str, #[case] quoted: &str) {
        assert_eq!(Quoted(value).to_string(), quoted);
    }

    #[test]
    fn a_long_value_is_cut() {
        let quoted = Quoted(&"x".repeat(1 << 20)).to_string();
        assert_eq!(quoted, format!("\"{}\"...", "x".repeat(QUOTED)));
    }

    #[test]
    fn a_row_of_names_is_short() {
        assert_eq!(list(&["a", "b"]), "a, b");
        assert_eq!(list(&["a"; 8]), ["a"; 8].join(", "));
        assert_eq!(list(&["a"; 9]), format!("{}, ...", ["a"; 8].join(", ")));
        assert_eq!(list(&["x".repeat(200).as_str()]), format!("{}...", "x".repeat(QUOTED)));
    }

    #[rstest]
    #[case::c0("a\0b\nc\x1b[31m", r"a\u{0}b\nc\u{1b}[31m")]
    #[case::c1("a\u{7f}b\u{85}c\u{9b}31m", r"a\u{7f}b\u{85}c\u{9b}31m")]
    #[case::direction("\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}", r"\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}")]
    #[case::isolated_direction("\u{2066}\u{2067}\u{2068}\u{2069}", r"\u{2066}\u{2067}\u{2068}\u{2069}")]
    #[case::marks_of_direction("\u{61c}\u{200e}\u{200f}", r"\u{61c}\u{200e}\u{200f}")]
    #[case::separators_of_lines("\u{2028}\u{2029}", r"\u{2028}\u{2029}")]
    #[case::no_width("\u{ad}\u{200b}\u{feff}\u{e0041}", r"\u{ad}\u{200b}\u{feff}\u{e0041}")]
    #[case::ignorable("\u{34f}\u{fe0f}\u{e0100}\u{3164}", r"\u{34f}\u{fe0f}\u{e0100}\u{3164}")]
    #[case::letters("\u{e9} \u{5d0} \u{4e2d} \u{1f600}", "\u{e9} \u{5d0} \u{4e2d} \u{1f600}")]
    fn hidden_characters_are_escaped(#[case] text: &str, #[case] escaped: &str) {
        assert_eq!(visible(text).collect::<String>(), escaped);
        for text in [name(text), line(text), list(&[text])] {
            assert_eq!(text, escaped);
        }
        let warning: String = escaped.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
        assert_eq!(warnings(text), [warning]);
    }

    #[test]
    fn the_document_says_how_much_of_a_value_is_shown() {
        let text = include_str!("../docs/security.md").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(&format!("shortened to {QUOTED} characters")));
    }

    #[test]
    fn a_message_is_one_line_and_not_too_long() {
        assert_eq!(line("the node \u{e9}\n\u{c}\u{7f}."), "the node \u{e9}\\n\\u{c}\\u{7f}.");
        assert_eq!(line(&"\u{e9}".repeat(LINE)), "\u{e9}".repeat(LINE));
        assert_eq!(line(&"x".repeat(LINE + 1)), format!("{}...", "x".repeat(LINE)));
    }

    #[test]
    fn a_warning_is_ascii_and_short() {
        assert_eq!(warnings("short"), ["short"]);
        assert_eq!(warnings("the node \u{e9}\u{3000}."), ["the node ? ."]);
        assert_eq!(warnings(&"x".repeat(WARNING)), ["x".repeat(WARNING)]);
        assert_eq!(warnings(""), Vec::<String>::new());
    }

    #[test]
    fn a_long_message_is_several_warnings() {
        let (why, command) = ("word ".repeat(30), format!("kubectl {}", "create ".repeat(20)));
        let message = format!("it is not applied: {why}; have an administrator run: {command}");
        let first = format!("it is not applied: {why}; have an administrator run:");
        assert_eq!(warnings(&message), [first.as_str(), command.trim_end()]);
        let words = "word ".repeat(100);
        let lines = warnings(&words);
        assert_eq!(lines.join(" "), words.trim_end());
        assert!(lines.iter().all(|line| line.len() <= WARNING && line.len() > 200), "{lines:?}");
        let lines = warnings(&"x".repeat(WARNING * 2));
        assert_eq!(lines, ["x".repeat(WARNING), "x".repeat(WARNING)]);
        let lines = warnings(&"x".repeat(WARNING * 5));
        assert_eq!(lines[3], format!("{}...", "x".repeat(WARNING - 3)));
    }

    #[test]
    fn a_line_ends_with_a_clause_if_that_does_not_leave_most_of_it_empty() {
        let break_after = |clause: usize| {
            let message = format!("{};{}", "x".repeat(clause - 2), " word".repeat(60));
            warnings(&message)[0].len()
        };
        assert!(break_after(20) > 200);
        assert!(break_after(WARNING / 4) > 200);
        assert_eq!(break_after(WARNING / 4 + 1), WARNING / 4);
        let whole = format!("{}; {}", "x".repeat(100), "y".repeat(WARNING - 102));
        assert_eq!(warnings(&whole), [whole.as_str()]);
    }

    #[test]
    fn what_is_too_long_for_warnings_is_cut() {
        for message in ["x".repeat(1 << 16), "word ".repeat(1 << 14), "\u{e9}\n".repeat(600)] {
            let lines = warnings(&message);
            assert_eq!(lines.len(), WARNINGS);
            assert!(lines.iter().all(|line| line.len() <= WARNING), "{lines:?}");
            assert!(lines.last().unwrap().ends_with("..."), "{lines:?}");
        }
    }
}
