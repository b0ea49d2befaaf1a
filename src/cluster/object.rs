//! Reads the objects that the host sends. Only the fields that the policy uses are kept: there may be thousands of objects,
//! and most of each is in other fields, in its metadata or because an old host sends all fields.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::kind::Kind;

/// An object of the cluster, as the policy needs it.
pub(crate) trait Object: 'static {
    /// Reads the object. A field that is absent, or has another type than in the API, is empty.
    ///
    /// Derived structs would read objects, too, but serde's code for them takes 47 KB more of the module.
    fn read(fields: Fields<'_>) -> Self;
}

/// An object of which nothing is read.
impl Object for () {
    fn read(_: Fields<'_>) {}
}

/// Reads an object from JSON. `None` if the text is not an object.
pub(super) fn read<T: Object>(kind: &Kind, text: &str) -> Option<T> {
    let tree = parse(text, Part::Paths(&paths(kind), ""))?;
    tree.is_object().then(|| T::read(Fields(Some(&tree))))
}

/// Reads the items of a list. `None` if the text is not a list of objects. Each item is read alone, because the trees of
/// thousands of objects take much memory.
pub(super) fn read_list<T: Object>(kind: &Kind, text: &str) -> Option<Vec<Rc<T>>> {
    let (mut objects, mut are_objects) = (Vec::new(), true);
    let mut read = |item: Tree<'_>| {
        are_objects &= item.is_object();
        objects.push(Rc::new(T::read(Fields(Some(&item)))));
    };
    let tree = parse(text, Part::Items(&paths(kind), &mut read))?;
    let is_list = matches!(Fields(Some(&tree)).at("items").0, Some(Tree::List(_)));
    (is_list && are_objects).then_some(objects)
}

/// The paths that are read of an object: its name, its labels, and the fields of the kind.
fn paths(kind: &Kind) -> Vec<&'static str> {
    [&["metadata.labels", "metadata.name"], kind.fields].concat()
}

fn parse<'j>(text: &'j str, part: Part<'_>) -> Option<Tree<'j>> {
    let mut json = serde_json::Deserializer::from_str(text);
    let tree = part.deserialize(&mut json).ok()?;
    json.end().ok().map(|()| tree)
}

/// A value in the host's answer. Texts are parts of the answer.
enum Tree<'j> {
    Text(Cow<'j, str>),
    True,
    List(Vec<Tree<'j>>),
    Object(Vec<(Cow<'j, str>, Tree<'j>)>),
    Number(u64),
    /// Null, `false`, or another number.
    Other,
}

impl Tree<'_> {
    fn is_object(&self) -> bool {
        matches!(self, Tree::Object(_))
    }
}

/// What is read of a value.
enum Part<'p> {
    /// All of it.
    All,
    /// What is at these paths. The second field is the path of this value with a trailing dot; paths below it start with
    /// it.
    Paths(&'p [&'static str], &'p str),
    /// What is at these paths of each item of a list. The items go to the function.
    Items(&'p [&'static str], &'p mut dyn FnMut(Tree<'_>)),
}

impl<'j> DeserializeSeed<'j> for Part<'_> {
    type Value = Tree<'j>;

    fn deserialize<D: Deserializer<'j>>(self, json: D) -> Result<Tree<'j>, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'j> Visitor<'j> for Part<'_> {
    type Value = Tree<'j>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_borrowed_str<E>(self, text: &'j str) -> Result<Tree<'j>, E> {
        Ok(Tree::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree<'j>, E> {
        Ok(Tree::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, is_true: bool) -> Result<Tree<'j>, E> {
        Ok(if is_true { Tree::True } else { Tree::Other })
    }

    fn visit_unit<E>(self) -> Result<Tree<'j>, E> {
        Ok(Tree::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Tree<'j>, E> {
        Ok(Tree::Other)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Tree<'j>, E> {
        Ok(Tree::Number(number))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree<'j>, E> {
        Ok(Tree::Other)
    }

    fn visit_seq<A: SeqAccess<'j>>(self, mut list: A) -> Result<Tree<'j>, A::Error> {
        let mut items = Vec::new();
        match self {
            Part::Items(paths, read) => {
                while let Some(item) = list.next_element_seed(Part::Paths(paths, ""))? {
                    read(item);
                }
            }
            Part::All | Part::Paths(..) => {
                while let Some(item) = list.next_element_seed(Part::All)? {
                    items.push(item);
                }
            }
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'j>>(mut self, mut object: A) -> Result<Tree<'j>, A::Error> {
        let mut members = Vec::new();
        while let Some(key) = object.next_key_seed(Part::All)? {
            let Tree::Text(key) = key else { continue };
            let inner;
            let part = match &mut self {
                Part::All => Some(Part::All),
                Part::Items(paths, read) => (key == "items").then_some(Part::Items(paths, *read)),
                Part::Paths(paths, start) => {
                    let rest = |path: &&'static str| path.strip_prefix(*start)?.strip_prefix(&*key);
                    match paths.iter().filter_map(rest).find(|rest| rest.is_empty() || rest.starts_with('.')) {
                        None => None,
                        Some("") => Some(Part::All),
                        Some(_) => {
                            inner = [*start, &*key, "."].concat();
                            Some(Part::Paths(paths, &inner))
                        }
                    }
                }
            };
            match part {
                Some(part) => members.push((key, object.next_value_seed(part)?)),
                None => drop(object.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Tree::Object(members))
    }
}

/// The fields of an object, or a value in it. A value that is not there is empty.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'t>(Option<&'t Tree<'t>>);

impl<'t> Fields<'t> {
    /// The value under the key. Of equal keys, the last one counts.
    pub(super) fn at(self, key: &str) -> Self {
        Self(match self.0 {
            Some(Tree::Object(members)) => members.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        })
    }

    pub(super) fn text(self) -> String {
        match self.0 {
            Some(Tree::Text(text)) => (**text).to_owned(),
            _ => String::new(),
        }
    }

    pub(super) fn is_true(self) -> bool {
        matches!(self.0, Some(Tree::True))
    }

    /// A whole number that is not negative.
    pub(super) fn number(self) -> Option<u64> {
        match self.0 {
            Some(Tree::Number(number)) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn is_object(self) -> bool {
        self.0.is_some_and(Tree::is_object)
    }

    /// The items of a list.
    pub(super) fn items<T>(self, read: impl Fn(Fields<'t>) -> T) -> Vec<T> {
        match self.0 {
            Some(Tree::List(items)) => items.iter().map(|item| read(Fields(Some(item)))).collect(),
            _ => Vec::new(),
        }
    }

    /// The texts in an object, by their keys.
    pub(super) fn texts(self) -> Texts {
        let Some(Tree::Object(members)) = self.0 else { return Texts(Vec::new()) };
        let text = |(key, value): &(Cow<'_, str>, Tree<'_>)| match value {
            Tree::Text(text) => Some(((**key).to_owned(), (**text).to_owned())),
            _ => None,
        };
        Texts(members.iter().filter_map(text).collect())
    }
}

/// Texts by their keys, as labels are.
#[derive(Debug)]
pub(crate) struct Texts(Vec<(String, String)>);

impl Texts {
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, text)| text.as_str())
    }

    /// The first key.
    pub(crate) fn first_key(&self) -> Option<&str> {
        self.0.first().map(|(key, _)| key.as_str())
    }
}
