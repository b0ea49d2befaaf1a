//! What the policy may look up in the cluster, and the lookups of one request. No feature is known here.

mod error;
mod host;
mod kinds;
mod objects;

use std::cell::{OnceCell, RefCell};

use crate::json::{Json, Shape};
use crate::kinds::name::SUBDOMAIN;
use crate::settings::Settings;
pub(crate) use error::LookupError;
pub use error::{Account, ClusterError};
pub(crate) use host::HostCluster;
pub use kinds::Kind;
pub(crate) use objects::{ConfigMap, KubeVirt, Node, PciDevice};
use objects::{to_claim, to_config_map, to_kubevirt, to_node, to_pci_device, to_user_data};

/// The cluster as the Kubewarden host offers it. Answers are JSON.
pub trait Cluster {
    /// An object by its name, and its namespace if the kind has any.
    ///
    /// # Errors
    /// Any [`ClusterError`].
    fn get(&self, kind: Kind, name: &str, namespace: Option<&str>) -> Result<String, ClusterError>;

    /// A list of all objects of a kind. Without the right to list and watch it never returns.
    ///
    /// # Errors
    /// Any [`ClusterError`] but `NotFound` and `Forbidden`.
    fn list(&self, kind: Kind) -> Result<String, ClusterError>;

    /// Whether an account may use the verb on all objects of a kind, as a `SubjectAccessReviewStatus`.
    ///
    /// # Errors
    /// Any [`ClusterError`]; `Forbidden` where the policy may not ask.
    fn can_i(
        &self,
        account: &Account,
        verb: &'static str,
        kind: Kind,
    ) -> Result<String, ClusterError>;
}

/// The name under which the policy asks for what it will be refused. policy-server logs the refusal as an error, with the name.
const REFUSED: &str = "this-refusal-is-expected.vm-feature-manager.io";

/// The lookups of one request: typed, guarded, and those that features share made only once.
pub(crate) struct Lookups<'c> {
    cluster: &'c dyn Cluster,
    settings: &'c Settings,
    account: OnceCell<Result<Account, ClusterError>>,
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
            account: OnceCell::new(),
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
        self.kubevirt.get_or_init(get).as_ref().map_err(LookupError::clone)
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
        list.as_deref().map_err(LookupError::clone)
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
            Err(LookupError { cause: ClusterError::NotFound, .. }) => Ok(false),
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
        let answer = match SUBDOMAIN.allows(name) {
            true => self.cluster.get(kind, name, namespace),
            false => Err(ClusterError::NotFound),
        };
        let json = answer.and_then(|text| {
            let json = Json::parse(&text, kind.facts().object);
            json.map(|json| convert(&json)).map_err(|_| ClusterError::Unavailable)
        });
        let namespace = namespace.map(str::to_owned);
        json.map_err(|cause| LookupError { cause, kind, verbs: "get", namespace })
    }

    fn list<T>(&self, kind: Kind, convert: impl Fn(&Json<'_>) -> T) -> Result<Vec<T>, LookupError> {
        self.guard(kind)?;
        let items = self.cluster.list(kind).and_then(|text| {
            let json = Json::parse(&text, kind.facts().list);
            match json.ok().as_ref().and_then(|json| json.get("items")) {
                Some(Json::Array(items)) => Ok(items.iter().map(&convert).collect()),
                _ => Err(ClusterError::Unavailable),
            }
        });
        items.map_err(|cause| not_listed(cause, kind))
    }

    /// Checks that the account that policy-server runs as may list and watch the kind. A list without that right never
    /// returns, and takes one of policy-server's workers with it (kubewarden/adm-controller, issue 1320).
    fn guard(&self, kind: Kind) -> Result<(), LookupError> {
        static STATUS: Shape = Shape::OnlyMembers(&[("allowed", Shape::Whole)]);
        let review = |cause| match cause {
            ClusterError::NotDeclared | ClusterError::Forbidden(_) => LookupError {
                cause,
                kind: Kind::SubjectAccessReview,
                verbs: "create",
                namespace: None,
            },
            cause => not_listed(cause, kind),
        };
        let account = self.account().map_err(review)?;
        for verb in ["list", "watch"] {
            let answer = self.cluster.can_i(account, verb, kind).map_err(review)?;
            let status = Json::parse(&answer, &STATUS);
            let status = status.map_err(|_| not_listed(ClusterError::Unavailable, kind))?;
            if !matches!(status.get("allowed"), Some(Json::Bool(true))) {
                self.check_served(kind)?;
                return Err(not_listed(ClusterError::Forbidden(Some(account.clone())), kind));
            }
        }
        Ok(())
    }

    /// The account that policy-server runs as.
    ///
    /// The API server names it where it refuses something, so the policy asks for what it refuses to all but
    /// administrators: to read a SubjectAccessReview, which can only be created. An account that may do even that is not
    /// named, and is taken for that of the setting `policyServer`.
    fn account(&self) -> Result<&Account, ClusterError> {
        let ask = || match self.cluster.get(Kind::SubjectAccessReview, REFUSED, None) {
            Err(ClusterError::Forbidden(Some(account))) => Ok(account),
            Err(ClusterError::Unsupported) => Ok(self.configured_account()),
            Err(ClusterError::Forbidden(None) | ClusterError::NotFound) | Ok(_) => {
                Err(ClusterError::Unavailable)
            }
            Err(error) => Err(error),
        };
        self.account.get_or_init(ask).as_ref().map_err(ClusterError::clone)
    }

    fn configured_account(&self) -> Account {
        let account = &self.settings.policy_server;
        Account::of_service_account(&account.namespace, &account.service_account)
    }

    /// Checks that the cluster serves the kind: what it does not serve is mostly granted to nobody.
    fn check_served(&self, kind: Kind) -> Result<(), LookupError> {
        if kind.is_built_in() {
            return Ok(());
        }
        match self.cluster.get(kind, "is-it-served", None) {
            Err(cause @ (ClusterError::KindNotServed | ClusterError::NotDeclared)) => {
                Err(not_listed(cause, kind))
            }
            _ => Ok(()),
        }
    }
}

fn not_listed(cause: ClusterError, kind: Kind) -> LookupError {
    LookupError { cause, kind, verbs: "list and watch", namespace: None }
}
