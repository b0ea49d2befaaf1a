//! The settings that do not belong to a single feature.

use serde_json::Value;

use crate::values::name::{Label, Subdomain};

use super::{choice, section};

section! {
    /// The settings of the policy as a whole.
    GeneralSettings("") {
        /// Writes the annotations -applied and -error, which say what was done. What the policy added is written down in any
        /// case.
        add_tracking_annotations: bool = true, "addTrackingAnnotations", "Record on the VM what was applied";
        /// Annotations of the virtual machine, or its labels. Options and records are annotations in any case.
        config_source: ConfigSource = ConfigSource::Annotations, "configSource", "Where directives are read";
        /// Directives in cloud-init user data.
        user_data: UserDataSettings, "userData";
        /// The cluster's one KubeVirt object.
        kubevirt: KubeVirtObject, "kubevirt";
        /// The service account that policy-server looks things up as.
        policy_server: PolicyServer, "policyServer";
    }
}

choice! {
    /// Where directives are read.
    ConfigSource {
        /// The VirtualMachine's annotations.
        Annotations = "annotations",
        /// The VirtualMachine's labels.
        Labels = "labels",
    }
}

section! {
    /// The settings that every feature has.
    FeatureSettings("") {
        /// If off, the directive is ignored, and what it added before stays.
        enabled: bool = true, "enabled", "enabled";
        /// With reject, the request is denied. With allow-and-log, the virtual machine is stored without the feature, and a warning,
        /// an annotation and the log say why. With strip-label, the directive is removed as well, and no annotation is written.
        error_handling: ErrorHandling = ErrorHandling::Reject, "errorHandling", "when the feature fails";
    }
}

choice! {
    /// The fate of a request when a feature fails.
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
        /// Under the key x_kubevirt_features of a cloud-config document. For virtual machines of Rancher's node driver, which can set
        /// no annotations.
        enabled: bool = false, "enabled", "read directives in cloud-init user data";
        /// Needs a Role for policy-server to get Secrets in the namespaces concerned.
        read_secrets: bool = false, "readSecrets", "read user data in Secrets, too";
    }
}

section! {
    /// Setting `kubevirt`: where the KubeVirt object is.
    KubeVirtObject("KubeVirt object") {
        /// harvester-system on Harvester, kubevirt where KubeVirt was installed by itself.
        namespace: Label = Label::known(HARVESTER), "namespace", "namespace";
        /// A cluster has one KubeVirt object, mostly of this name.
        name: Subdomain = Subdomain::known("kubevirt"), "name", "name";
    }
}

section! {
    /// Setting `policyServer`: who asks the API server, where it does not say so itself.
    PolicyServer("policy-server") {
        /// The account that policy-server runs as. Only needed if it is an administrator; else the policy finds it out.
        service_account: Subdomain = Subdomain::known("policy-server"), "serviceAccount", "service account";
        /// Where that service account is. The chart grants its rights to the account in kubewarden or cattle-kubewarden-system,
        /// or in another namespace that is named here.
        namespace: Label = Label::known("kubewarden"), "namespace", "namespace";
    }
}

/// Whether the settings enable user data. The other settings are not read.
pub(crate) fn reads_user_data(settings: &Value) -> bool {
    settings.get("userData").and_then(|section| section.get("enabled")) == Some(&Value::Bool(true))
}

/// The namespace of Harvester's own components.
const HARVESTER: &str = "harvester-system";

impl GeneralSettings {
    /// Whether the cluster is Harvester: only Harvester has its KubeVirt object in this namespace.
    pub(crate) fn is_harvester(&self) -> bool {
        self.kubevirt.namespace.as_str() == HARVESTER
    }
}
