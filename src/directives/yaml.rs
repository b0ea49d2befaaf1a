//! Reads one section of a YAML document as text values; maps and lists in the section become JSON. The parser skips
//! everything else event by event, so it builds nothing in memory and follows no alias.

use std::borrow::Cow;

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};
use serde_json::{Map, Number, Value as Json};

use crate::json;

/// The size limit for a value, in bytes.
const MAX_VALUE: usize = 1024;

/// The most keys that the section may have. There are fewer features and options.
const MAX_KEYS: usize = 64;

/// How deeply a document is read. A directive's list of devices is at the fourth level.
const MAX_DEPTH: usize = 16;

/// The value of a key in the section.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Bool(bool),
    Unreadable(Unreadable),
}

/// Why YAML, or a value in it, cannot be read. The message never shows the content.
///
/// Cause: the document or the value does not have the form that the policy reads
/// Cure: correct it; `cloud-init schema` checks a document
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it is not valid YAML")]
    Syntax,
    #[error("it has an alias, which the policy does not follow")]
    Alias,
    #[error("it is not a map")]
    NotAMap,
    #[error("a key in it is not a text")]
    Key,
    #[error("it is longer than {MAX_VALUE} bytes, or nested too deeply")]
    TooLong,
    #[error("it has more than {MAX_KEYS} keys")]
    TooMany,
    #[error("a key in it is repeated")]
    Repeated,
    #[error("it has an expression of a template, which only the guest can evaluate")]
    Expression,
}

/// The keys and values of the map under this top-level key of the document; empty if there is no such key. Keys with a
/// null value are left out. If a key is repeated, the last one counts.
pub(super) fn section(text: &str, key: &str) -> Result<Vec<(String, Value)>, Unreadable> {
    let mut reader = Reader { parser: Parser::new_from_str(text), depth: 0 };
    let mut section = Vec::new();
    while !matches!(reader.next()?, Event::DocumentStart(_)) {}
    if !matches!(reader.next()?, Event::MappingStart(..)) {
        return Ok(section);
    }
    while let Some(found) = reader.key()? {
        if found.as_deref() == Some(key) {
            section = reader.section()?;
        } else {
            let depth = reader.depth;
            reader.next()?;
            reader.skip_to(depth)?;
        }
    }
    // The rest must be YAML, too: otherwise cloud-init would not read any of the document.
    while !matches!(reader.next()?, Event::StreamEnd) {}
    Ok(section)
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    /// How many maps and lists are open.
    depth: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Event<'t>, Unreadable> {
        let Some(Ok((event, _))) = self.parser.next_event() else {
            return Err(Unreadable::Syntax);
        };
        match event {
            Event::MappingStart(..) | Event::SequenceStart(..) => self.depth += 1,
            Event::MappingEnd | Event::SequenceEnd => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        Ok(event)
    }

    /// Skips what is left of the maps and lists that are open, until there are only this many.
    fn skip_to(&mut self, depth: usize) -> Result<(), Unreadable> {
        while self.depth > depth {
            self.next()?;
        }
        Ok(())
    }

    /// The next key of the map, `Some(None)` if the key is not text, or `None` at the end of the map.
    fn key(&mut self) -> Result<Option<Option<Cow<'t, str>>>, Unreadable> {
        let depth = self.depth;
        match self.next()? {
            Event::MappingEnd => Ok(None),
            Event::Scalar(text, ..) => Ok(Some(Some(text))),
            _ => self.skip_to(depth).map(|()| Some(None)),
        }
    }

    fn section(&mut self) -> Result<Vec<(String, Value)>, Unreadable> {
        let mut section: Vec<(String, Value)> = Vec::new();
        match self.next()? {
            Event::MappingStart(..) => {}
            Event::Scalar(text, ScalarStyle::Plain, _, None) if plain(&text).is_null() => return Ok(section),
            Event::Alias(_) => return Err(Unreadable::Alias),
            _ => return Err(Unreadable::NotAMap),
        }
        while let Some(key) = self.key()? {
            let key = key.ok_or(Unreadable::Key)?;
            if section.len() == MAX_KEYS {
                return Err(Unreadable::TooMany);
            }
            let value = self.value()?;
            section.retain(|(k, _)| *k != key);
            section.extend(value.map(|value| (key.into_owned(), value)));
        }
        Ok(section)
    }

    /// The next value; `None` if it is null. It is read to its end even if it contains an error.
    fn value(&mut self) -> Result<Option<Value>, Unreadable> {
        let depth = self.depth;
        let text = match self.next()? {
            Event::Scalar(text, style, _, tag) => match plain(&text) {
                Json::Null if style == ScalarStyle::Plain && tag.is_none() => return Ok(None),
                Json::Bool(value) if style == ScalarStyle::Plain && tag.is_none() => {
                    return Ok(Some(Value::Bool(value)));
                }
                _ => Ok(text.into_owned()),
            },
            start => self.json(start).map(|value| json::to_text(&value)),
        };
        let text = match text {
            Err(Unreadable::Syntax) => return Err(Unreadable::Syntax),
            text => text.and_then(|text| if text.len() > MAX_VALUE { Err(Unreadable::TooLong) } else { Ok(text) }),
        };
        self.skip_to(depth)?;
        Ok(Some(text.map_or_else(Value::Unreadable, Value::Text)))
    }

    /// The value that starts with the event.
    fn json(&mut self, start: Event<'t>) -> Result<Json, Unreadable> {
        match start {
            _ if self.depth > MAX_DEPTH => Err(Unreadable::TooLong),
            Event::Scalar(text, ScalarStyle::Plain, _, None) => Ok(plain(&text)),
            Event::Scalar(text, ..) => Ok(Json::from(text)),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        Event::SequenceEnd => return Ok(Json::Array(items)),
                        item => items.push(self.json(item)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut members = Map::new();
                while let Some(key) = self.key()? {
                    let value = self.next()?;
                    if members.insert(key.ok_or(Unreadable::Key)?.into_owned(), self.json(value)?).is_some() {
                        return Err(Unreadable::Repeated);
                    }
                }
                Ok(Json::Object(members))
            }
            _ => Err(Unreadable::Alias),
        }
    }
}

/// A plain scalar, which may be null, a number, or a boolean in YAML 1.1, which is what cloud-init reads.
fn plain(text: &str) -> Json {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Json::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Json::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Json::Bool(false),
        _ => serde_json::from_str::<Number>(text).map_or_else(|_| Json::from(text), Json::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn read(text: &str) -> Result<Vec<(String, Value)>, Unreadable> {
        section(text, "x")
    }

    fn one(value: &str) -> Value {
        let mut section = read(&format!("before: [1]\nx:\n  a: {value}\nafter: {{b: c}}\n")).unwrap();
        assert_eq!(section.len(), 1, "{section:?}");
        section.remove(0).1
    }

    #[rstest]
    #[case::text("enabled", "enabled")]
    #[case::quoted(r#""a\tb""#, "a\tb")]
    #[case::quoted_boolean("'true'", "true")]
    #[case::tagged_boolean("!!str true", "true")]
    #[case::empty("''", "")]
    #[case::number("1", "1")]
    #[case::block("|\n    two\n    lines", "two\nlines\n")]
    #[case::json(r#"'{"devices": ["0000:00:02.0"]}'"#, r#"{"devices": ["0000:00:02.0"]}"#)]
    #[case::flow_map("{devices: [0000:00:02.0, '01:00.0']}", r#"{"devices":["0000:00:02.0","01:00.0"]}"#)]
    #[case::block_map(
        "\n    devices:\n      - 0000:00:02.0\n      - node1/01:00.0",
        r#"{"devices":["0000:00:02.0","node1/01:00.0"]}"#
    )]
    #[case::types(
        "[1, -2.5, 0x1f, 01, true, off, ~, null, 'null', \"\"]",
        r#"[1,-2.5,"0x1f","01",true,false,null,null,"null",""]"#
    )]
    #[case::nested("{a: {b: [[], {}]}, 1: x, true: y}", r#"{"1":"x","a":{"b":[[],{}]},"true":"y"}"#)]
    #[case::escapes(r#"["\" \\ \n é"]"#, r#"["\" \\ \n é"]"#)]
    #[case::anchor("&here text", "text")]
    fn values(#[case] yaml: &str, #[case] text: &str) {
        assert_eq!(one(yaml), Value::Text(text.to_owned()));
    }

    #[rstest]
    #[case("true", true)]
    #[case("Yes", true)]
    #[case("on", true)]
    #[case("FALSE", false)]
    #[case("no", false)]
    #[case("off", false)]
    fn booleans(#[case] yaml: &str, #[case] value: bool) {
        assert_eq!(one(yaml), Value::Bool(value));
    }

    #[rstest]
    #[case::alias("*there", Unreadable::Alias)]
    #[case::repeated_key("{devices: [a], devices: [b]}", Unreadable::Repeated)]
    #[case::alias_within("{devices: [*there]}", Unreadable::Alias)]
    #[case::key("{[a]: b}", Unreadable::Key)]
    #[case::long(&"x".repeat(1025), Unreadable::TooLong)]
    #[case::deep(&format!("{}{}", "[".repeat(20), "]".repeat(20)), Unreadable::TooLong)]
    #[case::long_list(&format!("[{}]", "x,".repeat(400)), Unreadable::TooLong)]
    fn values_that_are_not_read(#[case] yaml: &str, #[case] problem: Unreadable) {
        let text = format!("y: &there [z]\nx:\n  a: {yaml}\n  b: kept\n");
        let b = ("b".to_owned(), Value::Text("kept".to_owned()));
        assert_eq!(read(&text), Ok(vec![("a".to_owned(), Value::Unreadable(problem)), b]));
    }

    #[rstest]
    #[case::nothing("")]
    #[case::comment("#cloud-config\n")]
    #[case::text("just a text")]
    #[case::list("[x]")]
    #[case::no_section("y: {x: {a: b}}\n")]
    #[case::null_section("x:\n")]
    #[case::empty_section("x: {}\n")]
    #[case::null_value("x:\n  a:\n  b: ~\n")]
    #[case::complex_key("{[x]: {a: b}}")]
    fn documents_that_name_nothing(#[case] text: &str) {
        let section = read(text);
        assert!(matches!(section.as_deref(), Ok([]) | Err(Unreadable::Syntax)), "{section:?}");
        assert!(section.is_ok() || !text.contains('x'), "{section:?}");
    }

    #[rstest]
    #[case::text("x: text\n", Unreadable::NotAMap)]
    #[case::list("x: [a]\n", Unreadable::NotAMap)]
    #[case::alias("y: &there {a: b}\nx: *there\n", Unreadable::Alias)]
    #[case::key("x: {[a]: b}\n", Unreadable::Key)]
    #[case::syntax("x: {a: b\n", Unreadable::Syntax)]
    #[case::syntax_behind("x: {a: b}\ny: [\n", Unreadable::Syntax)]
    #[case::unknown_alias("x: {a: *nowhere}\n", Unreadable::Syntax)]
    #[case::tabs("x:\n\ta: b\n", Unreadable::Syntax)]
    #[case::many(&(0..65).fold("x:\n".to_owned(), |text, n| format!("{text}  k{n}: v\n")), Unreadable::TooMany)]
    fn documents_that_are_not_read(#[case] text: &str, #[case] problem: Unreadable) {
        assert_eq!(read(text), Err(problem));
    }

    #[test]
    fn the_last_of_two_equal_keys_counts() {
        let value = |text: &str| vec![("a".to_owned(), Value::Text(text.to_owned()))];
        assert_eq!(read("x: {a: b}\nx: {a: c}\n"), Ok(value("c")));
        assert_eq!(read("x: {a: b, a: d}\n"), Ok(value("d")));
        assert_eq!(read("x: {a: b, a: ~}\n"), Ok(vec![]));
    }

    /// A text of a few kilobytes that would take gigabytes if its aliases were resolved.
    #[test]
    fn aliases_outside_of_the_section_are_passed_over() {
        let mut text = "l0: &l0 [lol]\n".to_owned();
        for n in 1..60 {
            let alias = format!("*l{}, ", n - 1);
            text.push_str(&format!("l{n}: &l{n} [{}]\n", alias.repeat(9)));
        }
        text.push_str("x: {a: b}\n");
        assert_eq!(read(&text), Ok(vec![("a".to_owned(), Value::Text("b".to_owned()))]));
    }

    #[rstest]
    #[case::lists("[")]
    #[case::maps("{a: ")]
    #[case::block_lists("- ")]
    #[case::complex_keys("? ")]
    #[case::anchors("&a ")]
    #[case::colons(": ")]
    #[case::quotes("\"")]
    #[case::tags("!")]
    fn depth_does_no_harm(#[case] open: &str) {
        for prefix in ["", "x:\n  a: ", "x:\n  a:\n    ", "y:\n  "] {
            let _ = read(&format!("{prefix}{}", open.repeat(65536 / open.len())));
        }
    }
}
