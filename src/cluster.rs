//! What the policy may look up in the cluster, as the slim types that it needs, and how a lookup fails.
//! No feature is known here.

use std::cell::{OnceCell, RefCell};

use crate::json::{Json, Members, Shape, member};
use crate::names::SUBDOMAIN;
use crate::pci::PciAddress;
use crate::settings::{PolicyServer, Settings};

/// A kind of object that the policy may look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `v1`, `Node`.
    Node,
    /// `kubevirt.io/v1`, `KubeVirt`.
    KubeVirt,
    /// `devices.harvesterhci.io/v1beta1`, `PCIDevice`.
    PciDevice,
    /// `devices.harvesterhci.io/v1beta1`, `PCIDeviceClaim`.
    PciDeviceClaim,
    /// `v1`, `ConfigMap`.
    ConfigMap,
    /// `v1`, `Secret`.
    Secret,
}

/// What there is to know of a kind.
struct KindFacts {
    api_version: &'static str,
    kind: &'static str,
    group: &'static str,
    resource: &'static str,
    /// The fields that the policy reads, beside the metadata, which the host never cuts.
    fields: &'static [&'static str],
    /// What is read of an object.
    object: &'static Shape,
    /// What is read of a list.
    list: &'static Shape,
}

const METADATA: (&str, Shape) =
    ("metadata", Shape::Only(&[("name", Shape::Tree), ("labels", Shape::Tree)]));

static NODE: KindFacts = KindFacts {
    api_version: "v1",
    kind: "Node",
    group: "",
    resource: "nodes",
    // Labels are all that is read; a mask must name something.
    fields: &["status.phase"],
    object: &Shape::Only(&[METADATA]),
    list: &Shape::Only(&[("items", Shape::Items(&Shape::Only(&[METADATA])))]),
};

static KUBEVIRT: KindFacts = KindFacts {
    api_version: "kubevirt.io/v1",
    kind: "KubeVirt",
    group: "kubevirt.io",
    resource: "kubevirts",
    fields: &[
        "spec.configuration.developerConfiguration.featureGates",
        "spec.configuration.permittedHostDevices",
        "status.observedKubeVirtVersion",
    ],
    object: &Shape::Only(&[
        ("status", Shape::Only(&[("observedKubeVirtVersion", Shape::Tree)])),
        ("spec", Shape::Only(&[("configuration", CONFIGURATION)])),
    ]),
    list: &Shape::Text,
};

const CONFIGURATION: Shape = Shape::Only(&[
    ("developerConfiguration", Shape::Only(&[("featureGates", Shape::Tree)])),
    ("permittedHostDevices", Shape::Tree),
]);

const PCI_OBJECT: Shape = Shape::Only(&[METADATA, ("status", Shape::Tree)]);

static PCI_DEVICE: KindFacts = KindFacts {
    api_version: "devices.harvesterhci.io/v1beta1",
    kind: "PCIDevice",
    group: "devices.harvesterhci.io",
    resource: "pcidevices",
    fields: &["status"],
    object: &PCI_OBJECT,
    list: &Shape::Only(&[("items", Shape::Items(&PCI_OBJECT))]),
};

static PCI_DEVICE_CLAIM: KindFacts = KindFacts {
    kind: "PCIDeviceClaim",
    resource: "pcideviceclaims",
    fields: &["status.passthroughEnabled"],
    ..PCI_DEVICE
};

static CONFIG_MAP: KindFacts = KindFacts {
    api_version: "v1",
    kind: "ConfigMap",
    group: "",
    resource: "configmaps",
    fields: &["binaryData", "data"],
    object: &Shape::Only(&[
        ("binaryData", Shape::Object(&[("rom", Shape::Tree)])),
        ("data", Shape::Object(&[])),
    ]),
    list: &Shape::Text,
};

static SECRET: KindFacts = KindFacts {
    kind: "Secret",
    resource: "secrets",
    // The rest of the Secret stays with the host.
    fields: &["data.userdata", "data.userData", "data.user-data"],
    object: &Shape::Only(&[(
        "data",
        Shape::Only(&[
            ("userdata", Shape::Tree),
            ("userData", Shape::Tree),
            ("user-data", Shape::Tree),
        ]),
    )]),
    ..CONFIG_MAP
};

impl Kind {
    /// The API version and the name, as a manifest has them.
    pub fn api_version_and_kind(self) -> (&'static str, &'static str) {
        (self.facts().api_version, self.facts().kind)
    }

    /// The API group and the plural, as RBAC has them.
    pub fn group_and_resource(self) -> (&'static str, &'static str) {
        (self.facts().group, self.facts().resource)
    }

    fn facts(self) -> &'static KindFacts {
        match self {
            Kind::Node => &NODE,
            Kind::KubeVirt => &KUBEVIRT,
            Kind::PciDevice => &PCI_DEVICE,
            Kind::PciDeviceClaim => &PCI_DEVICE_CLAIM,
            Kind::ConfigMap => &CONFIG_MAP,
            Kind::Secret => &SECRET,
        }
    }
}

/// The cluster as the Kubewarden host offers it: JSON, or the text of an error.
pub trait Cluster {
    /// An object by its name, and its namespace if the kind has any.
    ///
    /// # Errors
    /// The host's text.
    fn get(&self, kind: Kind, name: &str, namespace: Option<&str>) -> Result<String, String>;

    /// A list of all objects of a kind. Without the right to list and watch it may never return.
    ///
    /// # Errors
    /// The host's text.
    fn list(&self, kind: Kind) -> Result<String, String>;

    /// Whether a service account may use the verb on all objects of a kind, as a `SubjectAccessReviewStatus`.
    ///
    /// # Errors
    /// The host's text.
    fn can_i(&self, account: &PolicyServer, verb: &str, kind: Kind) -> Result<String, String>;
}

/// A Kubernetes node.
#[derive(Debug)]
pub(crate) struct Node {
    labels: Vec<(String, String)>,
}

impl Node {
    /// The value of a label.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

/// The cluster's KubeVirt object: what it lets a VM have.
#[derive(Debug)]
pub(crate) struct KubeVirt {
    feature_gates: Vec<String>,
    device_resources: Vec<String>,
    observed_version: String,
}

impl KubeVirt {
    /// The tag that upstream gives the images of the running version: `v` and the version, without what a distribution
    /// put behind it.
    pub(crate) fn version(&self) -> Option<String> {
        let version = self.observed_version.strip_prefix('v').unwrap_or(&self.observed_version);
        let (core, suffix) = match version.split_once(['-', '+']) {
            Some((core, suffix)) => (core, Some(suffix)),
            None => (version, None),
        };
        let is_number = |part: &str| part.parse::<u32>().is_ok();
        if core.split('.').count() != 3 || !core.split('.').all(is_number) {
            return None;
        }
        let is_upstream = |suffix: &&str| {
            let stages = ["alpha.", "beta.", "rc."];
            stages.iter().any(|stage| suffix.strip_prefix(stage).is_some_and(is_number))
        };
        Some(match suffix.filter(is_upstream) {
            Some(suffix) => format!("v{core}-{suffix}"),
            None => format!("v{core}"),
        })
    }

    /// Whether a feature gate that is off by default is on.
    pub(crate) fn has_gate(&self, name: &str) -> bool {
        self.feature_gates.iter().any(|gate| gate == name)
    }

    /// Whether KubeVirt gives a guest a PCI or mediated device for the resource.
    pub(crate) fn serves_device(&self, resource: &str) -> bool {
        self.device_resources.iter().any(|name| name == resource)
    }
}

/// A PCI device of a node, as Harvester's add-on finds it.
#[derive(Debug, Clone)]
pub(crate) struct PciDevice {
    /// Its name, made of the node's name and the address; its claim has the same.
    pub(crate) name: String,
    pub(crate) address: Option<PciAddress>,
    pub(crate) node: String,
    /// The extended resource that stands for devices of its kind.
    pub(crate) resource_name: String,
    /// The devices of a node that can only be passed through together; empty if there are no others.
    pub(crate) iommu_group: String,
    /// Vendor and device id, as `8086:3e91`.
    pub(crate) ids: String,
}

/// A ConfigMap that should hold a ROM.
#[derive(Debug)]
pub(crate) struct ConfigMap {
    /// `binaryData.rom`, in base64.
    pub(crate) rom: Option<String>,
    /// Whether there is a `data.rom`, which cannot be one.
    pub(crate) has_text_rom: bool,
    /// Another key under `binaryData`.
    pub(crate) other_key: Option<String>,
}

/// Why a lookup failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    #[error("there is no such object")]
    NotFound,
    #[error("the cluster does not serve this kind of object")]
    KindNotServed,
    #[error("the policy has not been granted access")]
    NotGranted,
    #[error("the lookup failed for now")]
    Unavailable,
}

impl LookupError {
    /// What a text of the host means. Only its first line counts: a stack trace may follow.
    ///
    /// The texts are those of kubewarden's `policy-evaluator`, in `callback_handler` and `runtimes/callback.rs`.
    fn of_host(text: &str) -> Self {
        let line = text.lines().next().unwrap_or_default();
        let has = |part: &str| line.contains(part);
        if has("has not been granted access")
            || has("unknown operation")
            || has("unknown namespace")
        {
            LookupError::NotGranted
        } else if has("Cannot find resource ") || (has("error finding resource") && has("404")) {
            LookupError::KindNotServed
        } else if has("Cannot find ") && has(" named '") {
            LookupError::NotFound
        } else if has("is forbidden") || has("code: 403") {
            LookupError::NotGranted
        } else {
            LookupError::Unavailable
        }
    }
}

/// The lookups of one request: typed, guarded, and those that features share made only once.
pub(crate) struct Lookups<'c> {
    cluster: &'c dyn Cluster,
    settings: &'c Settings,
    kubevirt: OnceCell<Result<KubeVirt, LookupError>>,
    /// The PCI devices that a feature has looked up by their names.
    named_pci_devices: RefCell<Vec<PciDevice>>,
    pci_devices: OnceCell<Result<Vec<PciDevice>, LookupError>>,
    /// The user data of Secrets, by their names.
    user_data: RefCell<Vec<(String, UserDataOfSecret)>>,
}

/// A Secret's user data, in base64; `None` where it has none.
pub(crate) type UserDataOfSecret = Result<Option<String>, LookupError>;

impl<'c> Lookups<'c> {
    pub(crate) fn new(cluster: &'c dyn Cluster, settings: &'c Settings) -> Self {
        Self {
            cluster,
            settings,
            kubevirt: OnceCell::new(),
            named_pci_devices: RefCell::default(),
            pci_devices: OnceCell::new(),
            user_data: RefCell::default(),
        }
    }

    /// The cluster's one KubeVirt object.
    pub(crate) fn kubevirt(&self) -> Result<&KubeVirt, LookupError> {
        let place = &self.settings.kubevirt;
        let get = || self.get(Kind::KubeVirt, &place.name, Some(&place.namespace), to_kubevirt);
        self.kubevirt.get_or_init(get).as_ref().map_err(|error| *error)
    }

    /// A node by its name.
    pub(crate) fn node(&self, name: &str) -> Result<Node, LookupError> {
        self.get(Kind::Node, name, None, to_node)
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> Result<Vec<Node>, LookupError> {
        self.list(Kind::Node, to_node)
    }

    /// A PCI device by its name.
    pub(crate) fn pci_device(&self, name: &str) -> Result<PciDevice, LookupError> {
        let named = self.named_pci_devices.borrow();
        let listed = self.pci_devices.get().and_then(|list| list.as_ref().ok());
        let mut known = named.iter().chain(listed.into_iter().flatten());
        if let Some(device) = known.find(|device| device.name == name) {
            return Ok(device.clone());
        }
        drop(named);
        let device = self.get(Kind::PciDevice, name, None, to_pci_device)?;
        self.named_pci_devices.borrow_mut().push(device.clone());
        Ok(device)
    }

    /// The PCI devices of all nodes.
    pub(crate) fn pci_devices(&self) -> Result<&[PciDevice], LookupError> {
        let list = self.pci_devices.get_or_init(|| self.list(Kind::PciDevice, to_pci_device));
        list.as_deref().map_err(|error| *error)
    }

    /// The ConfigMap of a ROM.
    pub(crate) fn config_map(&self, name: &str, namespace: &str) -> Result<ConfigMap, LookupError> {
        self.get(Kind::ConfigMap, name, Some(namespace), to_config_map)
    }

    /// The user data of a Secret, under the first of the keys that KubeVirt and cloud-init know.
    pub(crate) fn user_data(&self, secret: &str, namespace: &str) -> UserDataOfSecret {
        if let Some((_, known)) = self.user_data.borrow().iter().find(|(name, _)| name == secret) {
            return known.clone();
        }
        let user_data = self.get(Kind::Secret, secret, Some(namespace), to_user_data);
        self.user_data.borrow_mut().push((secret.to_owned(), user_data.clone()));
        user_data
    }

    /// Whether the PCI device of the name is claimed for passthrough.
    pub(crate) fn is_claimed(&self, name: &str) -> Result<bool, LookupError> {
        match self.get(Kind::PciDeviceClaim, name, None, to_claim) {
            Ok(claim) => Ok(claim.is_some()),
            Err(LookupError::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The names of all PCI devices that are claimed for passthrough.
    pub(crate) fn claimed(&self) -> Result<Vec<String>, LookupError> {
        Ok(self.list(Kind::PciDeviceClaim, to_claim)?.into_iter().flatten().collect())
    }

    /// Looks an object up. A name that no object can have is not asked for: the host makes a URL of it.
    fn get<T>(
        &self,
        kind: Kind,
        name: &str,
        namespace: Option<&str>,
        convert: impl Fn(&Json<'_>) -> T,
    ) -> Result<T, LookupError> {
        if !SUBDOMAIN.allows(name) {
            return Err(LookupError::NotFound);
        }
        let text =
            self.cluster.get(kind, name, namespace).map_err(|text| LookupError::of_host(&text))?;
        let json = Json::parse(&text, kind.facts().object).map_err(|_| LookupError::Unavailable)?;
        Ok(convert(&json))
    }

    fn list<T>(&self, kind: Kind, convert: impl Fn(&Json<'_>) -> T) -> Result<Vec<T>, LookupError> {
        self.guard(kind)?;
        let text = self.cluster.list(kind).map_err(|text| LookupError::of_host(&text))?;
        let json = Json::parse(&text, kind.facts().list).map_err(|_| LookupError::Unavailable)?;
        match json.get("items") {
            Some(Json::Array(items)) => Ok(items.iter().map(convert).collect()),
            _ => Err(LookupError::Unavailable),
        }
    }

    /// That policy-server may list and watch the kind. A list without that right never returns, and takes one of
    /// policy-server's workers with it (kubewarden/adm-controller, issue 1320).
    fn guard(&self, kind: Kind) -> Result<(), LookupError> {
        static STATUS: Shape = Shape::Only(&[("allowed", Shape::Tree)]);
        for verb in ["list", "watch"] {
            let answer = self.cluster.can_i(&self.settings.policy_server, verb, kind);
            let answer = answer.map_err(|text| LookupError::of_host(&text))?;
            let status = Json::parse(&answer, &STATUS).map_err(|_| LookupError::Unavailable)?;
            if !matches!(status.get("allowed"), Some(Json::Bool(true))) {
                return Err(LookupError::NotGranted);
            }
        }
        Ok(())
    }
}

/// The text at the path; empty where there is none.
fn text(json: &Json<'_>, path: &[&str]) -> String {
    json.at(path).and_then(Json::as_str).unwrap_or_default().to_owned()
}

fn to_node(json: &Json<'_>) -> Node {
    let labels = json.at(&["metadata", "labels"]).map(Json::members).unwrap_or_default();
    Node {
        labels: labels
            .iter()
            .map(|(key, value)| {
                (key.as_ref().to_owned(), value.as_str().unwrap_or_default().to_owned())
            })
            .collect(),
    }
}

fn to_kubevirt(json: &Json<'_>) -> KubeVirt {
    let configuration = |path: &[&str]| {
        json.at(&["spec", "configuration"]).and_then(|json| json.at(path)).map(Json::items)
    };
    let gates = configuration(&["developerConfiguration", "featureGates"]).unwrap_or_default();
    let devices = ["pciHostDevices", "mediatedDevices"]
        .into_iter()
        .flat_map(|list| configuration(&["permittedHostDevices", list]).unwrap_or_default());
    KubeVirt {
        feature_gates: gates.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        observed_version: text(json, &["status", "observedKubeVirtVersion"]),
        device_resources: devices.map(|device| text(device, &["resourceName"])).collect(),
    }
}

fn to_pci_device(json: &Json<'_>) -> PciDevice {
    let status = |key: &str| text(json, &["status", key]);
    PciDevice {
        name: text(json, &["metadata", "name"]),
        address: status("address").parse().ok(),
        node: status("nodeName"),
        resource_name: status("resourceName"),
        iommu_group: status("iommuGroup"),
        ids: format!("{}:{}", status("vendorId"), status("deviceId")),
    }
}

fn to_config_map(json: &Json<'_>) -> ConfigMap {
    let keys = json.get("binaryData").map(Json::members).unwrap_or_default();
    ConfigMap {
        rom: json.at(&["binaryData", "rom"]).and_then(Json::as_str).map(str::to_owned),
        has_text_rom: json.at(&["data", "rom"]).is_some(),
        other_key: keys.first().map(|(key, _)| key.as_ref().to_owned()),
    }
}

fn to_user_data(json: &Json<'_>) -> Option<String> {
    let keys = ["userdata", "userData", "user-data"];
    let mut texts = keys.into_iter().filter_map(|key| json.at(&["data", key])?.as_str());
    texts.find(|text| !text.is_empty()).map(str::to_owned)
}

/// The name of a claim for which passthrough is on.
fn to_claim(json: &Json<'_>) -> Option<String> {
    let is_on = matches!(json.at(&["status", "passthroughEnabled"]), Some(Json::Bool(true)));
    is_on.then(|| text(json, &["metadata", "name"]))
}

/// The cluster behind the Kubewarden host's capability `kubernetes`.
///
/// The requests are those of the SDK's `host_capabilities::kubernetes` on the wire. The SDK's own types own their texts and
/// need `k8s-openapi`, and its functions read answers into typed trees; the policy reads parts of the answer's text.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HostCluster;

impl Cluster for HostCluster {
    fn get(&self, kind: Kind, name: &str, namespace: Option<&str>) -> Result<String, String> {
        let KindFacts { api_version, kind, fields, .. } = kind.facts();
        let namespace = namespace.map_or(Json::Null, Json::from);
        let request = vec![
            member("api_version", *api_version),
            member("kind", *kind),
            member("name", name),
            member("namespace", namespace),
            member("disable_cache", Json::Bool(false)),
            member("field_masks", *fields),
        ];
        call("get_resource", request)
    }

    fn list(&self, kind: Kind) -> Result<String, String> {
        let KindFacts { api_version, kind, fields, .. } = kind.facts();
        let request = vec![
            member("api_version", *api_version),
            member("kind", *kind),
            member("label_selector", Json::Null),
            member("field_selector", Json::Null),
            member("field_masks", *fields),
        ];
        call("list_resources_all", request)
    }

    fn can_i(&self, account: &PolicyServer, verb: &str, kind: Kind) -> Result<String, String> {
        let PolicyServer { namespace, service_account } = account;
        let KindFacts { group, resource, .. } = kind.facts();
        // Without the groups, rights that are bound to one would not count.
        let of_namespace = format!("system:serviceaccounts:{namespace}");
        let groups = ["system:serviceaccounts", &of_namespace, "system:authenticated"];
        let attributes =
            vec![member("group", *group), member("resource", *resource), member("verb", verb)];
        let review = vec![
            member("user", format!("system:serviceaccount:{namespace}:{service_account}")),
            member("groups", &groups[..]),
            member("resource_attributes", Json::Object(attributes)),
        ];
        let request = vec![
            member("subject_access_review", Json::Object(review)),
            member("disable_cache", Json::Bool(false)),
        ];
        call("can_i", request)
    }
}

/// Calls the host.
fn call(operation: &str, request: Members<'_>) -> Result<String, String> {
    let request = Json::Object(request).to_text();
    let answer = wapc_guest::host_call("kubewarden", "kubernetes", operation, request.as_bytes());
    let answer = answer.map_err(|error| error.to_string())?;
    String::from_utf8(answer).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const SERVICE_ERROR: &str = "Host error: Callback evaluation failure: ServiceError: client error (Connect)\n\n\
        Caused by:\n    0: client error (Connect)\n    1: tcp connect error\n    2: Connection refused (os error 111)";

    const BACKTRACE: &str = "Host error: Callback evaluation failure: Cannot find v1/ConfigMap named 'missing' inside of \
        namespace 'Some(\"ns1\")'\n\nStack backtrace:\n   0: is forbidden::code: 403\n   1: has not been granted access";

    #[rstest]
    #[case::object(
        "Host error: Callback evaluation failure: Cannot find v1/ConfigMap named 'missing' inside of namespace \
         'Some(\"ns1\")'",
        LookupError::NotFound
    )]
    #[case::object_of_cluster_scope(
        "Host error: Callback evaluation failure: Cannot find v1/Node named 'missing' inside of namespace 'None'",
        LookupError::NotFound
    )]
    #[case::object_with_backtrace(BACKTRACE, LookupError::NotFound)]
    #[case::kind_of_a_group(
        "Host error: Callback evaluation failure: Cannot find resource kubevirt.io/v1/Nope",
        LookupError::KindNotServed
    )]
    #[case::group(
        "Host error: Callback evaluation failure: error finding resource kubevirt.io/v1 / KubeVirt: ApiError: 404 page \
         not found\n: Failed to parse error data (Status { status: Some(Failure), code: 404, message: \"404 page not \
         found\\n\" })",
        LookupError::KindNotServed
    )]
    #[case::discovery_forbidden(
        "Host error: Callback evaluation failure: error finding resource kubevirt.io/v1 / KubeVirt: ApiError: is \
         forbidden: Forbidden (Status { code: 403 })",
        LookupError::NotGranted
    )]
    #[case::allow_list(
        "Host error: Policy has not been granted access to Kubernetes v1/Secret resources. The violation has been \
         reported.",
        LookupError::NotGranted
    )]
    #[case::host_capability(
        "Host error: Policy has not been granted access to the 'kubernetes/get_resource' host capability. The violation \
         has been reported.",
        LookupError::NotGranted
    )]
    #[case::rbac(
        "Host error: Callback evaluation failure: ApiError: configmaps \"x\" is forbidden: User \
         \"system:serviceaccount:kubewarden:policy-server\" cannot get resource \"configmaps\" in API group \"\" in the \
         namespace \"ns1\": Forbidden (Status { status: Some(Failure), code: 403 })\n\nCaused by:\n    configmaps \"x\" \
         is forbidden",
        LookupError::NotGranted
    )]
    #[case::unreachable(SERVICE_ERROR, LookupError::Unavailable)]
    #[case::no_namespace(
        "Host error: Callback evaluation failure: Resource v1/ConfigMap is namespaced, but no namespace was provided",
        LookupError::Unavailable
    )]
    #[case::no_client(
        "Host error: Callback evaluation failure: kube::Client was not initialized properly",
        LookupError::Unavailable
    )]
    #[case::old_host("Host error: unknown operation: can_i", LookupError::NotGranted)]
    #[case::older_host("Host error: unknown namespace: kubernetes", LookupError::NotGranted)]
    #[case::something_else_that_is_not_found(
        "Host error: Callback evaluation failure: Cannot find the kubeconfig",
        LookupError::Unavailable
    )]
    #[case::something_else_that_has_a_name(
        "Host error: Callback evaluation failure: the worker named 'w' is gone",
        LookupError::Unavailable
    )]
    #[case::overload(
        "Host error: Error sending request over callback channel: Full(..)",
        LookupError::Unavailable
    )]
    #[case::replay(
        "Host error: Callback evaluation failure: the list of recorded responses is empty",
        LookupError::Unavailable
    )]
    #[case::other_replay(
        "Host error: Callback evaluation failure: Replay error: unexpected request. Was expecting A, got B instead",
        LookupError::Unavailable
    )]
    #[case::nothing("", LookupError::Unavailable)]
    fn texts_of_the_host(#[case] text: &str, #[case] error: LookupError) {
        assert_eq!(LookupError::of_host(text), error);
        let wrapped = format!("error invoking host capability kubernetes.get_resource: {text}");
        assert_eq!(LookupError::of_host(&wrapped), error, "as the SDK wraps it");
    }
}
