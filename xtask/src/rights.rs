//! Generates what follows from the features' lookups: the permissions of policy-server, in the manifests and in the chart.

use anyhow::{Context, Result};
use vm_feature_manager_policy::cluster::access::{Access, Condition, Verbs};
use vm_feature_manager_policy::cluster::{Kind, SECRET};
use vm_feature_manager_policy::reference;

use crate::files::replace_between;
use crate::kinds::is_harvester;

const START: &str = "  # Written by cargo xtask generate, from what the features look up.\n";
const END: &str = "  # End of what is generated.\n";

/// A lookup for a feature. The key of the feature's settings and its name are empty if the lookup belongs to no feature.
struct Reason {
    settings: &'static str,
    feature: &'static str,
    access: Access,
}

/// The permissions for one kind.
struct Rule {
    kind: &'static Kind,
    verbs: Verbs,
    reasons: Vec<Reason>,
}

/// A rule for each kind, in the order of the declarations.
fn rules() -> Vec<Rule> {
    let features = reference::features().into_iter().flat_map(|(feature, reference)| {
        let settings = reference.settings;
        reference.looks_up.iter().map(move |access| Reason { settings, feature, access: *access })
    });
    let general = reference::general().map(|access| Reason { settings: "", feature: "", access });
    let mut rules: Vec<Rule> = Vec::new();
    for reason in features.chain(general) {
        for kind in reason.access.kinds {
            let Reason { settings, feature, access } = reason;
            let reason = Reason { settings, feature, access };
            match rules.iter_mut().find(|rule| rule.kind == *kind) {
                Some(rule) => {
                    rule.verbs = rule.verbs.max(access.verbs);
                    rule.reasons.push(reason);
                }
                None => rules.push(Rule { kind, verbs: access.verbs, reasons: vec![reason] }),
            }
        }
    }
    rules
}

impl Rule {
    /// The lines of the rule, with a comment that says why it is needed.
    fn lines(&self) -> Vec<String> {
        let group = if self.kind.group().is_empty() { "\"\"" } else { self.kind.group() };
        let mut lines: Vec<String> = self.reasons.iter().map(Reason::comment).collect();
        lines.push(format!("  - apiGroups: [{group}]"));
        lines.push(format!("    resources: [{}]", self.kind.plural));
        lines.push(format!("    verbs: [{}]", self.verbs.verbs().join(", ")));
        lines
    }

    /// Whether the ClusterRole contains the rule with all settings. Permission for Secrets is granted by hand, for each
    /// namespace.
    fn is_granted_everywhere(&self) -> bool {
        *self.kind != SECRET
    }

    /// The condition in Helm's template language; `None` if the rule is always needed.
    fn condition(&self) -> Option<String> {
        let conditions: Option<Vec<String>> = self.reasons.iter().map(Reason::condition).collect();
        let mut conditions = conditions?;
        conditions.dedup();
        Some(call("or", &conditions))
    }
}

impl Reason {
    fn comment(&self) -> String {
        let what = self.access.what.replace('`', "");
        match self.feature {
            "" => {
                let mut letters = what.chars();
                let first = letters.next().map(|letter| letter.to_ascii_uppercase());
                format!("  # {}{}.", first.into_iter().collect::<String>(), letters.as_str())
            }
            feature => format!("  # {feature}: {what}."),
        }
    }

    fn condition(&self) -> Option<String> {
        let switch = (!self.settings.is_empty()).then(|| format!("$settings.{}.enabled", self.settings));
        let conditions = self.access.needed.iter().map(|condition| match condition {
            Condition::On(setting) => format!("$settings.{setting}"),
            Condition::Is(setting, value) => format!("(eq $settings.{setting} {value:?})"),
            Condition::IsNot(setting, value) => format!("(ne $settings.{setting} {value:?})"),
        });
        let conditions: Vec<String> = switch.into_iter().chain(conditions).collect();
        match conditions.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            several => Some(format!("({})", call("and", several))),
        }
    }
}

/// A call of a function in Helm's template language. If there is only one argument, it is just the argument.
fn call(function: &str, arguments: &[String]) -> String {
    match arguments {
        [argument] => argument.strip_prefix('(').and_then(|a| a.strip_suffix(')')).unwrap_or(argument).to_owned(),
        _ => format!("{function} {}", arguments.join(" ")),
    }
}

/// The manifest, with all permissions except those for Secrets.
pub(crate) fn manifest(old: &str) -> Result<String> {
    let lines = rules().into_iter().filter(Rule::is_granted_everywhere).flat_map(|rule| rule.lines());
    replace_between(old, START, END, &text(lines))
}

/// The chart's template. Each rule has the condition under which the settings need it. Permissions for users' objects
/// are in a Role if the values name namespaces.
pub(crate) fn chart(old: &str) -> Result<String> {
    let mut variables = Vec::new();
    let mut lines = Vec::new();
    for rule in rules() {
        let resource = rule.kind.plural;
        let mut condition = rule.condition();
        if rule.kind.is_of_users {
            let needed = condition.with_context(|| format!("{resource} are needed whatever the settings"))?;
            variables.push(format!("{{{{- ${resource} := {needed} }}}}"));
            condition = Some(format!("and ${resource} (not .Values.rbac.{}Namespaces)", value_of(rule.kind)));
        }
        if !rule.is_granted_everywhere() {
            continue;
        }
        match condition {
            Some(condition) => {
                lines.push(format!("  {{{{- if {condition} }}}}"));
                lines.extend(rule.lines());
                lines.push("  {{- end }}".to_owned());
            }
            None => lines.extend(rule.lines()),
        }
    }
    const VARIABLES: &str = "{{- /* Written by cargo xtask generate, from what the features look up. */}}\n";
    const END_OF_VARIABLES: &str = "{{- /* End of what is generated. */}}\n";
    let new = replace_between(old, VARIABLES, END_OF_VARIABLES, &text(variables))?;
    replace_between(&new, START, END, &text(lines))
}

/// The prefix of the chart's value that lists namespaces for a kind.
fn value_of(kind: &Kind) -> String {
    let mut letters = kind.name.chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

/// The patch of the manifest for clusters without Harvester, which removes the rules for its kinds.
pub(crate) fn without_harvester(old: &str) -> Result<String> {
    const START: &str =
        "      # Written by cargo xtask generate: removes the rules for Harvester's devices, the last one first.\n";
    const END: &str = "      # End of what is generated.\n";
    let granted: Vec<Rule> = rules().into_iter().filter(Rule::is_granted_everywhere).collect();
    let harvester = granted.iter().enumerate().filter(|(_, rule)| is_harvester(rule.kind));
    let lines = harvester.rev().flat_map(|(index, rule)| {
        [
            "      - op: test".to_owned(),
            format!("        path: /rules/{index}/resources/0"),
            format!("        value: {}", rule.kind.plural),
            "      - op: remove".to_owned(),
            format!("        path: /rules/{index}"),
        ]
    });
    let new = replace_between(old, START, END, &text(lines))?;
    crate::kinds::without_harvester(&new)
}

fn text(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().map(|line| line + "\n").collect()
}

/// The table of lookups and permissions.
pub(crate) fn reference() -> String {
    let mut list = String::new();
    for rule in rules() {
        let (group, resource) = (rule.kind.group(), rule.kind.plural);
        let dot = if group.is_empty() { "" } else { "." };
        let verbs: Vec<String> = rule.verbs.verbs().iter().map(|verb| format!("`{verb}`")).collect();
        list.push_str(&format!("- `{resource}{dot}{group}` ({})\n", verbs.join(", ")));
        for Reason { feature, access: Access { what, without, verbs, .. }, .. } in &rule.reasons {
            let less = if *verbs < rule.verbs { "; `get` is enough" } else { "" };
            let feature = if feature.is_empty() { "the policy itself".to_owned() } else { format!("`{feature}`") };
            list.push_str(&format!("  - {feature}: {what}{less}. Without it: {without}.\n"));
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    #[test]
    fn conditions_name_settings_that_there_are() {
        let known = settings::paths();
        for Reason { settings, access, .. } in rules().iter().flat_map(|rule| &rule.reasons) {
            let switch = format!("{settings}.enabled");
            assert!(settings.is_empty() || known.contains(&switch), "{switch}");
            for condition in access.needed {
                assert!(known.iter().any(|path| path == condition.setting()), "{condition:?}");
            }
        }
    }

    #[test]
    fn a_condition_is_as_short_as_it_can_be() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(call("or", &texts(&["$a"])), "$a");
        assert_eq!(call("or", &texts(&["(and $a $b)"])), "and $a $b");
        assert_eq!(call("or", &texts(&["(and $a $b)", "$c"])), "or (and $a $b) $c");
    }
}
