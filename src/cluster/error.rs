//! Why a lookup fails: what the host's error means, and the message for the user, who learns what to do about it.

use std::fmt;

use super::kind::{Kind, Provider};

/// Why the host does not answer a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterError {
    /// There is no object of this name.
    NotFound,
    /// The API server does not serve this kind.
    KindNotServed,
    /// The API server refuses the request. Usually it names the account that sent it.
    Forbidden(Option<Account>),
    /// The account has the permission, but the API server does not offer this operation for the kind.
    Unsupported,
    /// The ClusterAdmissionPolicy does not declare the kind.
    NotDeclared,
    /// The host does not know the operation, or does not let the policy call it.
    NotOffered,
    /// Any other error; the lookup may succeed later.
    Unavailable,
}

/// The user name that the API server has for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account(String);

const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The ClusterRole that the manifests and the chart install together with the policy.
const CLUSTER_ROLE: &str = "vm-feature-manager";

impl Account {
    /// A service account.
    pub fn of_service_account(namespace: &str, name: &str) -> Self {
        Self(format!("{SERVICE_ACCOUNT}{namespace}:{name}"))
    }

    /// Any user, also a service account. `None` if the name contains characters that are not safe in quotes in a message or a command.
    pub fn of_user(name: &str) -> Option<Self> {
        let is_usable = |c: char| (c.is_ascii_graphic() || c == ' ') && !matches!(c, '"' | '\'' | '\\');
        let is_usable = (1..=256).contains(&name.len()) && name.chars().all(is_usable);
        is_usable.then(|| Self(name.to_owned()))
    }

    /// The user name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace and name, if it is a service account.
    fn service_account(&self) -> Option<(&str, &str)> {
        self.0.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')
    }

    /// The groups that the API server adds to the account. Without them, permissions that are bound to a group would not count.
    pub(super) fn groups(&self) -> Vec<String> {
        let mut groups = Vec::new();
        if let Some((namespace, _)) = self.service_account() {
            groups.push("system:serviceaccounts".to_owned());
            groups.push(format!("system:serviceaccounts:{namespace}"));
        }
        groups.push("system:authenticated".to_owned());
        groups
    }

    /// The option that names the account in `kubectl create rolebinding`.
    fn as_subject(&self) -> String {
        match self.service_account() {
            Some((namespace, name)) => format!("--serviceaccount={namespace}:{name}"),
            None => format!("--user='{}'", self.0),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.service_account() {
            Some((namespace, name)) => write!(f, "the service account {namespace}:{name}"),
            None => write!(f, "the user {}", self.0),
        }
    }
}

/// Why a lookup failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LookupError {
    pub(crate) cause: ClusterError,
    pub(super) kind: &'static Kind,
    /// The verbs that the policy needed, as they read in a sentence.
    pub(super) verbs: &'static str,
    /// The name of the object; `None` if the lookup is for all objects.
    pub(super) name: Option<String>,
    /// `None` if the lookup is about all namespaces, or if the kind has none.
    pub(super) namespace: Option<String>,
}

impl LookupError {
    /// Whether the same lookup may succeed if it is repeated later.
    pub(crate) fn is_temporary(&self) -> bool {
        self.cause == ClusterError::Unavailable
    }

    /// The problem, as a clause of a sentence.
    pub(crate) fn why(&self) -> String {
        self.clauses().0
    }

    /// The remedy, as a clause in the imperative.
    pub(crate) fn remedy(&self) -> String {
        self.clauses().1
    }

    /// The problem and the remedy.
    fn clauses(&self) -> (String, String) {
        let Kind { api_version, name, provider, .. } = self.kind;
        let resource = self.kind.resource();
        match &self.cause {
            // Users do not name the KubeVirt object; the settings do.
            ClusterError::NotFound if self.kind.provider == Provider::KubeVirt => (
                format!(
                    "there is no {name} {} in the namespace {}",
                    self.name.as_deref().unwrap_or_default(),
                    self.namespace.as_deref().unwrap_or_default()
                ),
                "have an administrator set kubevirt.namespace and kubevirt.name in the policy's settings, as kubectl get \
                 kubevirts -A shows them"
                    .to_owned(),
            ),
            ClusterError::NotFound => (format!("there is no such {name}"), "correct the name".to_owned()),
            ClusterError::KindNotServed => (
                format!("the cluster does not serve {resource}"),
                format!("make sure that {} is installed and enabled", provider.name()),
            ),
            ClusterError::Forbidden(account) => {
                let who = match account {
                    Some(account) => format!("the policy reads the cluster as {account}, which"),
                    None => "the account that policy-server runs as".to_owned(),
                };
                let within = self.namespace.as_ref().map(|n| format!(" in the namespace {n}")).unwrap_or_default();
                (
                    format!("{who} may not {} {resource}{within}", self.verbs),
                    format!("have an administrator run: {}", self.command(account.as_ref())),
                )
            }
            ClusterError::NotDeclared => (
                format!(
                    "the ClusterAdmissionPolicy does not list {api_version} {name} under spec.contextAwareResources"
                ),
                format!("have an administrator add {{apiVersion: {api_version}, kind: {name}}} to that list"),
            ),
            ClusterError::NotOffered => (
                format!("Kubewarden does not let the policy look up {resource}"),
                "have an administrator install Kubewarden 1.27 or later and allow the policy its host capabilities"
                    .to_owned(),
            ),
            ClusterError::Unsupported | ClusterError::Unavailable => {
                (format!("looking up {resource} failed for now"), "try again later".to_owned())
            }
        }
    }

    /// The command that grants the missing permission. For objects in users' namespaces, it grants that one permission
    /// in that one namespace. Otherwise it binds the policy's ClusterRole, which has all permissions that the policy needs.
    fn command(&self, account: Option<&Account>) -> String {
        let subject = account.map_or("--serviceaccount=NAMESPACE:NAME".to_owned(), Account::as_subject);
        if let Some(namespace) = self.namespace.as_ref().filter(|_| self.kind.is_of_users) {
            let resource = self.kind.plural;
            let name = format!("{CLUSTER_ROLE}-{resource}");
            return format!(
                "kubectl create role {name} --namespace={namespace} --verb=get --resource={resource} && kubectl create \
                 rolebinding {name} --namespace={namespace} --role={name} {subject}"
            );
        }
        let owner = account.and_then(Account::service_account).map_or("user", |(namespace, _)| namespace);
        format!("kubectl create clusterrolebinding {CLUSTER_ROLE}-{owner} --clusterrole={CLUSTER_ROLE} {subject}")
    }
}

/// The problem and the remedy.
impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (why, remedy) = self.clauses();
        write!(f, "{why}; {remedy}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{CONFIG_MAP, KUBEVIRT, NODE};
    use rstest::rstest;

    fn missing(account: &str, verbs: &'static str, kind: &'static Kind, namespace: Option<&str>) -> String {
        let cause = ClusterError::Forbidden(Account::of_user(account));
        LookupError { cause, kind, verbs, name: None, namespace: namespace.map(str::to_owned) }.to_string()
    }

    #[test]
    fn a_missing_right_names_the_account_and_the_command_that_grants_it() {
        let account = "system:serviceaccount:cattle-kubewarden-system:policy-server";
        assert_eq!(
            missing(account, "list and watch", &NODE, None),
            "the policy reads the cluster as the service account cattle-kubewarden-system:policy-server, which may not \
             list and watch nodes; have an administrator run: kubectl create clusterrolebinding \
             vm-feature-manager-cattle-kubewarden-system --clusterrole=vm-feature-manager \
             --serviceaccount=cattle-kubewarden-system:policy-server"
        );
        assert_eq!(
            missing(account, "get", &CONFIG_MAP, Some("vms")),
            "the policy reads the cluster as the service account cattle-kubewarden-system:policy-server, which may not \
             get configmaps in the namespace vms; have an administrator run: kubectl create role \
             vm-feature-manager-configmaps --namespace=vms --verb=get --resource=configmaps && kubectl create rolebinding \
             vm-feature-manager-configmaps --namespace=vms --role=vm-feature-manager-configmaps \
             --serviceaccount=cattle-kubewarden-system:policy-server"
        );
        assert_eq!(
            missing("alice", "get", &KUBEVIRT, Some("harvester-system")),
            "the policy reads the cluster as the user alice, which may not get kubevirts.kubevirt.io in the namespace \
             harvester-system; have an administrator run: kubectl create clusterrolebinding vm-feature-manager-user \
             --clusterrole=vm-feature-manager --user='alice'"
        );
        let nobody = missing("", "get", &NODE, None);
        assert!(nobody.starts_with("the account that policy-server runs as may not get nodes; "));
        assert!(nobody.ends_with("--serviceaccount=NAMESPACE:NAME"), "{nobody}");
    }

    #[rstest]
    #[case::service_account("system:serviceaccount:kubewarden:policy-server", true)]
    #[case::user("jane.doe@example.com", true)]
    #[case::empty("", false)]
    #[case::url("https://accounts.example.com#10 7", true)]
    #[case::single_quote("x' ; rm -r '/", false)]
    #[case::quotes("a\"b", false)]
    #[case::backslash("a\\b", false)]
    #[case::control_character("a\nb", false)]
    fn names_that_can_stand_in_a_command(#[case] name: &str, #[case] is_usable: bool) {
        assert_eq!(Account::of_user(name).is_some(), is_usable);
    }

    #[test]
    fn groups_are_those_that_the_api_server_gives() {
        let policy_server = Account::of_service_account("kubewarden", "policy-server");
        assert_eq!(
            policy_server.groups(),
            ["system:serviceaccounts", "system:serviceaccounts:kubewarden", "system:authenticated"]
        );
        assert_eq!(Account::of_user("alice").unwrap().groups(), ["system:authenticated"]);
    }
}
