//! The cluster that the targets ask: that of two examples, and the Secret of the VirtualMachine.

use std::sync::LazyLock;

use serde_json::{Value, json};
use vm_feature_manager_policy::cluster::{Account, Cluster, ClusterError, Kind};

use crate::SECRET;

/// Answers every lookup from objects that never change.
pub(crate) struct FixedCluster;

static OBJECTS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let files = [
        include_str!("../../examples/harvester/cluster/cluster.yaml"),
        include_str!("../../examples/vbios/cluster/cluster.yaml"),
        include_str!("../../examples/vbios/cluster/rom.yaml"),
    ];
    let of_file = |file| serde_saphyr::from_multiple::<Value>(file).expect("YAML");
    let mut objects: Vec<Value> = files.into_iter().flat_map(of_file).collect();
    let user_data = format!("#cloud-config\npassword: {SECRET}\nx_kubevirt_features: {{}}\n");
    objects.push(json!({
        "kind": "Secret", "metadata": {"name": "igpu-vm-8hq2m", "namespace": "default"},
        "data": {"userdata": base64(user_data.as_bytes())},
    }));
    objects
});

impl FixedCluster {
    fn of_kind(kind: Kind) -> impl Iterator<Item = &'static Value> {
        let (_, name) = kind.api_version_and_kind();
        OBJECTS.iter().filter(move |object| object["kind"] == name)
    }
}

impl Cluster for FixedCluster {
    fn get(&self, kind: Kind, name: &str, namespace: Option<&str>) -> Result<String, ClusterError> {
        if kind == Kind::SubjectAccessReview {
            let account = Account::of_service_account("kubewarden", "policy-server");
            return Err(ClusterError::Forbidden(Some(account)));
        }
        let is_it = |object: &&Value| {
            let metadata = &object["metadata"];
            metadata["name"] == name && metadata["namespace"].as_str() == namespace
        };
        let object = Self::of_kind(kind).find(is_it);
        object.map(Value::to_string).ok_or(ClusterError::NotFound)
    }

    fn list(&self, kind: Kind) -> Result<String, ClusterError> {
        Ok(json!({"items": Self::of_kind(kind).collect::<Vec<_>>()}).to_string())
    }

    fn can_i(&self, _: &Account, _: &'static str, _: Kind) -> Result<String, ClusterError> {
        Ok(json!({"allowed": true}).to_string())
    }
}

/// Standard base64, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
