//! What the policy would say about a cluster, for `vmfm doctor`. The module does not use it.

use serde_json::Value;

use super::error::{Account, ClusterError, LookupError};
use super::kind::Kind;
use super::kubevirt::{KUBEVIRT, KubeVirt};
use super::object;

/// What it means that a lookup fails: the problem, and the remedy. The verbs are written as they read in a sentence.
pub fn lookup(
    cause: ClusterError,
    kind: &'static Kind,
    verbs: &'static str,
    namespace: Option<&str>,
) -> (String, String) {
    let error = LookupError { cause, kind, verbs, name: None, namespace: namespace.map(str::to_owned) };
    (error.why(), error.remedy())
}

/// The account with this user name, if a message can show it.
pub fn account(name: &str) -> Option<Account> {
    Account::of_user(name)
}

/// A KubeVirt object, as the policy reads it.
#[derive(Debug)]
pub struct KubeVirtInWords(KubeVirt);

impl KubeVirtInWords {
    /// Reads the object; `None` if it is not one.
    pub fn read(object: &Value) -> Option<Self> {
        object::read(&KUBEVIRT, &object.to_string()).map(Self)
    }

    /// The running version, if it is known, such as `v1.7.0`.
    pub fn version(&self) -> Option<String> {
        self.0.version()
    }

    /// Whether the running version is known, and older than KubeVirt 1 with this minor version.
    pub fn is_before(&self, minor: u32) -> bool {
        self.0.is_before(minor)
    }

    /// Checks that a feature gate is on. If it is not known, a warning says so.
    ///
    /// # Errors
    /// The policy's message if the gate is off.
    pub fn gate(&self, name: &'static str) -> Result<Option<String>, String> {
        self.0.require_gate(name).map_err(|error| error.to_string())
    }

    /// Whether the object lists the host devices that it permits, but none with this resource.
    pub fn does_not_permit(&self, resource: &str) -> bool {
        self.0.does_not_permit(resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{CONFIG_MAP, NODE};
    use serde_json::json;

    #[test]
    fn lookups_have_the_words_of_messages() {
        let policy_server = account("system:serviceaccount:kubewarden:policy-server");
        let (why, remedy) = lookup(ClusterError::Forbidden(policy_server), &NODE, "list", None);
        assert_eq!(
            why,
            "the policy reads the cluster as the service account kubewarden:policy-server, which may not list nodes"
        );
        assert!(remedy.starts_with("have an administrator run: kubectl create clusterrolebinding"), "{remedy}");
        let (why, remedy) = lookup(ClusterError::NotDeclared, &CONFIG_MAP, "get", Some("a"));
        assert!(why.contains("does not list v1 ConfigMap"), "{why}");
        assert!(remedy.contains("{apiVersion: v1, kind: ConfigMap}"), "{remedy}");
        assert_eq!(account("jane").map(|account| account.to_string()).as_deref(), Some("the user jane"));
        assert_eq!(account("a'b"), None);
    }

    #[test]
    fn kubevirt_is_read_as_the_policy_reads_it() {
        let kubevirt = KubeVirtInWords::read(&json!({
            "spec": {"configuration": {
                "developerConfiguration": {"featureGates": ["HostDevices"]},
                "permittedHostDevices": {"pciHostDevices": [{"resourceName": "a.b/c"}]},
            }},
            "status": {"observedKubeVirtVersion": "v1.7.0-150600.5.18.1"},
        }))
        .unwrap();
        assert_eq!(kubevirt.version().as_deref(), Some("v1.7.0"));
        assert!(kubevirt.is_before(8) && !kubevirt.is_before(7));
        assert_eq!(kubevirt.gate("HostDevices"), Ok(None));
        assert!(kubevirt.gate("Sidecar").unwrap_err().starts_with("KubeVirt's feature gate Sidecar is off"));
        assert!(kubevirt.does_not_permit("x.y/z") && !kubevirt.does_not_permit("a.b/c"));
        assert!(KubeVirtInWords::read(&json!([])).is_none());
    }
}
