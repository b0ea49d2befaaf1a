//! A cluster that runs: its policy, its VirtualMachines, and what the policy looks up.

pub mod checks;
pub mod kubectl;
pub mod lookups;
pub mod needs;
pub mod parallel;
pub mod permissions;
pub mod policy;
pub mod selector;
pub mod state;

use serde_json::Value;

use kubectl::{ApiError, Kubectl, encoded};

/// Which VirtualMachines are meant.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Their namespace; `None` for all.
    pub namespace: Option<String>,
    /// Their names; all if there are none.
    pub names: Vec<String>,
    /// A label selector, as kubectl takes it.
    pub selector: Option<String>,
}

/// The VirtualMachines of a cluster.
///
/// # Errors
/// [`ApiError`] if there is no VirtualMachine of a name, or the cluster does not answer.
pub fn virtual_machines(kubectl: &Kubectl, choice: &Choice) -> Result<Vec<Value>, ApiError> {
    let namespace = choice.namespace.as_ref().map(|namespace| format!("/namespaces/{namespace}"));
    let path = format!("/apis/kubevirt.io/v1{}/virtualmachines", namespace.unwrap_or_default());
    if !choice.names.is_empty() {
        return choice.names.iter().map(|name| kubectl.get(&format!("{path}/{name}"))).collect();
    }
    let query = choice.selector.as_ref().map(|selector| format!("labelSelector={}", encoded(selector)));
    kubectl.list(&path, &query.unwrap_or_default()).map_err(|error| match error {
        ApiError::NotFound(_) => ApiError::NotFound(
            "KubeVirt is not installed: the cluster does not serve virtualmachines.kubevirt.io".to_owned(),
        ),
        error => error,
    })
}

/// The labels of the namespaces, by their names.
///
/// # Errors
/// [`ApiError`] if the cluster does not answer.
pub fn namespaces(kubectl: &Kubectl) -> Result<Vec<(String, Value)>, ApiError> {
    let labels = |namespace: &Value| {
        let name = namespace["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        (name, namespace["metadata"]["labels"].clone())
    };
    Ok(kubectl.list("/api/v1/namespaces", "")?.iter().map(labels).collect())
}
