//! What policy-server's account may do, as the API server says.

use serde_json::json;
use vm_feature_manager_policy::cluster::Kind;

use super::kubectl::{ApiError, Kubectl};
use super::needs::Need;
use super::parallel::parallel;

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// How many requests are sent at the same time.
pub(super) const AT_ONCE: usize = 4;

/// A permission of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// The kind.
    pub kind: &'static Kind,
    /// The verb, as RBAC writes it.
    pub verb: &'static str,
    /// Whether the account has it.
    pub is_granted: bool,
}

/// Whether an account has a permission. Without a namespace, it must have it in all of them.
///
/// # Errors
/// [`ApiError`] if the API server does not say.
pub fn is_allowed(
    kubectl: &Kubectl,
    account: &str,
    kind: &Kind,
    verb: &str,
    namespace: Option<&str>,
) -> Result<bool, ApiError> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": account,
            "groups": groups(account),
            "resourceAttributes": {
                "group": kind.group(), "resource": kind.plural, "verb": verb, "namespace": namespace.unwrap_or_default(),
            },
        },
    });
    Ok(kubectl.create(REVIEWS, &review)?["status"]["allowed"] == true)
}

/// Which permissions an account has for what the policy needs.
///
/// # Errors
/// The first [`ApiError`].
pub fn permissions(
    kubectl: &Kubectl,
    account: &str,
    needs: &[Need],
    namespace_of: impl Fn(&Kind) -> Option<String> + Sync,
) -> Result<Vec<Permission>, ApiError> {
    let wanted: Vec<(&'static Kind, &'static str)> =
        needs.iter().flat_map(|need| need.verbs.verbs().iter().map(|verb| (need.kind, *verb))).collect();
    let answers = parallel(&wanted, AT_ONCE, |(kind, verb)| {
        let is_granted = is_allowed(kubectl, account, kind, verb, namespace_of(kind).as_deref())?;
        Ok(Permission { kind, verb, is_granted })
    });
    answers.into_iter().collect()
}

/// The groups that the API server adds to an account.
fn groups(account: &str) -> Vec<String> {
    let mut groups = Vec::new();
    if let Some(rest) = account.strip_prefix("system:serviceaccount:") {
        let namespace = rest.split(':').next().unwrap_or_default();
        groups.push("system:serviceaccounts".to_owned());
        groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    groups.push("system:authenticated".to_owned());
    groups
}
