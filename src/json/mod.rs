//! A JSON value that borrows from its text: what the policy does not read or change stays the text it was.
//! The meaning of the members is not known here.

mod shape;

use std::borrow::Cow;

use serde::de::DeserializeSeed;
use serde_json::Number;
use serde_json::value::RawValue;

use crate::text::position;
pub(crate) use shape::Shape;

/// A member of an object: its key and its value.
pub(crate) type Member<'a> = (Cow<'a, str>, Json<'a>);

/// The members of an object, in the order of the text.
pub(crate) type Members<'a> = Vec<Member<'a>>;

/// A JSON value, read as far as a [`Shape`] says.
///
/// Unread parts are [`Json::Raw`]; writing the value out copies them byte by byte, so no number is rounded, no
/// member is reordered and no unknown field is lost.
#[derive(Debug, Clone)]
pub(crate) enum Json<'a> {
    Raw(&'a RawValue),
    Null,
    Bool(bool),
    Number(Number),
    String(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    Object(Members<'a>),
}

impl<'a> Json<'a> {
    /// Reads `text` as far as `shape` says. Of a list or an object where the shape expects the other, the items are
    /// kept as text.
    ///
    /// # Errors
    /// Text that is not JSON, and in the parts that are read: more than 128 levels, a number out of range.
    pub(crate) fn parse(text: &'a str, shape: &'static Shape) -> serde_json::Result<Self> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let json = shape.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(json)
    }

    /// Takes the member `key` out; `null` if there is none, or this is not an object.
    pub(crate) fn take(&mut self, key: &str) -> Json<'a> {
        self.get_mut(key).map_or(Json::Null, |value| std::mem::replace(value, Json::Null))
    }

    /// The member `key` of an object; `None` if there is none, or this is not an object.
    pub(crate) fn get(&self, key: &str) -> Option<&Json<'a>> {
        match self {
            // The last one counts where a text repeats a key, as everywhere in Kubernetes.
            Json::Object(members) => members.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// As [`Json::get`], to be changed.
    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Json<'a>> {
        match self {
            Json::Object(members) => members.iter_mut().rev().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The value at a path of keys.
    pub(crate) fn at(&self, path: &[&str]) -> Option<&Json<'a>> {
        path.iter().try_fold(self, |json, key| json.get(key))
    }

    /// The items of a list; none for any other type.
    pub(crate) fn items(&self) -> &[Json<'a>] {
        match self {
            Json::Array(items) => items,
            _ => &[],
        }
    }

    /// The text of a string.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Json::String(text) => Some(text),
            _ => None,
        }
    }

    /// The members of an object; none for any other type.
    pub(crate) fn members(&self) -> &[Member<'a>] {
        match self {
            Json::Object(members) => members,
            _ => &[],
        }
    }

    /// `null`, `""`, `[]`, `{}`, or a list of such: what forms write for "not set".
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Json::Null => true,
            Json::String(text) => text.is_empty(),
            Json::Array(items) => items.iter().all(Json::is_empty),
            Json::Object(members) => members.is_empty(),
            Json::Raw(_) | Json::Bool(_) | Json::Number(_) => false,
        }
    }

    /// The type of the value, as an error names it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Json::Raw(text) => match text.get().as_bytes().first() {
                Some(b'{') => "an object",
                Some(b'[') => "a list",
                Some(b'"') => "a string",
                Some(b't' | b'f') => "a boolean",
                Some(b'n') => "null",
                _ => "a number",
            },
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Number(_) => "a number",
            Json::String(_) => "a string",
            Json::Array(_) => "a list",
            Json::Object(_) => "an object",
        }
    }

    /// The value as compact JSON.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::with_capacity(512);
        self.write(&mut text);
        text
    }

    /// Appends the value as compact JSON, the unread parts as they are. Most of it is text to copy, which a serializer
    /// would take apart.
    pub(crate) fn write(&self, out: &mut String) {
        match self {
            Json::Raw(text) => out.push_str(text.get()),
            Json::Null => out.push_str("null"),
            Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Json::Number(value) => out.push_str(&value.to_string()),
            Json::String(value) => write_string(value, out),
            Json::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Json::Object(members) => {
                out.push('{');
                for (index, (key, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_string(key, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// A member of an object.
pub(crate) fn member<'a>(key: &'a str, value: impl Into<Json<'a>>) -> Member<'a> {
    (Cow::Borrowed(key), value.into())
}

impl<'a> From<&'a str> for Json<'a> {
    fn from(text: &'a str) -> Self {
        Json::String(Cow::Borrowed(text))
    }
}

impl<'a> From<&'a [&'a str]> for Json<'a> {
    fn from(texts: &'a [&'a str]) -> Self {
        Json::Array(texts.iter().map(|text| Json::from(*text)).collect())
    }
}

impl From<String> for Json<'_> {
    fn from(text: String) -> Self {
        Json::String(Cow::Owned(text))
    }
}

/// Whether one of the texts may be in a string of a JSON text. That is seen much faster than the JSON is read.
pub(crate) fn may_have(json: &str, texts: &[String]) -> bool {
    let is_in = |text: &str| text.len() < 2 || position(json.as_bytes(), text.as_bytes()).is_some();
    // Those escapes can stand for a letter or a slash.
    texts.iter().any(|text| is_in(text)) || is_in("\\u") || is_in("\\/")
}

fn write_string(text: &str, out: &mut String) {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::to_string(text).unwrap_or_default());
    }
}

/// Whether a text is a JSON number.
pub(crate) fn is_number(text: &str) -> bool {
    matches!(Json::parse(text, &Shape::Whole), Ok(Json::Number(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    static SHAPE: Shape = Shape::Members(&[
        ("known", Shape::Members(&[("list", Shape::Each(&Shape::Members(&[("name", Shape::Whole)])))])),
        ("only", Shape::OnlyMembers(&[("a", Shape::Whole)])),
        ("own", Shape::MembersWithPrefix("x.io/")),
    ]);

    fn parse(text: &str) -> Json<'_> {
        Json::parse(text, &SHAPE).unwrap()
    }

    #[test]
    fn unread_parts_are_written_as_they_were() {
        let text = r#"{"z":1.000000000000000000001,"known":{"b":[ 1e400 ],"list":[{"name":"n","x":{ }}],"a":null},"a":"\u0041"}"#;
        assert_eq!(parse(text).to_text(), text);
    }

    #[test]
    fn dropped_members_are_not_written() {
        let json = parse(r#"{"only":{"a":1,"b":2},"x":1}"#);
        assert_eq!(json.to_text(), r#"{"only":{"a":1},"x":1}"#);
    }

    #[test]
    fn what_is_special_in_a_string_is_escaped() {
        for (text, written) in [("a b", r#""a b""#), ("\n", r#""\n""#), ("\"", r#""\"""#), ("\\", r#""\\""#)] {
            assert_eq!(Json::from(text.to_owned()).to_text(), written);
        }
    }

    #[test]
    fn unread_text_tells_its_type() {
        let kinds = [
            (r#"{"a":1}"#, "an object"),
            ("[1]", "a list"),
            (r#""a""#, "a string"),
            ("true", "a boolean"),
            ("false", "a boolean"),
            ("null", "null"),
            ("-1", "a number"),
        ];
        for (text, kind) in kinds {
            let raw: &RawValue = serde_json::from_str(text).unwrap();
            assert_eq!(Json::Raw(raw).kind(), kind);
            assert_eq!(Json::parse(text, &Shape::Whole).unwrap().kind(), kind);
        }
    }

    #[test]
    fn a_text_that_has_none_of_the_texts_is_not_read() {
        let json = r#"{"name":"node1-000003000","description":"a \"b\""}"#;
        for (text, may_be) in [("000003000", true), ("000003001", false), ("node1", true), ("z", true), ("", true)] {
            assert_eq!(may_have(json, &["000004000".to_owned(), text.to_owned()]), may_be, "{text}");
        }
        for escaped in [r#"{"name":"node1\u002d000003000"}"#, r#"{"name":"intel.com\/gpu"}"#] {
            assert!(may_have(escaped, &["node1-0".to_owned(), "intel.com/gpu".to_owned()]));
        }
        assert!(!may_have(json, &[]));
    }

    #[test]
    fn the_last_of_two_equal_keys_counts() {
        let json = parse(r#"{"only":1,"only":2}"#);
        assert_eq!(json.get("only").map(Json::to_text).as_deref(), Some("2"));
    }

    #[test]
    fn a_value_of_another_type_is_kept() {
        let text = r#"{"known":[{"a":[ 1]}],"only":"text","own":[ [] ]}"#;
        assert_eq!(parse(text).to_text(), text.replace("[ [] ]", "[[]]"));
    }

    #[test]
    fn members_with_a_prefix_are_read_and_the_others_kept() {
        let json = parse(r#"{"own":{"x.io/a":"1","y":[ 2]}}"#);
        let own = json.get("own").unwrap();
        assert_eq!(own.get("x.io/a").and_then(Json::as_str), Some("1"));
        assert_eq!(own.to_text(), r#"{"x.io/a":"1","y":[ 2]}"#);
    }

    #[test]
    fn depth_does_not_matter_where_nothing_is_read() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let text = format!(r#"{{"deep":{deep}}}"#);
        assert_eq!(parse(&text).to_text(), text);
    }
}
