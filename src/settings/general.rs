//! The settings that do not belong to a single feature.

use serde_json::Value;

use crate::values::name::{Label, Subdomain};
use crate::values::pattern::Pattern;

use super::defaults::DefaultDirectives;
use super::{choice, section};

section! {
    /// The settings of the policy as a whole.
    GeneralSettings("") {
        /// Writes the annotations -applied and -error, which say what was applied and what failed. The policy always records what
        /// it added.
        add_tracking_annotations: bool = true, "addTrackingAnnotations", "Record on the VM what was applied";
        /// With annotations, directives are annotations of the virtual machine or of its template. With labels, they are labels of
        /// the virtual machine. Options and records are always annotations.
        config_source: ConfigSource = ConfigSource::Annotations, "configSource", "Where directives are read";
        /// Maps a namespace pattern to directives and options, as in nested-virt=enabled; hugepages=2Mi. They are for virtual machines
        /// that a tool creates without annotations, such as Terraform, Rancher, its node drivers or HyperShift. A directive of the
        /// virtual machine itself takes precedence, also one that switches the feature off. If a default fails, a warning says so,
        /// and the request is not denied. An existing virtual machine gets its defaults at its next update. A pattern such as team-a-*
        /// also matches namespaces that users create later. The ClusterAdmissionPolicy must have no matchConditions, because every
        /// virtual machine must reach the policy.
        default_directives: DefaultDirectives = DefaultDirectives::default(), "defaultDirectives", "Directives for VMs without annotations";
        /// Glob patterns for accounts that write virtual machines for others. Their requests never meet requireClaimOwner and
        /// requireUserAccess, because nobody knows for whom they ask. The default is the accounts of Harvester and KubeVirt.
        controller_accounts: Vec<Pattern> = ACCOUNTS.map(Pattern::from).to_vec(), "controllerAccounts", "Accounts that write VMs for others";
        /// Directives in cloud-init user data.
        user_data: UserDataSettings, "userData";
        /// The cluster's one KubeVirt object.
        kubevirt: KubeVirtObject, "kubevirt";
        /// The service account that policy-server looks things up as.
        policy_server: PolicyServer, "policyServer";
    }
}

/// Harvester's and KubeVirt's own accounts. Their controllers write what a pool, a clone, a restore or a hotplug asks for, on
/// behalf of the user who wrote that. Source: `kubevirt/kubevirt`, `pkg/virt-operator/resource/generate/rbac`.
const ACCOUNTS: [&str; 2] = ["system:serviceaccount:harvester-system:*", "system:serviceaccount:kubevirt:*"];

choice! {
    /// Where directives are read.
    ConfigSource {
        /// The annotations of the VirtualMachine and of its template.
        Annotations = "annotations",
        /// The VirtualMachine's labels.
        Labels = "labels",
    }
}

section! {
    /// The settings that every feature has.
    FeatureSettings("") {
        /// If off, the policy ignores the directive, and keeps what the directive added before.
        enabled: bool = true, "enabled", "enabled";
        /// With reject, the request is denied. With allow-and-log, the virtual machine is stored without the feature, and a warning,
        /// an annotation and the log say why. With strip-label, the policy also removes the directive, and writes no annotation.
        error_handling: ErrorHandling = ErrorHandling::Reject, "errorHandling", "if the feature fails";
    }
}

choice! {
    /// What happens to a request if a feature fails.
    ErrorHandling {
        /// The request is denied.
        Reject = "reject",
        /// The request is allowed; an annotation and a warning say why.
        AllowAndLog = "allow-and-log",
        /// The request is allowed; the directive is removed.
        StripLabel = "strip-label",
    }
}

section! {
    /// Setting `userData`.
    UserDataSettings("User data") {
        /// The directives are under the key x_kubevirt_features of a cloud-config document. This is for virtual machines of Rancher's
        /// node driver, which cannot set annotations.
        enabled: bool = false, "enabled", "read directives in cloud-init user data";
        /// policy-server needs a Role to get Secrets in each namespace that has such virtual machines.
        read_secrets: bool = false, "readSecrets", "read user data in Secrets, too";
    }
}

section! {
    /// Setting `kubevirt`: where the KubeVirt object is.
    KubeVirtObject("KubeVirt object") {
        /// harvester-system on Harvester, kubevirt if KubeVirt was installed by itself.
        namespace: Label = Label::known(HARVESTER), "namespace", "namespace";
        /// A cluster has one KubeVirt object, which usually has this name.
        name: Subdomain = Subdomain::known("kubevirt"), "name", "name";
    }
}

section! {
    /// Setting `policyServer`: the account that policy-server runs as, if the API server does not name it.
    PolicyServer("policy-server") {
        /// The account that policy-server runs as. Needed only if the account is an administrator; otherwise the policy detects it.
        service_account: Subdomain = Subdomain::known("policy-server"), "serviceAccount", "service account";
        /// The namespace of that service account. The chart grants the permissions to this account. Only if this is kubewarden, the
        /// chart looks for the account in cattle-kubewarden-system, too, where Rancher installs Kubewarden.
        namespace: Label = Label::known("kubewarden"), "namespace", "namespace";
    }
}

/// Whether the settings enable user data. The other settings are not read.
pub(crate) fn reads_user_data(settings: &Value) -> bool {
    settings.get("userData").and_then(|section| section.get("enabled")) == Some(&Value::Bool(true))
}

/// Whether the settings have default directives. The other settings are not read.
pub(crate) fn has_default_directives(settings: &Value) -> bool {
    settings.get("defaultDirectives").and_then(Value::as_object).is_some_and(|map| !map.is_empty())
}

/// The namespace of Harvester's own components.
const HARVESTER: &str = "harvester-system";

impl GeneralSettings {
    /// Whether the cluster is Harvester: only Harvester has its KubeVirt object in this namespace.
    pub(crate) fn is_harvester(&self) -> bool {
        self.kubevirt.namespace.as_str() == HARVESTER
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::not_set(json!({}), false)]
    #[case::no_settings(json!(null), false)]
    #[case::empty(json!({"defaultDirectives": {}}), false)]
    #[case::null(json!({"defaultDirectives": null}), false)]
    #[case::not_valid(json!({"defaultDirectives": ["a"]}), false)]
    #[case::some(json!({"defaultDirectives": {"a": "numa=passthrough"}}), true)]
    fn default_directives_are_seen_without_reading_the_settings(#[case] settings: Value, #[case] expected: bool) {
        assert_eq!(has_default_directives(&settings), expected);
    }
}
