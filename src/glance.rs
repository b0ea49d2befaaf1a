//! What the bytes of a payload tell before any JSON is read: that the request asks for nothing, as most do.

use memchr::arch::all::is_equal;

use crate::directives::PREFIX;

/// Whether a payload may be of any concern to the policy.
///
/// The host writes the payload itself, compact, so a key of the policy's stands in it as it is, never with escapes. A
/// payload that does not look like the host's is to be read, so that what is wrong with it can be said.
pub(crate) fn may_concern(payload: &[u8]) -> bool {
    const OF_REQUEST: [&[u8]; 2] = [br#""request":{"#, br#""kind":{"group":""#];
    let is_hosts = payload.starts_with(b"{")
        && payload.ends_with(b"}")
        && OF_REQUEST.iter().all(|text| behind(payload, text).is_some());
    if !is_hosts {
        return true;
    }
    let asks = behind(payload, PREFIX.as_bytes()).is_some() || may_read_user_data(payload);
    asks && !asks_the_same(payload)
}

/// Whether user data may be switched on: in the settings it is an object, in a virtual machine mostly a text.
fn may_read_user_data(payload: &[u8]) -> bool {
    let mut rest = payload;
    while let Some(object) = behind(rest, br#""userData":{"#) {
        let members = memchr::memchr(b'}', object).and_then(|end| object.get(..end));
        // An object in it is no setting.
        let may_be_on =
            |members: &[u8]| members.contains(&b'{') || behind(members, b"true").is_some();
        if members.is_none_or(may_be_on) {
            return true;
        }
        rest = object;
    }
    false
}

/// Whether this is an update of a VirtualMachine that asks the policy for the same as before: equal annotations and labels
/// of ours, equal templates. Both objects come from one serializer, so they are compared as text, members in their order.
fn asks_the_same(payload: &[u8]) -> bool {
    if behind(payload, br#""oldObject":{"#).is_none() {
        return false;
    }
    let mut update = Update::default();
    let is_read = update.read(&mut Text(payload)).is_some();
    is_read && update.is_update && update.old.is_some() && update.new == update.old
}

/// An update, read as far as it matters, and without a tree.
#[derive(Default)]
struct Update<'b> {
    is_update: bool,
    new: Option<Gist<'b>>,
    old: Option<Gist<'b>>,
}

/// What of a VirtualMachine the policy acts on, as it stands in the text.
#[derive(Default)]
struct Gist<'b> {
    /// The annotations and labels of ours: which of the two, the key, the value.
    ours: Vec<(Level, &'b [u8], &'b [u8])>,
    template: &'b [u8],
}

impl PartialEq for Gist<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.ours == other.ours && is_equal(self.template, other.template)
    }
}

/// The objects of a payload whose members matter.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    Payload,
    Request,
    Object,
    OldObject,
    Metadata,
    Annotations,
    Labels,
    Spec,
}

impl<'b> Update<'b> {
    /// Reads a payload. `None` where it is not as the host writes it, or the templates are not equal.
    fn read(&mut self, text: &mut Text<'b>) -> Option<()> {
        let (mut level, mut object) = (Level::Payload, Level::Object);
        let mut gist = Gist::default();
        text.skip(b"{").then_some(())?;
        loop {
            if text.skip(b"}") {
                level = match level {
                    Level::Payload => return Some(()),
                    Level::Request => Level::Payload,
                    Level::Object => {
                        self.new = Some(std::mem::take(&mut gist));
                        Level::Request
                    }
                    Level::OldObject => {
                        self.old = Some(std::mem::take(&mut gist));
                        Level::Request
                    }
                    Level::Metadata | Level::Spec => object,
                    Level::Annotations | Level::Labels => Level::Metadata,
                };
            } else {
                let key = text.key()?;
                let inner = match (level, key) {
                    (Level::Payload, b"request") => Some(Level::Request),
                    (Level::Request, b"object") => Some(Level::Object),
                    (Level::Request, b"oldObject") => Some(Level::OldObject),
                    (Level::Object | Level::OldObject, b"metadata") => Some(Level::Metadata),
                    (Level::Object | Level::OldObject, b"spec") => Some(Level::Spec),
                    (Level::Metadata, b"annotations") => Some(Level::Annotations),
                    (Level::Metadata, b"labels") => Some(Level::Labels),
                    _ => None,
                };
                if let Some(inner) = inner.filter(|_| text.skip(b"{")) {
                    if matches!(inner, Level::Object | Level::OldObject) {
                        object = inner;
                    }
                    level = inner;
                    continue;
                }
                match (level, key, &self.new) {
                    (Level::Spec, b"template", Some(new)) => {
                        // Most of the text need not be taken apart again.
                        gist.template = new.template;
                        text.skip(new.template).then_some(())?;
                    }
                    (Level::Spec, b"template", None) => gist.template = text.value()?,
                    (Level::Request, b"operation", _) => {
                        self.is_update = text.value()? == br#""UPDATE""#
                    }
                    (Level::Annotations | Level::Labels, ..)
                        if key.starts_with(PREFIX.as_bytes()) =>
                    {
                        gist.ours.push((level, key, text.value()?));
                    }
                    _ => text.value().map(drop)?,
                }
            }
            text.skip(b",");
        }
    }
}

/// What is left of a JSON text of the host's.
struct Text<'b>(&'b [u8]);

impl<'b> Text<'b> {
    /// Whether the text goes on with this, which is then read.
    fn skip(&mut self, known: &[u8]) -> bool {
        match self.0.split_at_checked(known.len()) {
            Some((text, rest)) if is_equal(text, known) => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    /// Reads the key of a member, and the colon. `None` where it has an escape in it.
    fn key(&mut self) -> Option<&'b [u8]> {
        let text = self.0.strip_prefix(b"\"")?;
        let (key, rest) = text.split_at_checked(memchr::memchr2(b'"', b'\\', text)?)?;
        self.0 = rest.strip_prefix(b"\":")?;
        Some(key)
    }

    /// Reads a value of any type, up to the comma or bracket behind it.
    fn value(&mut self) -> Option<&'b [u8]> {
        let (text, mut at, mut depth) = (self.0, 0, 0_usize);
        loop {
            match text.get(at)? {
                b'"' => at = end_of_string(text, at + 1)?,
                b'{' | b'[' => depth += 1,
                b'}' | b']' | b',' if depth == 0 => break,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            at += 1;
        }
        let (value, rest) = text.split_at_checked(at)?;
        self.0 = rest;
        Some(value)
    }
}

/// Where the string ends whose text begins at `at`: the place of its quotation mark.
fn end_of_string(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        match text.get(at)? {
            b'"' => return Some(at),
            _ => at += 2,
        }
    }
}

/// What follows the first place of a text.
fn behind<'b>(bytes: &'b [u8], text: &[u8]) -> Option<&'b [u8]> {
    bytes.get(position(bytes, text)? + text.len()..)
}

/// The first place of a text of at least two bytes.
#[cfg(target_feature = "simd128")]
fn position(bytes: &[u8], text: &[u8]) -> Option<usize> {
    use memchr::arch::all::packedpair::Pair;
    use memchr::arch::wasm32::simd128::packedpair::Finder;
    // Where two bytes some way apart are right, the rest is mostly, too.
    let middle = u8::try_from(text.len() / 2).ok()?;
    let finder = Finder::with_pair(text, Pair::with_indices(text, 0, middle)?)?;
    if bytes.len() < finder.min_haystack_len() {
        return bytes.windows(text.len()).position(|window| window == text);
    }
    finder.find(bytes, text)
}

/// The first place of a text.
#[cfg(not(target_feature = "simd128"))]
fn position(bytes: &[u8], text: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::directive(r#"{"vm-feature-manager.io/nested-virt":"on"}"#, true)]
    #[case::in_a_text(r#"["vm-vm-feature-manager.io/"]"#, true)]
    #[case::cut_off(r#""vm-feature-manager.io""#, false)]
    #[case::another_prefix(r#"{"vm-feature-manager.example/nested-virt":"on"}"#, false)]
    #[case::user_data_on(r#"{"userData":{"readSecrets":false,"enabled":true}}"#, true)]
    #[case::user_data_off(r#"{"userData":{"enabled":false},"x":true}"#, false)]
    #[case::user_data_on_behind_another(
        r#"{"userData":{}},"x":{"userData":{"enabled":true}"#,
        true
    )]
    #[case::user_data_with_an_object_in_it(r#"{"userData":{"x":{"y":1},"enabled":true}}"#, true)]
    #[case::user_data_of_a_vm(r##"{"userData":"#cloud-config","y":{"z":true}}"##, false)]
    #[case::nothing("null", false)]
    fn a_glance(#[case] object: &str, #[case] concerns: bool) {
        let request = format!(
            r#"{{"kind":{{"group":"kubevirt.io","kind":"VirtualMachine"}},"operation":"CREATE","object":{object}}}"#
        );
        assert_eq!(may_concern(format!(r#"{{"request":{request}}}"#).as_bytes()), concerns);
        assert!(may_concern(request.as_bytes()), "no payload of the host's");
    }

    /// An update of a VirtualMachine that asks for nested virtualization.
    fn update(object: &str, old: &str) -> String {
        format!(
            r#"{{"request":{{"kind":{{"group":"kubevirt.io","kind":"VirtualMachine"}},"object":{object},"oldObject":{old},"operation":"UPDATE"}},"settings":{{"userData":{{"enabled":true}}}}}}"#
        )
    }

    const OLD: &str = r#"{"metadata":{"annotations":{"a":"\\\"{","vm-feature-manager.io/nested-virt":"on"},"labels":{"b":"c","vm-feature-manager.io/x":"1"},"name":"n"},"spec":{"instancetype":null,"template":{"spec":{"x":["}",{"y":1}]}}},"status":[true,{}]}"#;

    #[rstest]
    #[case::nothing("", "", false)]
    #[case::another_annotation(r#""a":"\\\"{""#, r#""a":"]","b":{}"#, false)]
    #[case::another_label(r#""b":"c","#, "", false)]
    #[case::the_spec_outside_the_template("null", r#"[1,"x"]"#, false)]
    #[case::the_name(r#""n"}"#, r#""m"}"#, false)]
    #[case::the_status("[true,{}]", "{}", false)]
    #[case::the_directive(r#""on""#, r#""off""#, true)]
    #[case::a_label_of_ours(r#""1""#, r#""2""#, true)]
    #[case::a_directive_more(
        r#"{"a":"\\\"{""#,
        r#"{"vm-feature-manager.io/cpu-vendor":"amd""#,
        true
    )]
    #[case::a_directive_that_goes(r#""vm-feature-manager.io/nested-virt""#, r#""x""#, true)]
    #[case::from_annotation_to_label(
        r#""vm-feature-manager.io/nested-virt":"on"},"labels":{"#,
        r#""x":"y"},"labels":{"vm-feature-manager.io/nested-virt":"on","#,
        true
    )]
    #[case::the_template(r#""y":1"#, r#""y":2"#, true)]
    #[case::no_template(r#""template""#, r#""x""#, true)]
    #[case::no_annotations(
        r#"{"a":"\\\"{","vm-feature-manager.io/nested-virt":"on"}"#,
        "null",
        true
    )]
    #[case::space(r#"{"metadata""#, r#"{ "metadata""#, true)]
    #[case::space_behind(r#""spec":"#, r#""spec" :"#, true)]
    #[case::escape_in_a_key(r#""template""#, r#""templ\u0061te""#, true)]
    #[case::no_object(OLD, "null", true)]
    #[case::cut_off(r#""status":[true,{}]}"#, "", true)]
    #[case::a_string_without_end(r#""n"}"#, r#""n}"#, true)]
    fn a_glance_at_an_update(#[case] from: &str, #[case] to: &str, #[case] concerns: bool) {
        let object = OLD.replacen(from, to, 1);
        assert!(from.is_empty() || object != OLD);
        assert_eq!(may_concern(update(&object, OLD).as_bytes()), concerns, "{object}");
        assert_eq!(may_concern(update(OLD, &object).as_bytes()), concerns, "{object}");
    }

    #[rstest]
    #[case::create(r#""UPDATE""#, r#""CREATE""#)]
    #[case::no_object(r#""object""#, r#""other""#)]
    #[case::no_objects(r#"bject":"#, r#"ther":"#)]
    #[case::not_the_host_s(r#""request":{"#, r#""request": {"#)]
    fn what_is_no_update_is_read(#[case] from: &str, #[case] to: &str) {
        let payload = update(OLD, OLD);
        assert!(!may_concern(payload.as_bytes()));
        assert!(may_concern(payload.replace(from, to).as_bytes()));
    }
}
