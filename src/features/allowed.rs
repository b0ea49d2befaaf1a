//! Which devices and resources a namespace may use.

use crate::values::pattern::Pattern;

/// Whether the lists of namespaces allow this namespace a device by one of its names. Without any list, every namespace
/// may use every device.
pub(super) fn allows(lists: &[(Pattern, Vec<Pattern>)], namespace: &str, names: &[&str]) -> bool {
    let of_namespace = lists.iter().filter(|(pattern, _)| pattern.matches(namespace));
    let matches = |pattern: &Pattern| names.iter().any(|name| pattern.matches(name));
    lists.is_empty() || of_namespace.flat_map(|(_, patterns)| patterns).any(matches)
}
