//! The inputs that the targets start from, made of the tests' fixtures and the examples.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::{PREFIX, VM, asking, payload};

const EXAMPLES: [&str; 9] = [
    include_str!("../../examples/all/vm.yaml"),
    include_str!("../../examples/gpu-device-plugin/vm.yaml"),
    include_str!("../../examples/harvester/vm.yaml"),
    include_str!("../../examples/nested-virt/vm.yaml"),
    include_str!("../../examples/pci-passthrough/vm.yaml"),
    include_str!("../../examples/usb-passthrough/vm.yaml"),
    include_str!("../../examples/user-data/vm.yaml"),
    include_str!("../../examples/vbios/vm.yaml"),
    include_str!("../../examples/workstation/vm.yaml"),
];

/// Values of directives and options. The target `directives` uses the number to choose the directive or option.
const VALUES: [(u8, &str); 34] = [
    (0, "enabled"),
    (0, "disabled"),
    (0, "true"),
    (1, r#"{"devices": ["0000:01:00.0"]}"#),
    (1, r#"{"devices": ["node1/0000:00:02.0", "node1-000003000"]}"#),
    (1, r#"["00:02.0"]"#),
    (1, "0000:01:00.0, 03:00.0"),
    (1, r#"{"devices": [], "nodes": {"node1": 1}}"#),
    (2, "nvidia.com/gpu"),
    (2, "nvidia.com/gpu=2"),
    (2, r#"{"resource": "nvidia.com/gpu", "count": 2}"#),
    (3, "igpu-rom"),
    (3, "other-namespace/igpu-rom"),
    (3, "disabled"),
    (4, "node2-000005000"),
    (4, "hostdev0"),
    (5, "registry.suse.com/harvester/sidecar-shim:v1.4.0"),
    (5, "localhost:5000/a/b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (5, "sidecar"),
    (6, "amd"),
    (6, "intel"),
    (6, "auto"),
    (6, " AMD "),
    (6, ""),
    (7, "enabled"),
    (8, "enabled"),
    (9, "2Mi"),
    (9, "1Gi"),
    (10, "passthrough"),
    (10, "disabled"),
    (11, r#"{"devices": ["046d:c52b"]}"#),
    (11, r#"{"devices": ["node1/046D:C52B", "1050:0407"]}"#),
    (11, r#"{"devices": ["node1-046d-c52b-001002"]}"#),
    (11, r#"["046d:c52b"]"#),
];

const USER_DATA: [&str; 9] = [
    "x_kubevirt_features:\n  nested_virt: true\n  cpu_vendor: amd\n",
    "x_kubevirt_features: {nested_virt: enabled, gpu_device_plugin: nvidia.com/gpu}\n",
    "x_kubevirt_features:\n  pci_passthrough:\n    devices: [\"0000:01:00.0\"]\n  vbios_injection: igpu-rom\n",
    "x_kubevirt_features:\n  nested_virt: false\n  gpu_device_plugin: |\n    nvidia.com/gpu\n",
    "a: &a {b: c}\nx_kubevirt_features: *a\n",
    "x_kubevirt_features:\n  pci_passthrough:\n    devices: [\"0000:01:00.0\"]\n  vgh:\n_injection: igpuh\n",
    "users:\n- default\n---\nx_kubevirt_features: ~\n...\n",
    "#cloud-config\nx_kubevirt_features: {\"nested-virt\": on, pci-passthrough: [1, 0x1f, .5, ~]}\n",
    "I2Nsb3VkLWNvbmZpZwp4X2t1YmV2aXJ0X2ZlYXR1cmVzOgogIG5lc3RlZF92aXJ0OiB0cnVlCg==",
];

/// The inputs that a target starts from; none if there is no such target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "validate" => payloads(),
        "validate_settings" => settings().iter().map(|s| s.to_string().into_bytes()).collect(),
        "directives" => {
            let seeds =
                (0..12u8).flat_map(|variant| VALUES.iter().map(move |(key, text)| headed([*key, variant], text)));
            seeds.collect()
        }
        "user_data" => {
            let heads = (0..4u8).flat_map(|place| (0..8u8).map(move |variant| [place, variant]));
            heads.flat_map(|head| USER_DATA.iter().map(move |text| headed(head, text))).collect()
        }
        _ => Vec::new(),
    }
}

/// Writes the inputs of each target into a folder with the target's name.
///
/// # Errors
/// An error of the operating system.
pub fn write(folder: &Path) -> io::Result<()> {
    for (target, _) in crate::TARGETS {
        let folder = folder.join(target);
        fs::create_dir_all(&folder)?;
        for (index, seed) in of(target).into_iter().enumerate() {
            fs::write(folder.join(format!("seed-{index:03}")), seed)?;
        }
    }
    Ok(())
}

fn headed(head: [u8; 2], text: &str) -> Vec<u8> {
    [&head[..], text.as_bytes()].concat()
}

fn settings() -> Vec<Value> {
    let default = include_str!("../../charts/vm-feature-manager-policy/values.yaml");
    let values: Value = serde_saphyr::from_str(default).expect("YAML");
    vec![
        json!({}),
        Value::Null,
        values["settings"].clone(),
        json!({
            "addTrackingAnnotations": false,
            "configSource": "labels",
            "userData": {"enabled": true, "readSecrets": true},
            "kubevirt": {"namespace": "kubevirt", "name": "kubevirt"},
            "policyServer": {"serviceAccount": "policy-server", "namespace": "kubewarden"},
            "nestedVirtualization": {"enabled": true, "errorHandling": "strip-label", "cpuVendor": "amd"},
            "vbiosInjection": {"enabled": false, "errorHandling": "allow-and-log", "hookVersion": "v1alpha2"},
            "pciPassthrough": {
                "maxDevices": 4,
                "deviceNames": "address",
                "pinToNode": false,
                "allowedDevices": {"default": ["0000:*"], "team-*": "node1/*, node2/*"},
            },
            "gpuDevicePlugin": {"allowedPlugins": ["nvidia.com/*"], "attachDevice": "never", "maxDevices": 2},
        }),
        json!({"nestedVirtualisation": {}, "pciPassthrough": {"maxDevices": -1, "deviceNames": ["auto"]}}),
    ]
}

fn payloads() -> Vec<Vec<u8>> {
    let mut objects: Vec<Value> = EXAMPLES.iter().map(|file| serde_saphyr::from_str(file).expect("YAML")).collect();
    objects.push(VM.clone());
    objects.push(asking(&VM, &[("nested-virt", "enabled"), ("nested-virt-added", r#"[{"cpuFeature":"svm"}]"#)]));
    objects.push(asking(
        &VM,
        &[(
            "pci-passthrough-added",
            r#"[{"hostDevice":"node2-000005000","resource":"amd.com/CEZANNE","beside":["x"]},{"nodeSelector":"node2"}]"#,
        )],
    ));
    let mut seeds = Vec::new();
    for settings in settings() {
        for object in &objects {
            seeds.push(payload("CREATE", object, None, &settings));
        }
    }
    for object in &objects {
        let mut without = object.clone();
        if let Some(annotations) = without["metadata"]["annotations"].as_object_mut() {
            annotations.retain(|key, _| !key.starts_with(PREFIX));
        }
        seeds.push(payload("UPDATE", object, Some(&without), &json!({})));
        seeds.push(payload("UPDATE", &without, Some(object), &json!({})));
        let mut other = object.clone();
        for (_, value) in other["metadata"]["annotations"].as_object_mut().into_iter().flatten() {
            *value = json!("disabled");
        }
        seeds.push(payload("UPDATE", object, Some(object), &json!({})));
        seeds.push(payload("UPDATE", &other, Some(object), &json!({})));
    }
    seeds.into_iter().map(String::into_bytes).collect()
}
