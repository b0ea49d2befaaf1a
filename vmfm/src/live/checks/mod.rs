//! What a cluster needs for the policy to work, for `vmfm doctor`. Each check says what it found, and what to do about it.

mod devices;
mod kubevirt;
mod kubewarden;
mod permissions;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use vm_feature_manager_policy::cluster::words::KubeVirtInWords;
use vm_feature_manager_policy::cluster::{
    KUBEVIRT, Kind, NODE, PCI_DEVICE, PCI_DEVICE_CLAIM, USB_DEVICE, USB_DEVICE_CLAIM,
};

use super::kubectl::{ApiError, Kubectl};
use super::needs::{Need, enabled, needs, setting};
use super::permissions::{Permission, permissions as ask};
use super::policy::{Policy, PolicyServer};
use super::state::features;
use super::{Choice, lookups, virtual_machines};
use crate::cluster::Cluster;

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// It is as it should be.
    Ok,
    /// Something does not work, or may not, but no VirtualMachine asks for it; or it is worth a look.
    Warning,
    /// Something does not work.
    Problem,
}

impl Grade {
    /// The grade in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: &'static str,
    /// How good it is.
    pub grade: Grade,
    /// What was found.
    pub found: String,
    /// What to do about it, in the imperative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl Finding {
    /// Something is as it should be.
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, grade: Grade::Ok, found: found.into(), cure: None }
    }

    /// Something is worth a look.
    pub fn warning(check: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { check, grade: Grade::Warning, found: found.into(), cure: Some(cure.into()) }
    }

    /// Something does not work.
    pub fn problem(check: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { check, grade: Grade::Problem, found: found.into(), cure: Some(cure.into()) }
    }

    /// Something does not work. If no VirtualMachine asks for it, that is only worth a look.
    fn by_use(is_used: bool, check: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        let grade = if is_used { Grade::Problem } else { Grade::Warning };
        Self { grade, ..Self::problem(check, found, cure) }
    }
}

/// What is known about a cluster.
pub struct Facts {
    /// The ClusterAdmissionPolicy.
    pub policy: Policy,
    /// Its settings.
    settings: Value,
    /// The PolicyServer object, if there is one of the name.
    server: Option<Value>,
    server_name: String,
    deployments: Vec<Value>,
    /// The user name of policy-server's account.
    account: String,
    /// What the features that are on look up.
    needs: Vec<Need>,
    permissions: Vec<Permission>,
    /// The objects of each kind; `None` if the cluster does not serve it.
    objects: Vec<lookups::Objects>,
    /// The features that are on.
    enabled: Vec<&'static str>,
    /// The features that VirtualMachines ask for.
    used: BTreeSet<String>,
    /// All VirtualMachines.
    pub vms: Vec<Value>,
}

impl Facts {
    /// Reads what the checks need.
    ///
    /// # Errors
    /// The first [`ApiError`].
    pub fn read(kubectl: &Arc<Kubectl>, policy: Policy) -> Result<Self, ApiError> {
        let settings = policy.settings();
        let PolicyServer { name: server_name, deployments } = PolicyServer::find(kubectl, &policy)?;
        let server = match kubectl.get(&format!("/apis/policies.kubewarden.io/v1/policyservers/{server_name}")) {
            Ok(server) => Some(server),
            Err(ApiError::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        let account = PolicyServer { name: server_name.clone(), deployments: deployments.clone() }.account(&settings);
        let enabled = enabled(&settings);
        let needs = needs(&settings, &enabled);
        let kinds = [&KUBEVIRT, &NODE, &PCI_DEVICE, &PCI_DEVICE_CLAIM, &USB_DEVICE, &USB_DEVICE_CLAIM];
        let objects = lookups::objects(kubectl, &kinds)?;
        let is_served = |need: &&Need| !objects.iter().any(|(kind, objects)| *kind == need.kind && objects.is_none());
        let asked: Vec<Need> = needs.iter().filter(is_served).copied().collect();
        let permissions = ask(kubectl, &account, &asked, |kind| lookups::namespace_of(kind, &settings))?;
        // Without KubeVirt, there are none, and another check says so.
        let vms = match virtual_machines(kubectl, &Choice::default()) {
            Err(ApiError::NotFound(_)) => Vec::new(),
            vms => vms?,
        };
        let used = vms.iter().flat_map(|vm| features(vm, &settings)).collect();
        Ok(Self {
            settings,
            server,
            server_name,
            deployments,
            account,
            needs,
            permissions,
            objects,
            enabled,
            used,
            vms,
            policy,
        })
    }

    /// What all checks find, except for what needs the module.
    pub fn findings(&self) -> Vec<Finding> {
        [kubewarden::findings(self), permissions::findings(self), kubevirt::findings(self), devices::findings(self)]
            .concat()
    }

    /// The cluster as policy-server sees it.
    pub fn cluster(&self, kubectl: &Arc<Kubectl>) -> Cluster {
        lookups::assembled(kubectl, &self.policy, &self.account, self.objects.clone(), &self.permissions)
    }

    fn setting(&self, name: &str) -> Value {
        setting(&self.settings, name)
    }

    /// The text of a setting.
    fn text(&self, name: &str) -> String {
        self.setting(name).as_str().unwrap_or_default().to_owned()
    }

    /// Whether a VirtualMachine asks for one of the features.
    fn is_used(&self, features: &[&str]) -> bool {
        features.iter().any(|feature| self.used.contains(*feature))
    }

    /// Whether one of the features is on.
    fn is_on(&self, features: &[&str]) -> bool {
        features.iter().any(|feature| self.enabled.contains(feature))
    }

    /// The objects of a kind; `None` if the cluster does not serve it.
    fn of(&self, kind: &'static Kind) -> Option<&[Value]> {
        self.objects.iter().find(|(known, _)| *known == kind)?.1.as_deref()
    }

    /// Whether the settings are those for Harvester.
    fn is_harvester(&self) -> bool {
        self.text("kubevirt.namespace") == "harvester-system"
    }

    /// The KubeVirt object that the settings name.
    fn kubevirt(&self) -> Option<KubeVirtInWords> {
        let (namespace, name) = (self.text("kubevirt.namespace"), self.text("kubevirt.name"));
        let mut objects = self.of(&KUBEVIRT)?.iter().map(|kubevirt| (&kubevirt["metadata"], kubevirt));
        let found = objects.find(|(metadata, _)| metadata["namespace"] == *namespace && metadata["name"] == *name);
        KubeVirtInWords::read(found?.1)
    }
}

/// Names in a sentence: at most a few of them.
fn some(names: &[String]) -> String {
    const MOST: usize = 5;
    let rest = names.len().saturating_sub(MOST);
    let first = names.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ");
    if rest == 0 { first } else { format!("{first} and {rest} more") }
}

/// The name of an object.
fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}
