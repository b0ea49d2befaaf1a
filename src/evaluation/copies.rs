//! Copies of a VirtualMachine. Harvester's clones, restores and templates keep the template with its annotations, and so
//! the record, but not the annotations of the VirtualMachine itself.

use super::Old;
use crate::directives::{Ask, Asked, Directive, Directives, Source};
use crate::features::feature::Feature;
use crate::features::record::Record;
use crate::features::{FEATURES, Settings};
use crate::vm::VirtualMachine;

/// Puts the directives back that a copy lost, with their options: those that its record names, if nothing says whether
/// the VirtualMachine has the feature. Returns the features.
///
/// If the copy was made while the policy could not be called, its first update does so, and the directives count for the
/// VirtualMachine before the update, too. It cannot be told from a VirtualMachine whose directive was removed meanwhile
/// unless the annotations for people are written: such a VirtualMachine still has them.
pub(crate) fn put_back(
    vm: &mut VirtualMachine,
    directives: &mut Directives,
    record: &Record,
    mut old: Option<&mut Old>,
    settings: &Settings,
) -> Vec<&'static str> {
    let mut features = Vec::new();
    for feature in FEATURES.iter().filter(|feature| (feature.settings)(settings).enabled) {
        let part = old.as_ref().map_or(record, |old| &old.record).part(feature.name).cloned();
        let Some(part) = part else { continue };
        let is_asked = || directives.ask(feature).as_ref() == Some(&part.ask);
        if let Some(old) = &mut old {
            // Without its part of the record, the VirtualMachine shall not have the feature, unless an earlier evaluation of
            // this request put the directive back, and the feature failed.
            let is_kept = record.part(feature.name).is_some() || is_asked();
            if !(settings.general.add_tracking_annotations && is_copy(feature, &old.directives, &old.record) && is_kept)
            {
                continue;
            }
            let lost = old.directives.lost(&part.ask, feature);
            lost.into_iter().for_each(|lost| old.directives.put_back(lost));
            if is_asked() {
                features.push(feature.name);
                continue;
            }
        }
        if !directives.is_silent(feature.name) && !kept_only_the_directive(directives, &part.ask, feature) {
            continue;
        }
        let lost = directives.lost(&part.ask, feature);
        // A value from another place may not be possible for a label, and then the API server would deny the request.
        if lost.is_empty() || lost.iter().any(|lost| lost.source == Source::Label && !is_label(&lost.value)) {
            continue;
        }
        for lost in lost {
            if lost.source.write(vm, &lost.key, Some(lost.value.clone())).is_ok() {
                directives.put_back(lost);
            }
        }
        if !directives.is_silent(feature.name) {
            features.push(feature.name);
        }
    }
    features
}

/// Whether a copy kept the directive, because it is a label or in the template, and may have lost its options, which are
/// annotations.
fn kept_only_the_directive(directives: &Directives, ask: &Ask, feature: &Feature) -> bool {
    let is_it = |found: Directive<'_>| found.source != Source::Annotation && found.text() == Ok(&ask.value);
    matches!(directives.get(feature.name), Asked::Yes(directive) if is_it(directive))
        && !directives.is_marked(feature.name)
}

/// Whether a label may have the value. Source: `k8s.io/apimachinery`, `pkg/util/validation/validation.go`.
fn is_label(value: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_alphanumeric();
    value.len() <= 63
        && value.chars().all(|c| is_alphanumeric(c) || ['-', '_', '.'].contains(&c))
        && value.starts_with(is_alphanumeric)
        && value.ends_with(is_alphanumeric)
}

/// Whether a VirtualMachine has the record of a feature, but neither a directive nor an annotation for people.
pub(super) fn is_copy(feature: &Feature, directives: &Directives, record: &Record) -> bool {
    record.part(feature.name).is_some() && directives.is_silent(feature.name) && !directives.is_marked(feature.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::word("enabled", true)]
    #[case::with_signs("a-b_c.d", true)]
    #[case::as_long_as_can_be(&"a".repeat(63), true)]
    #[case::too_long(&"a".repeat(64), false)]
    #[case::slash("nvidia.com/gpu", false)]
    #[case::json("{}", false)]
    #[case::begins_with_a_sign("-a", false)]
    #[case::ends_with_a_sign("a.", false)]
    fn what_a_label_may_have(#[case] value: &str, #[case] expected: bool) {
        assert_eq!(is_label(value), expected);
    }
}
