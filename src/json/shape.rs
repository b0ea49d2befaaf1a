//! How a JSON text is read: as far as a shape says, and no further.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_json::value::RawValue;

use super::Json;

/// How far a JSON text is read.
#[derive(Debug)]
pub(crate) enum Shape {
    /// Not at all: the text is kept.
    Raw,
    /// Everything.
    Whole,
    /// The named members as their own shapes say, the text of the others.
    Members(&'static [(&'static str, Shape)]),
    /// The named members as their own shapes say; the others are dropped.
    OnlyMembers(&'static [(&'static str, Shape)]),
    /// The members whose key starts with the text, whole; the text of the others.
    MembersWithPrefix(&'static str),
    /// Every item of an array as the shape says.
    Each(&'static Shape),
}

impl<'de> DeserializeSeed<'de> for &'static Shape {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        match self {
            Shape::Raw => <&RawValue>::deserialize(deserializer).map(Json::Raw),
            _ => deserializer.deserialize_any(ShapeVisitor(self)),
        }
    }
}

struct ShapeVisitor(&'static Shape);

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json<'de>, A::Error> {
        let shape = match self.0 {
            Shape::Each(shape) => shape,
            Shape::Whole => &Shape::Whole,
            _ => &Shape::Raw,
        };
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(shape)? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(key) = map.next_key_seed(Key)? {
            let shape = match self.0 {
                Shape::Members(known) => Some(find(known, &key).unwrap_or(&Shape::Raw)),
                Shape::OnlyMembers(known) => find(known, &key),
                Shape::MembersWithPrefix(prefix) if key.starts_with(prefix) => Some(&Shape::Whole),
                Shape::Whole => Some(&Shape::Whole),
                Shape::Raw | Shape::Each(_) | Shape::MembersWithPrefix(_) => Some(&Shape::Raw),
            };
            match shape {
                Some(shape) => members.push((key, map.next_value_seed(shape)?)),
                None => {
                    map.next_value::<serde::de::IgnoredAny>()?;
                }
            }
        }
        Ok(Json::Object(members))
    }
}

fn find(known: &'static [(&'static str, Shape)], key: &str) -> Option<&'static Shape> {
    known.iter().find(|(k, _)| *k == key).map(|(_, shape)| shape)
}

/// An object's key: borrowed where the text has no escape in it.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(value.to_owned()))
    }
}
