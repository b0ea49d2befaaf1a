//! The cluster as the policy may look it up, and the lookups of one request. No feature is known here.

#[cfg(feature = "describe")]
pub mod access;
mod error;
mod harvester;
mod host;
mod kinds;
mod kubernetes;
mod kubevirt;

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;

use crate::json::{Json, Shape, may_have};
use crate::kinds::name::SUBDOMAIN;
use crate::settings::GeneralSettings;
pub(crate) use error::LookupError;
pub use error::{Account, ClusterError};
pub(crate) use harvester::{Claim, HostDevice};
pub(crate) use host::HostCluster;
pub use kinds::Kind;
use kinds::Object;
pub(crate) use kubernetes::{ConfigMap, Node, UserDataSecret};
pub(crate) use kubevirt::KubeVirt;

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

    /// Whether somebody may do something, as a `SubjectAccessReviewStatus`.
    ///
    /// # Errors
    /// Any [`ClusterError`]; `Forbidden` where the policy may not ask.
    fn can_i(&self, review: &Review<'_>) -> Result<String, ClusterError>;
}

/// The question whether a user may use the verb on an object of a kind, or on all.
#[derive(Debug, Clone, Copy)]
pub struct Review<'r> {
    /// The user's name.
    pub user: &'r str,
    /// The groups that the user is in.
    pub groups: &'r [String],
    /// The verb, as RBAC has it.
    pub verb: &'static str,
    /// The kind of the object.
    pub kind: Kind,
    /// The object's namespace; `None` is all.
    pub namespace: Option<&'r str>,
    /// The object's name; `None` is all.
    pub name: Option<&'r str>,
}

/// The name under which the policy asks for what it will be refused. policy-server logs the refusal as an error, with the name.
const REFUSED: &str = "this-refusal-is-expected.vm-feature-manager.io";

/// The name under which it asks for what will not be there, which is logged, too.
const ABSENT: &str = "this-absence-is-expected.vm-feature-manager.io";

/// The items of a list, as text.
static LIST: Shape = Shape::OnlyMembers(&[("items", Shape::Each(&Shape::Raw))]);

/// The lookups of one request: typed, guarded, and each made only once.
pub(crate) struct Lookups<'c> {
    cluster: &'c dyn Cluster,
    settings: &'c GeneralSettings,
    account: OnceCell<Result<Account, ClusterError>>,
    answers: RefCell<Vec<Answer>>,
}

/// The cluster's answer to a query.
struct Answer {
    kind: Kind,
    name: Option<String>,
    namespace: Option<String>,
    json: Result<Rc<String>, LookupError>,
}

/// An object, or without a name all objects of the kind.
#[derive(Clone, Copy)]
struct Query<'q> {
    kind: Kind,
    name: Option<&'q str>,
    namespace: Option<&'q str>,
}

impl Query<'_> {
    fn all(kind: Kind) -> Self {
        Self { kind, name: None, namespace: None }
    }

    fn failed(&self, cause: ClusterError) -> LookupError {
        let Self { kind, name, namespace } = *self;
        let verbs = if name.is_some() { "get" } else { "list and watch" };
        LookupError { cause, kind, verbs, namespace: namespace.map(str::to_owned) }
    }
}

impl<'c> Lookups<'c> {
    pub(crate) fn new(cluster: &'c dyn Cluster, settings: &'c GeneralSettings) -> Self {
        Self { cluster, settings, account: OnceCell::new(), answers: RefCell::default() }
    }

    /// The cluster's one KubeVirt object.
    pub(crate) fn kubevirt(&self) -> Result<KubeVirt, LookupError> {
        let place = &self.settings.kubevirt;
        self.get(Kind::KubeVirt, place.name.as_str(), Some(place.namespace.as_str()))
    }

    /// A device by its name, from the list of all where that was looked up; `kind` is PCIDevice or USBDevice.
    pub(crate) fn device(&self, kind: Kind, name: &str) -> Result<HostDevice, LookupError> {
        let is_listed = matches!(self.known(Query::all(kind)), Some(Ok(_)));
        let devices: Vec<HostDevice> = if is_listed { self.list_with(kind, &[name.to_owned()])? } else { Vec::new() };
        match devices.into_iter().find(|device| device.name == name) {
            Some(device) => Ok(device),
            None => self.get(kind, name, None),
        }
    }

    /// The claim of the device of the name, if there is one; `kind` is that of the claim.
    pub(crate) fn claim(&self, kind: Kind, name: &str) -> Result<Option<Claim>, LookupError> {
        match self.get(kind, name, None) {
            Ok(claim) => Ok(Some(claim)),
            Err(LookupError { cause: ClusterError::NotFound, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks an object of the kind up, once.
    pub(crate) fn get<T: Object>(&self, kind: Kind, name: &str, namespace: Option<&str>) -> Result<T, LookupError> {
        let query = Query { kind, name: Some(name), namespace };
        let mut object = None;
        self.read(query, &[], &mut |json| object = Some(T::read(json)))?;
        object.ok_or_else(|| query.failed(ClusterError::Unavailable))
    }

    /// Looks all objects of a kind up, once.
    pub(crate) fn list<T: Object>(&self, kind: Kind) -> Result<Vec<T>, LookupError> {
        self.list_with(kind, &[String::new()])
    }

    /// The objects of a kind that have one of the texts in a string, and perhaps others. There may be thousands of PCI devices, and
    /// to read one takes many times as long as to see that it does not matter.
    pub(crate) fn list_with<T: Object>(&self, kind: Kind, texts: &[String]) -> Result<Vec<T>, LookupError> {
        let mut objects = Vec::new();
        self.read(Query::all(kind), texts, &mut |json| objects.push(T::read(json)))?;
        Ok(objects)
    }

    /// Reads the object that the cluster answers with, or of a list each that may have one of the texts.
    fn read(&self, query: Query<'_>, texts: &[String], each: &mut dyn FnMut(&Json<'_>)) -> Result<(), LookupError> {
        let text = self.answer(query)?;
        let failed = || query.failed(ClusterError::Unavailable);
        let mut read =
            |text: &str| Json::parse(text, query.kind.facts().object).map(|json| each(&json)).map_err(|_| failed());
        if query.name.is_some() {
            return read(&text);
        }
        let list = Json::parse(&text, &LIST).map_err(|_| failed())?;
        let Some(Json::Array(items)) = list.get("items") else { return Err(failed()) };
        for item in items {
            match item {
                Json::Raw(item) if may_have(item.get(), texts) => read(item.get())?,
                _ => {}
            }
        }
        Ok(())
    }

    fn answer(&self, query: Query<'_>) -> Result<Rc<String>, LookupError> {
        if let Some(json) = self.known(query) {
            return json;
        }
        let Query { kind, name, namespace } = query;
        let cluster = self.cluster;
        let json = match name {
            // The host makes a URL of the name, so one that no object can have is not asked for.
            Some(name) if !SUBDOMAIN.allows(name) => Err(query.failed(ClusterError::NotFound)),
            Some(name) => cluster.get(kind, name, namespace).map_err(|cause| query.failed(cause)),
            None => self.guard(kind).and_then(|()| cluster.list(kind).map_err(|cause| query.failed(cause))),
        };
        let ([name, namespace], json) = ([name, namespace].map(|text| text.map(str::to_owned)), json.map(Rc::new));
        self.answers.borrow_mut().push(Answer { kind, name, namespace, json: json.clone() });
        json
    }

    fn known(&self, query: Query<'_>) -> Option<Result<Rc<String>, LookupError>> {
        let answers = self.answers.borrow();
        let Query { kind, name, namespace } = query;
        let is_it = |a: &&Answer| a.kind == kind && a.name.as_deref() == name && a.namespace.as_deref() == namespace;
        answers.iter().find(is_it).map(|answer| answer.json.clone())
    }

    /// Checks that the account that policy-server runs as may list and watch the kind. A list without that right never
    /// returns, and takes one of policy-server's workers with it (kubewarden/adm-controller, issue 1320).
    fn guard(&self, kind: Kind) -> Result<(), LookupError> {
        let not_listed = |cause| Query::all(kind).failed(cause);
        let review = |cause| match cause {
            ClusterError::NotDeclared | ClusterError::Forbidden(_) => {
                LookupError { cause, kind: Kind::SubjectAccessReview, verbs: "create", namespace: None }
            }
            cause => not_listed(cause),
        };
        let account = self.account().map_err(review)?;
        let groups = account.groups();
        for verb in ["list", "watch"] {
            let question = Review { user: account.as_str(), groups: &groups, verb, kind, namespace: None, name: None };
            if !self.is_allowed(&question).map_err(review)? {
                // What the cluster does not serve is mostly granted to nobody.
                return Err(not_listed(match self.check_served(kind) {
                    Err(cause @ (ClusterError::KindNotServed | ClusterError::NotDeclared)) => cause,
                    _ => ClusterError::Forbidden(Some(account.clone())),
                }));
            }
        }
        Ok(())
    }

    /// Whether a user may read an object.
    pub(crate) fn may_get(
        &self,
        (user, groups): (&str, &[String]),
        kind: Kind,
        name: &str,
        namespace: &str,
    ) -> Result<bool, LookupError> {
        let question = Review { user, groups, verb: "get", kind, namespace: Some(namespace), name: Some(name) };
        let failed = |cause| LookupError { cause, kind: Kind::SubjectAccessReview, verbs: "create", namespace: None };
        self.is_allowed(&question).map_err(failed)
    }

    fn is_allowed(&self, question: &Review<'_>) -> Result<bool, ClusterError> {
        static STATUS: Shape = Shape::OnlyMembers(&[("allowed", Shape::Whole)]);
        let answer = self.cluster.can_i(question)?;
        let status = Json::parse(&answer, &STATUS).map_err(|_| ClusterError::Unavailable)?;
        Ok(matches!(status.get("allowed"), Some(Json::Bool(true))))
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
            Err(ClusterError::Forbidden(None) | ClusterError::NotFound) | Ok(_) => Err(ClusterError::Unavailable),
            Err(error) => Err(error),
        };
        self.account.get_or_init(ask).as_ref().map_err(ClusterError::clone)
    }

    fn configured_account(&self) -> Account {
        let account = &self.settings.policy_server;
        Account::of_service_account(account.namespace.as_str(), account.service_account.as_str())
    }

    /// Checks that the cluster serves the kind, by an object that is not there: to list thousands would take longer.
    pub(crate) fn check_served(&self, kind: Kind) -> Result<(), ClusterError> {
        let is_known = self.answers.borrow().iter().any(|answer| answer.kind == kind && answer.json.is_ok());
        if kind.is_built_in() || is_known {
            return Ok(());
        }
        match self.answer(Query { kind, name: Some(ABSENT), namespace: None }) {
            Ok(_) => Ok(()),
            Err(LookupError { cause: ClusterError::NotFound | ClusterError::Forbidden(_), .. }) => Ok(()),
            Err(error) => Err(error.cause),
        }
    }
}
