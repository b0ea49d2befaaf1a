//! A shortcut for most requests: what the bytes of a payload tell before any JSON is read. It can be left out, and no answer
//! to an admission request changes.

use crate::keys::PREFIX;
use crate::text::position;

/// Whether a payload may be of any concern to the policy.
///
/// A payload that does not look as the host writes it is to be read, so that what is wrong with it can be said; so is one
/// with escapes in which a key of the policy's could hide.
pub(crate) fn may_concern(payload: &[u8]) -> bool {
    const OF_HOST: [&[u8]; 2] = [br#""request":{"#, br#""kind":{"group":""#];
    let is_in = |text: &&[u8]| after(payload, text).is_some();
    let is_hosts = payload.starts_with(b"{") && payload.ends_with(b"}") && OF_HOST.iter().all(is_in);
    !is_hosts || is_in(&PREFIX.as_bytes()) || may_hide(payload) || may_read_user_data(payload)
}

/// Whether there is an escape for a letter or a slash. The host escapes neither.
fn may_hide(payload: &[u8]) -> bool {
    let escapes = memchr::memchr_iter(b'\\', payload).filter_map(|at| payload.get(at + 1));
    escapes.into_iter().any(|byte| matches!(byte, b'u' | b'/'))
}

/// Whether user data may be switched on: in the settings it is an object, in a virtual machine mostly a text.
fn may_read_user_data(payload: &[u8]) -> bool {
    let mut rest = payload;
    while let Some(value) = after(rest, br#""userData""#) {
        let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == b':';
        let start = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
        let object = value.get(start..).and_then(|value| value.strip_prefix(b"{"));
        let members = object.map(|object| {
            let end = object.iter().position(|byte| *byte == b'}').unwrap_or(object.len());
            object.get(..end).unwrap_or(object)
        });
        // Nested objects are not settings.
        let may_be_on = |members: &[u8]| members.contains(&b'{') || after(members, b"true").is_some();
        if members.is_some_and(may_be_on) {
            return true;
        }
        rest = value;
    }
    false
}

/// The bytes after the first occurrence of a text.
fn after<'b>(bytes: &'b [u8], text: &[u8]) -> Option<&'b [u8]> {
    bytes.get(position(bytes, text)? + text.len()..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::directive(r#"{"vm-feature-manager.io/feature":"on"}"#, true)]
    #[case::in_a_text(r#"["vm-vm-feature-manager.io/"]"#, true)]
    #[case::escaped(r#"{"vm\u002dfeature-manager.io/nested-virt":"on"}"#, true)]
    #[case::slash_escaped(r#"{"vm-feature-manager.io\/feature":"on"}"#, true)]
    #[case::other_escapes(r#"{"a":"\"\\n"}"#, false)]
    #[case::cut_off(r#""vm-feature-manager.io""#, false)]
    #[case::another_prefix(r#"{"vm-feature-manager.example/feature":"on"}"#, false)]
    #[case::user_data_on(r#"{"userData":{"readSecrets":false,"enabled":true}}"#, true)]
    #[case::user_data_on_with_spaces("{\"userData\" : { \"enabled\":\ttrue}}", true)]
    #[case::user_data_off(r#"{"userData":{"enabled":false},"x":true}"#, false)]
    #[case::user_data_on_after_another(r#"{"userData":{}},"x":{"userData":{"enabled":true}"#, true)]
    #[case::user_data_with_an_object_in_it(r#"{"userData":{"x":{"y":1},"enabled":true}}"#, true)]
    #[case::user_data_of_a_vm(r##"{"userData":"#cloud-config","y":{"z":true}}"##, false)]
    #[case::nothing("null", false)]
    fn what_concerns_the_policy(#[case] object: &str, #[case] concerns: bool) {
        let request = format!(
            r#"{{"kind":{{"group":"kubevirt.io","kind":"VirtualMachine"}},"operation":"CREATE","object":{object}}}"#
        );
        assert_eq!(may_concern(format!(r#"{{"request":{request}}}"#).as_bytes()), concerns);
        assert!(may_concern(request.as_bytes()), "no payload of the host's");
    }
}
