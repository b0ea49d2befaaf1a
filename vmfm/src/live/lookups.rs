//! Reads from a cluster what the policy looks up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use vm_feature_manager_policy::cluster::{CONFIG_MAP, Kind, Provider, SECRET};

use super::kubectl::{ApiError, Kubectl};
use super::needs::{Need, setting};
use super::parallel::parallel;
use super::permissions::{AT_ONCE, Permission, is_allowed, permissions};
use super::policy::Policy;
use crate::cluster::{Answer, Cluster, Faults, Source, granted_by, pruned};

/// The path of a kind in the API: of all its objects, of those in a namespace, or of one of them.
pub fn path(kind: &Kind, namespace: Option<&str>, name: Option<&str>) -> String {
    let root = if kind.group().is_empty() { "/api" } else { "/apis" };
    let namespace = namespace.map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
    let name = name.map(|name| format!("/{name}")).unwrap_or_default();
    format!("{root}/{}{namespace}/{}{name}", kind.api_version, kind.plural)
}

/// The namespace in which policy-server needs a permission; `None` for all.
pub fn namespace_of(kind: &Kind, settings: &Value) -> Option<String> {
    let is_kubevirt = kind.provider == Provider::KubeVirt;
    is_kubevirt.then(|| setting(settings, "kubevirt.namespace").as_str().unwrap_or_default().to_owned())
}

/// All objects of the kinds, by kind. A kind that the cluster does not serve has none.
///
/// # Errors
/// The first [`ApiError`].
pub fn objects(kubectl: &Kubectl, kinds: &[&'static Kind]) -> Result<Vec<Objects>, ApiError> {
    let lists = parallel(kinds, AT_ONCE, |kind| match kubectl.list(&path(kind, None, None), "") {
        Ok(objects) => Ok((*kind, Some(objects.iter().map(|object| of_use(kind, object)).collect()))),
        Err(ApiError::NotFound(_)) => Ok((*kind, None)),
        Err(error) => Err(error),
    });
    lists.into_iter().collect()
}

/// What the policy reads of an object: a tenth of it, and there may be thousands.
fn of_use(kind: &Kind, object: &Value) -> Value {
    let mut object = pruned(object, kind.fields);
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|key, _| ["labels", "name", "namespace"].contains(&key.as_str()));
    }
    object
}

/// The objects of a kind, or `None` if the cluster does not serve it.
pub type Objects = (&'static Kind, Option<Vec<Value>>);

/// The kinds of which each object is read only if a VirtualMachine names it. Whether policy-server may depends on the namespace.
const ON_DEMAND: [&Kind; 2] = [&CONFIG_MAP, &SECRET];

/// The cluster as policy-server sees it: the objects of the kinds, each list read once, and the permissions of its account.
///
/// # Errors
/// The first [`ApiError`].
pub fn cluster(kubectl: &Arc<Kubectl>, policy: &Policy, account: &str, needs: &[Need]) -> Result<Cluster, ApiError> {
    let settings = &policy.settings();
    let is_listed = |need: &&Need| !ON_DEMAND.contains(&need.kind) && need.kind.name != "SubjectAccessReview";
    let kinds: Vec<&'static Kind> = needs.iter().filter(is_listed).map(|need| need.kind).collect();
    let objects = objects(kubectl, &kinds)?;
    let asked: Vec<Need> = needs.iter().filter(|need| !ON_DEMAND.contains(&need.kind)).copied().collect();
    let permissions = permissions(kubectl, account, &asked, |kind| namespace_of(kind, settings))?;
    Ok(assembled(kubectl, policy, account, objects, &permissions))
}

/// The cluster as policy-server sees it, from objects that were read, and permissions that were asked for.
pub fn assembled(
    kubectl: &Arc<Kubectl>,
    policy: &Policy,
    account: &str,
    objects: Vec<Objects>,
    permissions: &[Permission],
) -> Cluster {
    let mut cluster = Cluster::default();
    for (kind, objects) in objects {
        let Some(objects) = objects else { continue };
        cluster.serve(kind.api_version);
        objects.into_iter().for_each(|object| cluster.add(object));
    }
    let is_missing = |permission: &&Permission| !permission.is_granted && !ON_DEMAND.contains(&permission.kind);
    let missing = permissions.iter().filter(is_missing);
    let faults = Faults {
        denied_verbs: missing.map(|missing| (missing.kind.name.to_owned(), missing.verb.to_owned())).collect(),
        account: Some(account.to_owned()),
        capabilities: None,
        ..granted_by(&policy.0["spec"])
    };
    let source = OnDemand { kubectl: Arc::clone(kubectl), account: account.to_owned(), known: Mutex::default() };
    cluster.with_source(Arc::new(source)).with_faults(faults)
}

/// ConfigMaps and Secrets: the few that VirtualMachines name are read, each once.
#[derive(Debug)]
struct OnDemand {
    kubectl: Arc<Kubectl>,
    account: String,
    known: Mutex<HashMap<String, Answer>>,
}

impl OnDemand {
    fn kind(name: &str) -> Option<&'static Kind> {
        ON_DEMAND.into_iter().find(|kind| kind.name == name)
    }

    fn look_up(&self, kind: &'static Kind, namespace: &str, name: &str) -> Answer {
        match is_allowed(&self.kubectl, &self.account, kind, "get", Some(namespace)) {
            Ok(true) => {}
            Ok(false) => return Answer::Denied,
            Err(_) => return Answer::Failed,
        }
        match self.kubectl.get(&path(kind, Some(namespace), Some(name))) {
            Ok(object) => Answer::Found(object),
            Err(ApiError::NotFound(_)) => Answer::Absent,
            Err(_) => Answer::Failed,
        }
    }
}

impl Source for OnDemand {
    fn has(&self, kind: &str) -> bool {
        Self::kind(kind).is_some()
    }

    fn get(&self, kind: &str, namespace: &str, name: &str) -> Answer {
        let Some(kind) = Self::kind(kind) else { return Answer::Absent };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = path(kind, Some(namespace), Some(name));
        known.entry(key).or_insert_with(|| self.look_up(kind, namespace, name)).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use vm_feature_manager_policy::cluster::{KUBEVIRT, NODE};

    #[test]
    fn paths_of_the_api() {
        assert_eq!(path(&NODE, None, None), "/api/v1/nodes");
        assert_eq!(path(&CONFIG_MAP, Some("a"), Some("rom")), "/api/v1/namespaces/a/configmaps/rom");
        assert_eq!(path(&KUBEVIRT, Some("a"), None), "/apis/kubevirt.io/v1/namespaces/a/kubevirts");
    }

    #[test]
    fn of_an_object_only_what_the_policy_reads_is_kept() {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "a", "labels": {"b": "c"}, "managedFields": [1], "annotations": {"d": "e"}},
            "spec": {"taints": [], "podCIDR": "x"}, "status": {"images": []},
        });
        let kept = of_use(&NODE, &node);
        assert_eq!(kept["metadata"], json!({"name": "a", "labels": {"b": "c"}}));
        assert_eq!((kept["spec"].get("taints"), kept["spec"].get("podCIDR")), (Some(&json!([])), None));
        assert_eq!(kept["status"].get("images"), None);
    }
}
