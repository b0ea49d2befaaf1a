//! A cluster in memory.

use std::cell::RefCell;

use kubewarden_policy_sdk::host_capabilities::kubernetes::{CanIRequest, GetResourceRequest, ListAllResourcesRequest};
use serde_json::{Map, Value, json};
use vm_feature_manager_policy::cluster::{Account, Cluster, ClusterError, KINDS, Kind, SUBJECT_ACCESS_REVIEW};

/// The account of policy-server, if it is installed with Kubewarden's own charts.
pub const KUBEWARDEN: &str = "system:serviceaccount:kubewarden:policy-server";
/// The account of policy-server, if Rancher installs it.
pub const RANCHER: &str = "system:serviceaccount:cattle-kubewarden-system:policy-server";

/// A cluster in memory. Its policy-server runs as one account, and the same or another account has the permissions. A
/// default cluster is empty and grants no permissions.
pub struct MemoryCluster {
    objects: Option<Vec<Value>>,
    errors: Vec<(&'static Kind, ClusterError)>,
    cannot: Vec<(&'static Kind, &'static str)>,
    account: &'static str,
    granted: &'static str,
    readers: Vec<&'static str>,
    /// The lookups, such as `get Node a` or `list Node`.
    pub lookups: RefCell<Vec<String>>,
    /// The questions to `can_i`, as `account verb resource`.
    pub reviews: RefCell<Vec<String>>,
}

impl Default for MemoryCluster {
    fn default() -> Self {
        Self {
            objects: None,
            errors: Vec::new(),
            cannot: Vec::new(),
            account: KUBEWARDEN,
            granted: KUBEWARDEN,
            readers: Vec::new(),
            lookups: RefCell::default(),
            reviews: RefCell::default(),
        }
    }
}

impl MemoryCluster {
    /// A cluster with these objects. policy-server may look up everything.
    pub fn of(objects: Vec<Value>) -> Self {
        Self { objects: Some(objects), ..Self::default() }
    }

    /// A cluster with nodes that have these names and labels.
    pub fn with_nodes(nodes: &[(&str, &[&str])]) -> Self {
        let node = |(name, labels): &(&str, &[&str])| {
            let mut labels: Map<_, _> = labels.iter().map(|label| ((*label).to_owned(), json!("true"))).collect();
            labels.insert("kubernetes.io/hostname".to_owned(), json!(name));
            labels.insert("kubevirt.io/schedulable".to_owned(), json!("true"));
            json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
            })
        };
        Self::of(nodes.iter().map(node).collect())
    }

    /// Makes every lookup of the kind fail.
    pub fn failing(mut self, kind: &'static Kind, error: ClusterError) -> Self {
        self.errors.push((kind, error));
        self
    }

    /// Makes policy-server run as one account, and gives the permissions to the same or another account.
    pub fn run_as(mut self, account: &'static str, granted: &'static str) -> Self {
        (self.account, self.granted) = (account, granted);
        self
    }

    /// Gives another user the permission to read everything.
    pub fn readable_by(mut self, user: &'static str) -> Self {
        self.readers.push(user);
        self
    }

    /// Removes the permission for this verb and kind.
    pub fn without(mut self, verb: &'static str, kind: &'static Kind) -> Self {
        self.cannot.push((kind, verb));
        self
    }

    /// Adds a PCI device that is equal to another, and a claim for it.
    pub fn with_equal(mut self, name: &str, new_name: &str, address: &str) -> Self {
        for kind in ["PCIDevice", "PCIDeviceClaim"] {
            let mut equal = self.object(kind, name).clone();
            equal["metadata"]["name"] = json!(new_name);
            equal["status"]["address"] = json!(address);
            self.objects.iter_mut().for_each(|objects| objects.push(equal.clone()));
        }
        self
    }

    /// Adds an object.
    pub fn with(mut self, object: Value) -> Self {
        self.objects.iter_mut().for_each(|objects| objects.push(object.clone()));
        self
    }

    pub fn object(&mut self, kind: &str, name: &str) -> &mut Value {
        let objects = self.objects.iter_mut().flatten();
        let mut found = objects.filter(|o| o["kind"] == kind && o["metadata"]["name"] == name);
        found.next().unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    /// Removes an object.
    pub fn without_object(mut self, kind: &str, name: &str) -> Self {
        let objects = self.objects.iter_mut();
        objects.for_each(|objects| objects.retain(|o| o["kind"] != kind || o["metadata"]["name"] != name));
        self
    }

    fn may(&self, account: &str, verb: &str, kind: &Kind) -> bool {
        let cannot = self.cannot.iter().any(|(k, v)| *k == kind && *v == verb);
        (account == self.granted || self.readers.contains(&account)) && !cannot
    }

    fn of_kind(&self, kind: &Kind) -> Result<Vec<&Value>, ClusterError> {
        if let Some((_, error)) = self.errors.iter().find(|(k, _)| *k == kind) {
            return Err(error.clone());
        }
        let objects = self.objects.as_ref().ok_or(ClusterError::NotDeclared)?;
        Ok(objects.iter().filter(|object| object["kind"] == kind.name).collect())
    }
}

/// The kind with this API version and name.
fn kind(api_version: &str, name: &str) -> &'static Kind {
    let is_it = |kind: &&Kind| kind.api_version == api_version && kind.name == name;
    KINDS.into_iter().find(is_it).unwrap_or_else(|| panic!("no kind {api_version} {name}"))
}

impl Cluster for MemoryCluster {
    fn get(&self, request: &GetResourceRequest) -> Result<Vec<u8>, ClusterError> {
        let GetResourceRequest { name, namespace, .. } = request;
        let kind = kind(&request.api_version, &request.kind);
        self.lookups.borrow_mut().push(format!("get {} {name}", kind.name));
        let objects = self.of_kind(kind)?;
        if *kind == SUBJECT_ACCESS_REVIEW || !self.may(self.account, "get", kind) {
            return Err(ClusterError::Forbidden(Account::of_user(self.account)));
        }
        let is_it = |object: &&&Value| {
            let metadata = &object["metadata"];
            metadata["name"] == *name && metadata["namespace"].as_str() == namespace.as_deref()
        };
        objects.iter().find(is_it).map(|o| o.to_string().into_bytes()).ok_or(ClusterError::NotFound)
    }

    fn list(&self, request: &ListAllResourcesRequest) -> Result<Vec<u8>, ClusterError> {
        let kind = kind(&request.api_version, &request.kind);
        let may = |verb| self.may(self.account, verb, kind);
        assert!(may("list") && may("watch"), "this list would never return");
        self.lookups.borrow_mut().push(format!("list {}", kind.name));
        Ok(json!({"metadata": {}, "items": self.of_kind(kind)?}).to_string().into_bytes())
    }

    fn can_i(&self, request: &CanIRequest) -> Result<Vec<u8>, ClusterError> {
        let review = &request.subject_access_review;
        let attributes = &review.resource_attributes;
        let (user, verb, resource) = (&review.user, &attributes.verb, &attributes.resource);
        let group = attributes.group.as_deref().unwrap_or_default();
        let name = attributes.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        self.reviews.borrow_mut().push(format!("{user} {verb} {resource}.{group}{name}"));
        let kind = KINDS.into_iter().find(|kind| kind.plural == resource && kind.group() == group);
        let granted = self.objects.is_some() && kind.is_some_and(|kind| self.may(user, verb, kind));
        Ok(json!({"allowed": granted, "reason": "a test"}).to_string().into_bytes())
    }
}
