//! Looks things up in the cluster, for one request. This module knows no feature.

pub mod access;
mod error;
mod harvester;
mod host;
mod kind;
mod kubernetes;
mod kubevirt;
mod object;
pub mod words;

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use k8s_openapi::api::authorization::v1::SubjectAccessReviewStatus;
use kubewarden_policy_sdk::host_capabilities::kubernetes::{
    CanIRequest, GetResourceRequest, ListAllResourcesRequest, ResourceAttributes, SubjectAccessReview,
};

use crate::json;
use crate::settings::GeneralSettings;
use crate::values::name::SUBDOMAIN;
pub(crate) use error::LookupError;
pub use error::{Account, ClusterError};
pub(crate) use harvester::{Claim, HostDevice};
pub use harvester::{PCI_DEVICE, PCI_DEVICE_CLAIM, USB_DEVICE, USB_DEVICE_CLAIM};
pub(crate) use host::HostCluster;
pub use kind::{Kind, Provider};
pub(crate) use kubernetes::{AMD64, ARCHITECTURE_LABEL, ConfigMap, HOSTNAME_LABEL, Node, Taint, UserDataSecret};
pub use kubernetes::{CONFIG_MAP, NODE, SECRET, SUBJECT_ACCESS_REVIEW};
pub use kubevirt::KUBEVIRT;
pub(crate) use kubevirt::{Gate, GateError, KubeVirt};
use object::Object;

/// All kinds that the policy may look up.
pub const KINDS: [&Kind; 9] = [
    &NODE,
    &KUBEVIRT,
    &PCI_DEVICE,
    &PCI_DEVICE_CLAIM,
    &USB_DEVICE,
    &USB_DEVICE_CLAIM,
    &CONFIG_MAP,
    &SECRET,
    &SUBJECT_ACCESS_REVIEW,
];

/// The cluster, as the Kubewarden host offers it. Answers are JSON.
pub trait Cluster {
    /// One object by its name, and by its namespace if the kind has namespaces.
    ///
    /// # Errors
    /// Any [`ClusterError`].
    fn get(&self, request: &GetResourceRequest) -> Result<Vec<u8>, ClusterError>;

    /// A list of all objects of a kind. The call never returns if policy-server lacks the permission to list or watch.
    ///
    /// # Errors
    /// Any [`ClusterError`] except `NotFound` and `Forbidden`.
    fn list(&self, request: &ListAllResourcesRequest) -> Result<Vec<u8>, ClusterError>;

    /// Whether a user or group may do something, as a `SubjectAccessReviewStatus`.
    ///
    /// # Errors
    /// Any [`ClusterError`]; `Forbidden` if the policy may not ask.
    fn can_i(&self, request: &CanIRequest) -> Result<Vec<u8>, ClusterError>;
}

/// The name of the object that the policy asks for to be refused. policy-server logs the refusal as an error, with this name.
const REFUSED: &str = "this-refusal-is-expected.vm-feature-manager.io";

/// The name of the object that the policy asks for although it does not exist. policy-server logs that, too.
const ABSENT: &str = "this-absence-is-expected.vm-feature-manager.io";

/// Devices by their names.
pub(crate) type Devices = BTreeMap<String, Rc<HostDevice>>;

/// The lookups of one request. Each is made and parsed only once, and a list only after a check of permissions.
pub(crate) struct Lookups<'c> {
    cluster: &'c dyn Cluster,
    settings: &'c GeneralSettings,
    answers: RefCell<Vec<(Query, Answer)>>,
}

/// A query for an object, or for all objects of the kind if it has no name.
///
/// The name is compared first, because most queries differ in it.
#[derive(Clone, PartialEq)]
struct Query {
    name: Option<String>,
    namespace: Option<String>,
    kind: &'static Kind,
}

/// An object, or a vector of all objects, in the type that the caller asked for.
type Answer = Result<Rc<dyn Any>, LookupError>;

impl Query {
    fn one(kind: &'static Kind, name: &str, namespace: Option<&str>) -> Self {
        Self { kind, name: Some(name.to_owned()), namespace: namespace.map(str::to_owned) }
    }

    fn all(kind: &'static Kind) -> Self {
        Self { kind, name: None, namespace: None }
    }

    fn failed(&self, cause: ClusterError) -> LookupError {
        let verbs = if self.name.is_some() { "get" } else { "list and watch" };
        LookupError { cause, kind: self.kind, verbs, name: self.name.clone(), namespace: self.namespace.clone() }
    }
}

impl<'c> Lookups<'c> {
    pub(crate) fn new(cluster: &'c dyn Cluster, settings: &'c GeneralSettings) -> Self {
        Self { cluster, settings, answers: RefCell::default() }
    }

    /// The cluster's only KubeVirt object.
    pub(crate) fn kubevirt(&self) -> Result<Rc<KubeVirt>, LookupError> {
        let place = &self.settings.kubevirt;
        self.get(&KUBEVIRT, place.name.as_str(), Some(place.namespace.as_str()))
    }

    /// Checks that a feature gate of KubeVirt is on, if policy-server may read its object. If it is not known, a warning says
    /// so.
    pub(crate) fn check_gate(&self, gate: &'static str) -> Result<Option<String>, GateError> {
        self.kubevirt().map_or(Ok(None), |kubevirt| kubevirt.require_gate(gate))
    }

    /// Checks a feature gate that KubeVirt 1 needs only before this minor version.
    pub(crate) fn check_gate_before(&self, minor: u32, gate: &'static str) -> Result<(), GateError> {
        match self.kubevirt() {
            Ok(kubevirt) if kubevirt.is_before(minor) => kubevirt.require_gate(gate).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// The claim for the device of this name, if there is one. `kind` is the kind of the claim.
    pub(crate) fn claim(&self, kind: &'static Kind, name: &str) -> Result<Option<Rc<Claim>>, LookupError> {
        match self.get(kind, name, None) {
            Ok(claim) => Ok(Some(claim)),
            Err(LookupError { cause: ClusterError::NotFound, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks up an object of the kind.
    pub(crate) fn get<T>(&self, kind: &'static Kind, name: &str, namespace: Option<&str>) -> Result<Rc<T>, LookupError>
    where
        T: Object,
    {
        self.once(Query::one(kind, name, namespace), |answer| object::read(kind, text_of(answer)?))
    }

    /// Looks up all objects of a kind.
    pub(crate) fn list<T: Object>(&self, kind: &'static Kind) -> Result<Vec<Rc<T>>, LookupError> {
        let all: Rc<Vec<Rc<T>>> = self.once(Query::all(kind), |answer| object::read_list(kind, text_of(answer)?))?;
        Ok(all.to_vec())
    }

    /// Looks up all devices, and returns them by their names. `kind` is PCIDevice or USBDevice.
    pub(crate) fn devices(&self, kind: &'static Kind) -> Result<Rc<Devices>, LookupError> {
        self.once(Query::all(kind), |answer| {
            let mut devices = Devices::new();
            for device in object::read_list::<HostDevice>(kind, text_of(answer)?)? {
                devices.insert(device.name().to_owned(), device);
            }
            Some(devices)
        })
    }

    /// All objects of a kind, if they were looked up before.
    pub(crate) fn listed<T: Object>(&self, kind: &'static Kind) -> Vec<Rc<T>> {
        let is_listed = matches!(self.known(&Query::all(kind)), Some(Ok(_)));
        if is_listed { self.list(kind).unwrap_or_default() } else { Vec::new() }
    }

    /// A device by its name, taken from all devices if these were looked up. `kind` is PCIDevice or USBDevice.
    pub(crate) fn device(&self, kind: &'static Kind, name: &str) -> Result<Rc<HostDevice>, LookupError> {
        let is_listed = matches!(self.known(&Query::all(kind)), Some(Ok(_)));
        let listed = if is_listed { self.devices(kind)? } else { Rc::default() };
        listed.get(name).map_or_else(|| self.get(kind, name, None), |device| Ok(Rc::clone(device)))
    }

    /// Answers a query from the answers so far, or looks it up. `read` reads the host's answer, if it can be read.
    fn once<T: 'static>(&self, query: Query, read: impl FnOnce(&[u8]) -> Option<T>) -> Result<Rc<T>, LookupError> {
        let answer = self.known(&query).unwrap_or_else(|| {
            let answer = self.look_up(&query);
            let answer = answer.and_then(|json| read(&json).ok_or_else(|| query.failed(ClusterError::Unavailable)));
            let answer = answer.map(|content| Rc::new(content) as Rc<dyn Any>);
            self.answers.borrow_mut().push((query.clone(), answer.clone()));
            answer
        });
        answer?.downcast().map_err(|_| query.failed(ClusterError::Unavailable))
    }

    fn known(&self, query: &Query) -> Option<Answer> {
        self.answers.borrow().iter().find(|(known, _)| known == query).map(|(_, answer)| answer.clone())
    }

    /// Asks the host.
    fn look_up(&self, query: &Query) -> Result<Vec<u8>, LookupError> {
        let Query { kind, name, namespace } = query.clone();
        let (api_version, field_masks) = (kind.api_version.to_owned(), Some(kind.field_masks()));
        let kind_name = kind.name.to_owned();
        let answer = match name {
            // The host builds a URL from the name, so a name that no object can have is not looked up.
            Some(name) if !SUBDOMAIN.allows(&name) => Err(ClusterError::NotFound),
            Some(name) => self.cluster.get(&GetResourceRequest {
                api_version,
                kind: kind_name,
                name,
                namespace,
                disable_cache: false,
                field_masks,
            }),
            None => {
                self.guard(kind)?;
                self.cluster.list(&ListAllResourcesRequest {
                    api_version,
                    kind: kind_name,
                    label_selector: None,
                    field_selector: None,
                    field_masks,
                })
            }
        };
        answer.map_err(|cause| query.failed(cause))
    }

    /// Checks that policy-server's account may list and watch the kind. A list without that permission never returns,
    /// and blocks one of policy-server's workers (kubewarden/adm-controller, issue 1320).
    fn guard(&self, kind: &'static Kind) -> Result<(), LookupError> {
        let all = Query::all(kind);
        let failed = |cause| match cause {
            ClusterError::NotDeclared | ClusterError::Forbidden(_) => not_reviewed(cause),
            cause => all.failed(cause),
        };
        let account = self.account().map_err(failed)?;
        for verb in ["list", "watch"] {
            if !self.is_allowed(account.as_str(), account.groups(), verb, &all).map_err(failed)? {
                // If the cluster does not serve a kind, usually nobody has permissions for it.
                return Err(all.failed(match self.check_served(kind) {
                    Err(cause @ (ClusterError::KindNotServed | ClusterError::NotDeclared)) => cause,
                    _ => ClusterError::Forbidden(Some(account)),
                }));
            }
        }
        Ok(())
    }

    /// Whether a user may read an object.
    pub(crate) fn may_get(
        &self,
        user: &str,
        groups: &[String],
        kind: &'static Kind,
        name: &str,
        namespace: &str,
    ) -> Result<bool, LookupError> {
        let object = Query::one(kind, name, Some(namespace));
        self.is_allowed(user, groups.to_vec(), "get", &object).map_err(not_reviewed)
    }

    /// Whether a user may do something with what the query is for.
    fn is_allowed(&self, user: &str, groups: Vec<String>, verb: &str, query: &Query) -> Result<bool, ClusterError> {
        let Query { kind, name, namespace } = query.clone();
        let (group, resource, verb) = (Some(kind.group().to_owned()), kind.plural.to_owned(), verb.to_owned());
        let resource_attributes =
            ResourceAttributes { group, resource, verb, name, namespace, ..ResourceAttributes::default() };
        let review = SubjectAccessReview { user: user.to_owned(), groups: Some(groups), resource_attributes };
        let answer = self.cluster.can_i(&CanIRequest { subject_access_review: review, disable_cache: false })?;
        let status = text_of(&answer).and_then(json::read::<SubjectAccessReviewStatus>);
        status.map(|status| status.allowed).ok_or(ClusterError::Unavailable)
    }

    /// The account that policy-server runs as.
    /// The API server names the account when it refuses a request, so the policy asks for something that is refused to
    /// all but administrators: to get a SubjectAccessReview, which can only be created. An account that is not refused
    /// is not named, so the policy uses that of the setting `policyServer`.
    fn account(&self) -> Result<Account, ClusterError> {
        match self.get::<()>(&SUBJECT_ACCESS_REVIEW, REFUSED, None).map_err(|error| error.cause) {
            Err(ClusterError::Forbidden(Some(account))) => Ok(account),
            Err(ClusterError::Unsupported) => {
                let account = &self.settings.policy_server;
                Ok(Account::of_service_account(account.namespace.as_str(), account.service_account.as_str()))
            }
            Err(ClusterError::Forbidden(None) | ClusterError::NotFound) | Ok(_) => Err(ClusterError::Unavailable),
            Err(error) => Err(error),
        }
    }

    /// Checks that the cluster serves the kind. It asks for an object that does not exist, because to list thousands
    /// would take longer.
    pub(crate) fn check_served(&self, kind: &'static Kind) -> Result<(), ClusterError> {
        let is_known = self.answers.borrow().iter().any(|(query, answer)| query.kind == kind && answer.is_ok());
        if kind.provider == Provider::Kubernetes || is_known {
            return Ok(());
        }
        match self.get::<()>(kind, ABSENT, None).map_err(|error| error.cause) {
            Ok(_) | Err(ClusterError::NotFound | ClusterError::Forbidden(_)) => Ok(()),
            Err(cause) => Err(cause),
        }
    }
}

/// The text of an answer of the host.
fn text_of(answer: &[u8]) -> Option<&str> {
    std::str::from_utf8(answer).ok()
}

fn not_reviewed(cause: ClusterError) -> LookupError {
    LookupError { cause, kind: &SUBJECT_ACCESS_REVIEW, verbs: "create", name: None, namespace: None }
}
