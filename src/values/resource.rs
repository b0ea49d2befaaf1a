//! Names of Kubernetes extended resources.

use std::fmt;
use std::str::FromStr;

use super::is_word;
use super::name::SUBDOMAIN;

/// The name of an extended resource, `domain/name`, which a device plugin serves.
///
/// Follows `IsExtendedResourceName` in `k8s.io/kubernetes`, `pkg/apis/core/v1/helper`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResourceName(String);

/// Why a text is not the name of an extended resource.
///
/// Cause: a typing mistake
/// Cure: `kubectl describe node` lists the names under Capacity
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResourceNameError {
    #[error("it does not have the form domain/name, as nvidia.com/gpu does")]
    Form,
    #[error("its domain must consist of lower-case letters, digits, - and ., and have at most 244 characters")]
    Domain,
    #[error("its domain is reserved by Kubernetes")]
    Reserved,
    #[error(
        "the part after the slash must be 1 to 63 letters, digits, -, _ and ., with a letter or digit at both ends"
    )]
    Name,
}

/// The length limit for the domain. Kubernetes puts `requests.` in front of it, and the result must be a DNS subdomain.
const DOMAIN_MAX: usize = 244;

impl ResourceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ResourceName {
    type Err = ResourceNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (domain, name) = text.split_once('/').ok_or(ResourceNameError::Form)?;
        if name.contains('/') {
            return Err(ResourceNameError::Form);
        }
        if domain.len() > DOMAIN_MAX || !SUBDOMAIN.allows(domain) {
            return Err(ResourceNameError::Domain);
        }
        if domain.ends_with("kubernetes.io") || domain.starts_with("requests.") {
            return Err(ResourceNameError::Reserved);
        }
        let qualified = name.len() <= 63 && is_word(name, char::is_ascii_alphanumeric, &['-', '_', '.']);
        if qualified { Ok(Self(text.to_owned())) } else { Err(ResourceNameError::Name) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::gpu("nvidia.com/gpu")]
    #[case::upper_case_and_underscore("intel.com/COFFEELAKES_GT2_UHD_GRAPHICS_630")]
    #[case::dots("gpu.intel.com/i915.v2")]
    #[case::one_letter("a/b")]
    fn valid(#[case] text: &str) {
        assert_eq!(text.parse::<ResourceName>().map(|name| name.to_string()), Ok(text.to_owned()));
    }

    #[rstest]
    #[case::empty("", ResourceNameError::Form)]
    #[case::no_domain("gpu", ResourceNameError::Form)]
    #[case::two_slashes("nvidia.com/gpu/1", ResourceNameError::Form)]
    #[case::domain_empty("/gpu", ResourceNameError::Domain)]
    #[case::domain_upper_case("Nvidia.com/gpu", ResourceNameError::Domain)]
    #[case::kubernetes("kubernetes.io/gpu", ResourceNameError::Reserved)]
    #[case::sub_kubernetes("node.kubernetes.io/gpu", ResourceNameError::Reserved)]
    #[case::requests("requests.nvidia.com/gpu", ResourceNameError::Reserved)]
    #[case::name_empty("nvidia.com/", ResourceNameError::Name)]
    #[case::name_ends_with_dot("nvidia.com/gpu.", ResourceNameError::Name)]
    #[case::name_with_space("nvidia.com/g pu", ResourceNameError::Name)]
    fn invalid(#[case] text: &str, #[case] error: ResourceNameError) {
        assert_eq!(text.parse::<ResourceName>(), Err(error));
    }

    #[test]
    fn lengths() {
        let long = |domain: usize, name: usize| format!("{}a/{}", "a.".repeat((domain - 1) / 2), "n".repeat(name));
        assert!(format!("a{}", long(243, 63)).parse::<ResourceName>().is_ok());
        assert_eq!(long(245, 63).parse::<ResourceName>(), Err(ResourceNameError::Domain));
        assert_eq!(long(243, 64).parse::<ResourceName>(), Err(ResourceNameError::Name));
    }
}
