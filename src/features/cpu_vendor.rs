//! CPU vendors, and what tells them.

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
