//! The cluster that the targets look things up in: the objects of three examples, and the Secret of the VirtualMachine.

use std::sync::LazyLock;

use serde_json::{Value, json};
use vm_feature_manager_testkit::MemoryCluster;

use crate::SECRET;

static OBJECTS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let files = [
        include_str!("../../examples/harvester/cluster/cluster.yaml"),
        include_str!("../../examples/vbios/cluster/cluster.yaml"),
        include_str!("../../examples/vbios/cluster/rom.yaml"),
    ];
    let of_file = |file| serde_saphyr::from_multiple::<Value>(file).expect("YAML");
    let mut objects: Vec<Value> = files.into_iter().flat_map(of_file).collect();
    // The first of the two KubeVirt objects counts. It serves the GPU, but only the other one has the gate that a ROM needs.
    let kubevirt = objects.iter_mut().find(|object| object["kind"] == "KubeVirt").expect("a KubeVirt");
    let gates = &mut kubevirt["spec"]["configuration"]["developerConfiguration"]["featureGates"];
    gates.as_array_mut().expect("a list").push(json!("Sidecar"));
    let usb = of_file(include_str!("../../examples/usb-passthrough/cluster/cluster.yaml"));
    objects
        .extend(usb.into_iter().filter(|object| object["kind"].as_str().is_some_and(|kind| kind.starts_with("USB"))));
    let user_data = format!("#cloud-config\npassword: {SECRET}\nx_kubevirt_features: {{}}\n");
    objects.push(json!({
        "kind": "Secret", "metadata": {"name": "igpu-vm-8hq2m", "namespace": "default"},
        "data": {"userdata": base64(user_data.as_bytes())},
    }));
    objects
});

thread_local! {
    static CLUSTER: MemoryCluster = MemoryCluster::of(objects());
}

/// The objects of the cluster.
pub fn objects() -> Vec<Value> {
    OBJECTS.clone()
}

/// Calls the function with the cluster, which keeps nothing from one call to the next.
pub(crate) fn with_cluster<T>(use_it: impl FnOnce(&MemoryCluster) -> T) -> T {
    CLUSTER.with(|cluster| {
        cluster.lookups.take();
        cluster.reviews.take();
        use_it(cluster)
    })
}

/// Encodes bytes in standard base64, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
