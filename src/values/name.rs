//! Kubernetes' rules for names.

use super::{is_lower_case, is_word};

/// A rule for names: which names are allowed, and how a message describes them.
#[derive(Debug)]
pub(crate) struct NameRule {
    max: usize,
    dots: bool,
    pub(crate) takes: &'static str,
}

/// A DNS label (RFC 1123), which namespaces and pod volumes must have as their name.
pub(crate) const LABEL: NameRule = NameRule {
    max: 63,
    dots: false,
    takes: "a name of at most 63 characters: lower-case letters, digits and -, a letter or digit at both ends",
};

/// A DNS subdomain (RFC 1123), which most objects must have as their name.
pub(crate) const SUBDOMAIN: NameRule = NameRule {
    max: 253,
    dots: true,
    takes: "a name of at most 253 characters: lower-case letters, digits, - and ., a letter or digit at the ends of each part",
};

impl NameRule {
    /// Whether the rule allows the name.
    pub(crate) fn allows(&self, name: &str) -> bool {
        let is_label = |part: &str| is_word(part, is_lower_case, &['-']);
        name.len() <= self.max && if self.dots { name.split('.').all(is_label) } else { is_label(name) }
    }
}

/// A name that follows its rule: a DNS subdomain if dots are allowed, otherwise a DNS label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName<const DOTS: bool>(String);

/// The name of a namespace.
pub type Label = ObjectName<false>;

/// The name of most kinds of objects.
pub type Subdomain = ObjectName<true>;

impl<const DOTS: bool> ObjectName<DOTS> {
    pub(crate) const RULE: &NameRule = if DOTS { &SUBDOMAIN } else { &LABEL };

    /// The name, if the rule allows it; otherwise `None`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::RULE.allows(name).then(|| Self(name.to_owned()))
    }

    /// A name that is known to follow the rule.
    pub(crate) fn known(name: &'static str) -> Self {
        Self(name.to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::label("kube-system", true, true)]
    #[case::digits("1", true, true)]
    #[case::dots("node1.example.com", false, true)]
    #[case::empty("", false, false)]
    #[case::upper_case("Node", false, false)]
    #[case::hyphen_first("-a", false, false)]
    #[case::hyphen_last("a-", false, false)]
    #[case::empty_part("a..b", false, false)]
    #[case::space("a b", false, false)]
    #[case::sixty_four("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false, true)]
    fn names(#[case] name: &str, #[case] label: bool, #[case] subdomain: bool) {
        assert_eq!(LABEL.allows(name), label);
        assert_eq!(SUBDOMAIN.allows(name), subdomain);
    }

    #[test]
    fn a_subdomain_has_at_most_253_characters() {
        assert!(SUBDOMAIN.allows(&["a"; 127].join(".")));
        assert!(!SUBDOMAIN.allows(&["a"; 128].join(".")));
    }
}
