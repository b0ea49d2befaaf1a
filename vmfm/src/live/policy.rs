//! Finds the policy in a cluster, and the account and the pods of its policy-server.

use serde_json::Value;

use super::kubectl::{ApiError, Kubectl, encoded};
use crate::cluster::POLICY_SERVER;

/// The name that the manifests and the chart give the policy, and that of its module.
pub const NAME: &str = "vm-feature-manager";

/// The path of all ClusterAdmissionPolicies.
const POLICIES: &str = "/apis/policies.kubewarden.io/v1/clusteradmissionpolicies";

/// Why the policy is not found.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The cluster gives no answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The cluster has no ClusterAdmissionPolicies.
    #[error("Kubewarden is not installed: the cluster does not serve clusteradmissionpolicies.policies.kubewarden.io")]
    NoKubewarden,
    /// None of them is the policy.
    #[error(
        "no ClusterAdmissionPolicy is named {NAME}, or has a module of that name; the cluster has {0}; if one of them is the \
         policy, name it with --policy"
    )]
    None(String),
    /// Several may be the policy.
    #[error("several ClusterAdmissionPolicies have the module {NAME}: {0}; name one of them with --policy")]
    Several(String),
    /// There is no policy of the name that the user gave.
    #[error("there is no ClusterAdmissionPolicy {name}; the cluster has {others}")]
    NotNamed {
        /// The name.
        name: String,
        /// The policies that there are.
        others: String,
    },
}

/// The ClusterAdmissionPolicy.
#[derive(Debug, Clone)]
pub struct Policy(pub Value);

impl Policy {
    /// Finds the ClusterAdmissionPolicy: the one with this name, or the only one whose module, or whose own name, is
    /// `vm-feature-manager`.
    ///
    /// # Errors
    /// [`PolicyError`] if there is not exactly one.
    pub fn find(kubectl: &Kubectl, name: Option<&str>) -> Result<Self, PolicyError> {
        let policies = match kubectl.list(POLICIES, "") {
            Err(ApiError::NotFound(_)) => return Err(PolicyError::NoKubewarden),
            policies => policies?,
        };
        Self::choose(policies, name)
    }

    fn choose(policies: Vec<Value>, name: Option<&str>) -> Result<Self, PolicyError> {
        let names = |policies: &[Value]| {
            let names: Vec<_> = policies.iter().filter_map(|policy| policy["metadata"]["name"].as_str()).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        let is_it = |policy: &&Value| match name {
            Some(name) => policy["metadata"]["name"] == name,
            None => policy["metadata"]["name"] == NAME || is_module(policy["spec"]["module"].as_str().unwrap_or("")),
        };
        let found: Vec<Value> = policies.iter().filter(is_it).cloned().collect();
        match (<[Value; 1]>::try_from(found), name) {
            (Ok([policy]), _) => Ok(Self(policy)),
            (Err(found), None) if found.is_empty() => Err(PolicyError::None(names(&policies))),
            (Err(found), None) => Err(PolicyError::Several(names(&found))),
            (Err(_), Some(name)) => Err(PolicyError::NotNamed { name: name.to_owned(), others: names(&policies) }),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Its settings.
    pub fn settings(&self) -> Value {
        let settings = &self.0["spec"]["settings"];
        if settings.is_null() { Value::Object(serde_json::Map::new()) } else { settings.clone() }
    }

    /// Whether it changes VirtualMachines: it is active, and does not only watch.
    pub fn obstacle(&self) -> Option<String> {
        let (spec, status) = (&self.0["spec"], self.0["status"]["policyStatus"].as_str().unwrap_or("unknown"));
        if status != "active" {
            Some(format!("the policy {} is not active (its status is {status})", self.name()))
        } else if spec["mode"] == "monitor" {
            Some(format!("the policy {} is in mode monitor", self.name()))
        } else {
            None
        }
    }
}

/// Whether a module's address ends in the policy's name: `registry://ghcr.io/vm-feature-manager/policies/vm-feature-manager:v0.1.0`.
fn is_module(address: &str) -> bool {
    let last = address.rsplit('/').next().unwrap_or_default();
    last.split([':', '@']).next() == Some(NAME)
}

/// The policy-server that evaluates the policy.
#[derive(Debug, Clone, Default)]
pub struct PolicyServer {
    /// Its name.
    pub name: String,
    /// Its Deployments. There should be one.
    pub deployments: Vec<Value>,
}

impl PolicyServer {
    /// Finds the policy-server of a policy.
    ///
    /// # Errors
    /// [`ApiError`] if the cluster does not answer.
    pub fn find(kubectl: &Kubectl, policy: &Policy) -> Result<Self, ApiError> {
        let name = policy.0["spec"]["policyServer"].as_str().unwrap_or("default").to_owned();
        let query = format!("fieldSelector={}", encoded(&format!("metadata.name=policy-server-{name}")));
        let deployments = kubectl.list("/apis/apps/v1/deployments", &query)?;
        Ok(Self { name, deployments })
    }

    /// The namespace that its pods are in.
    pub fn namespace(&self) -> Option<&str> {
        self.deployments.first()?["metadata"]["namespace"].as_str()
    }

    /// The user name of the service account as which its pods run. If there is no Deployment, the settings name it.
    pub fn account(&self, settings: &Value) -> String {
        let of_settings = |key: &str, default| settings["policyServer"][key].as_str().unwrap_or(default).to_owned();
        let account = match self.deployments.first() {
            Some(deployment) => {
                let account = &deployment["spec"]["template"]["spec"]["serviceAccountName"];
                format!("{}:{}", self.namespace().unwrap_or_default(), account.as_str().unwrap_or("default"))
            }
            None => {
                format!("{}:{}", of_settings("namespace", "kubewarden"), of_settings("serviceAccount", "policy-server"))
            }
        };
        format!("{}{account}", POLICY_SERVER.trim_end_matches("kubewarden:policy-server"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn policy(name: &str, module: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"module": module}})
    }

    #[rstest]
    #[case::by_name(&[("vm-feature-manager", "file:///x.wasm"), ("b", "x/pod-privileged:v1")], None, Ok("vm-feature-manager"))]
    #[case::by_tag(&[("a", "registry://r/policies/vm-feature-manager:v0.1.0")], None, Ok("a"))]
    #[case::by_digest(&[("a", "registry://r:5000/vm-feature-manager@sha256:00")], None, Ok("a"))]
    #[case::named(&[("a", "r/vm-feature-manager"), ("b", "r/vm-feature-manager")], Some("b"), Ok("b"))]
    #[case::of_any_module(&[("a", "file:///x.wasm")], Some("a"), Ok("a"))]
    #[case::none(&[("a", "r/other-vm-feature-manager:v1")], None, Err("the cluster has a; if one"))]
    #[case::no_policies(&[], None, Err("the cluster has none"))]
    #[case::several(&[("a", "r/vm-feature-manager"), ("vm-feature-manager", "x")], None, Err("a, vm-feature-manager; name one"))]
    #[case::unknown_name(&[("a", "x")], Some("b"), Err("there is no ClusterAdmissionPolicy b; the cluster has a"))]
    fn the_policy_is_found(
        #[case] policies: &[(&str, &str)],
        #[case] name: Option<&str>,
        #[case] expected: Result<&str, &str>,
    ) {
        let policies = policies.iter().map(|(name, module)| policy(name, module)).collect();
        match (Policy::choose(policies, name), expected) {
            (Ok(policy), Ok(name)) => assert_eq!(policy.name(), name),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn the_account_is_that_of_the_pods() {
        let deployment = json!({
            "metadata": {"namespace": "cattle-kubewarden-system"},
            "spec": {"template": {"spec": {"serviceAccountName": "server"}}},
        });
        let server = PolicyServer { name: "default".into(), deployments: vec![deployment] };
        assert_eq!(server.account(&json!({})), "system:serviceaccount:cattle-kubewarden-system:server");
        let settings = json!({"policyServer": {"namespace": "a"}});
        assert_eq!(PolicyServer::default().account(&settings), "system:serviceaccount:a:policy-server");
        assert_eq!(PolicyServer::default().account(&json!({})), POLICY_SERVER);
    }
}
