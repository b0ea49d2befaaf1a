//! CPU vendors, and what tells them.

use std::rc::Rc;

use super::feature::Context;
use crate::cluster::Node;
use crate::text::Quoted;
use crate::vm::ShapeError;

/// A CPU vendor, which determines the virtualization extension.
pub(super) struct Vendor {
    /// AMD or Intel.
    pub(super) name: &'static str,
    /// The CPU feature for the vendor's virtualization extension.
    pub(super) extension: &'static str,
    /// The labels that KubeVirt's node labeller adds to nodes: one for the vendor of the CPU, one for the extension if
    /// it is enabled. Source: `kubevirt.io/kubevirt`, `pkg/virt-handler/node-labeller`.
    pub(super) labels: [&'static str; 2],
    /// How the names of CPU models with the extension start, in lower case: Hygon's are like AMD's, and Zhaoxin's like
    /// Intel's. Source: libvirt, `src/cpu_map/x86_*.xml`; a test compares them with the installed libvirt's.
    pub(super) models: &'static str,
}

pub(super) static AMD: Vendor = Vendor {
    name: "AMD",
    extension: "svm",
    labels: ["cpu-vendor.node.kubevirt.io/AMD", "cpu-feature.node.kubevirt.io/svm"],
    models: "athlon,epyc,opteron,phenom,dhyana",
};

pub(super) static INTEL: Vendor = Vendor {
    name: "Intel",
    extension: "vmx",
    labels: ["cpu-vendor.node.kubevirt.io/Intel", "cpu-feature.node.kubevirt.io/vmx"],
    models: "broadwell,cascadelake,clearwaterforest,conroe,cooperlake,core2duo,coreduo,denverton,diamondrapids,\
        graniterapids,haswell,icelake,ivybridge,knightsmill,n270,nehalem,penryn,sandybridge,sapphirerapids,\
        sierraforest,skylake,snowridge,westmere,yongfeng",
};

/// The label of nodes that can run a CPU model. KubeVirt selects nodes by it. Source: `nodeselectorrenderer.go`,
/// `cpuModelLabel`.
pub(super) const MODEL_LABEL: &str = "cpu-model.node.kubevirt.io/";

impl Vendor {
    pub(super) fn other(&self) -> &'static Vendor {
        if self.name == AMD.name { &INTEL } else { &AMD }
    }

    /// Whether a CPU model with this name is the vendor's.
    pub(super) fn has_model(&self, model: &str) -> bool {
        let model = model.to_ascii_lowercase();
        self.models.split(',').any(|start| model.starts_with(start))
    }
}

/// A warning if the CPU model is of the other vendor. CPUs of one vendor can run simple models of the other, and then the
/// nodes say so.
pub(super) fn model_warning(
    vendor: &Vendor,
    nodes: &[Rc<Node>],
    context: &Context<'_>,
) -> Result<Option<String>, ShapeError> {
    let (model, other) = (context.vm.cpu_model()?.unwrap_or_default(), vendor.other());
    let [_, extension_label] = vendor.labels;
    let model_label = format!("{MODEL_LABEL}{model}");
    let has_both = |node: &Rc<Node>| [&model_label, extension_label].iter().all(|it| node.label(it) == Some("true"));
    if !other.has_model(model) || nodes.iter().any(has_both) {
        return Ok(None);
    }
    Ok(Some(format!(
        "spec.template.spec.domain.cpu.model is {}, a CPU by {}, but {} is a feature of CPUs by {}, so the VirtualMachine runs only \
         on a node with both labels {extension_label}=true and {model_label}=true, and the policy knows no such node; correct \
         the model or the vendor",
        Quoted(model),
        other.name,
        vendor.extension,
        vendor.name
    )))
}
