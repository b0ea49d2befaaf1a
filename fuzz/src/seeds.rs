//! The inputs that the targets start from, which are made of the tests' fixtures and the examples.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};
use vm_feature_manager_testkit::{features, set_record};

use crate::{PREFIX, VM, asking, keys, payload};

/// Values of directives and options, in addition to the examples in the reference.
const VALUES: &[(&str, &str)] = &[
    ("nested-virt", "enabled"),
    ("nested-virt", "disabled"),
    ("nested-virt", "true"),
    ("pci-passthrough", r#"{"devices": ["0000:01:00.0"]}"#),
    ("pci-passthrough", r#"{"devices": ["node1/0000:00:02.0", "node1-000003000"]}"#),
    ("pci-passthrough", r#"{"devices": ["10de:1eb8", "10DE:1EB8", "node1/0000:01:00.*"]}"#),
    ("pci-passthrough", r#"{"devices": ["10000:e1:00.0", "node1-10000e1000"]}"#),
    ("pci-passthrough", r#"["00:02.0"]"#),
    ("pci-passthrough", "0000:01:00.0, 03:00.0"),
    ("pci-passthrough", "on"),
    ("pci-passthrough", "devices: [0000:01:00.0]"),
    ("pci-passthrough", "{\u{201c}devices\u{201d}: ['0000:01.00.0'],}"),
    ("pci-passthrough", r#"{"devices": ["0000:01:00.0"], "devices": ["0000-01-00.0"]}"#),
    ("pci-passthrough", r#"{"devices": [], "nodes": {"node1": 1}}"#),
    ("pci-passthrough", r#"{"devices": ["8086:3e98", "8086:3E98", "node1/10de:1eb8"]}"#),
    ("pci-passthrough", r#"{"devices": ["01:00.*", "node2/0000:05:00.*"]}"#),
    ("pci-passthrough", r#"{"devices": ["10000:e1:00.0", "00010000:e1:00.0"]}"#),
    ("gpu-device-plugin", "nvidia.com/gpu"),
    ("gpu-device-plugin", "nvidia.com/gpu=2"),
    ("gpu-device-plugin", r#"{"resource": "nvidia.com/gpu", "count": 2}"#),
    ("gpu-device-plugin", "nvidia.com/gpu:2"),
    ("gpu-device-plugin", "intel.com/COFFEELAKES_GT2_UHD_GRAPHICS_630"),
    ("vbios-injection", "igpu-rom"),
    ("vbios-injection", "yes"),
    ("vbios-injection", "other-namespace/igpu-rom"),
    ("vbios-injection", "disabled"),
    ("vbios-device", "node1-000001000"),
    ("vbios-device", "node2-000005000"),
    ("vbios-device", "hostdev0"),
    ("guest-address", "00:02.0"),
    ("guest-address", "01:00.0"),
    ("sidecar-image", "registry.suse.com/harvester/sidecar-shim:v1.4.0"),
    ("sidecar-image", "localhost:5000/a/b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("sidecar-image", "sidecar"),
    ("cpu-vendor", "amd"),
    ("cpu-vendor", "intel"),
    ("cpu-vendor", "auto"),
    ("cpu-vendor", "any"),
    ("cpu-vendor", " AMD "),
    ("cpu-vendor", ""),
    ("cpu-pinning", "enabled"),
    ("isolate-emulator-thread", "enabled"),
    ("hugepages", "2Mi"),
    ("hugepages", "1Gi"),
    ("numa", "passthrough"),
    ("numa", "enabled"),
    ("numa", "disabled"),
    ("usb-passthrough", r#"{"devices": ["046d:c52b"]}"#),
    ("usb-passthrough", r#"{"devices": ["node1/046D:C52B", "1050:0407"]}"#),
    ("usb-passthrough", r#"{"devices": ["node1-046d-c52b-001002"]}"#),
    ("usb-passthrough", r#"["046d:c52b"]"#),
    ("usb-passthrough", r#"{"devices": ["046d-c52b", "046dc52b"]}"#),
];

const USER_DATA: [&str; 13] = [
    "x_kubevirt_features:\n  nested_virt: true\n  cpu_vendor: amd\n",
    "x_kubevirt_features: {nested_virt: enabled, gpu_device_plugin: nvidia.com/gpu}\n",
    "x_kubevirt_features:\n  pci_passthrough:\n    devices: [\"0000:01:00.0\"]\n  vbios_injection: igpu-rom\n",
    "x_kubevirt_features:\n  nested_virt: false\n  gpu_device_plugin: |\n    nvidia.com/gpu\n",
    "a: &a {b: c}\nx_kubevirt_features: *a\n",
    "x_kubevirt_features:\n  pci_passthrough:\n    devices: [\"0000:01:00.0\"]\n  vgh:\n_injection: igpuh\n",
    "users:\n- default\n---\nx_kubevirt_features: ~\n...\n",
    "#cloud-config\nx_kubevirt_features: {\"nested-virt\": on, pci-passthrough: [1, 0x1f, .5, ~]}\n",
    "## template: jinja\n#cloud-config\nfqdn: {{ v1.local_hostname }}.lab\nx_kubevirt_features: {nested_virt: true}\n",
    "## template: jinja\n#cloud-config\nx_kubevirt_features:\n  nested_virt: '{{ x }}'\n{% if y %}{# z #}{% endif %}\n",
    "Content-Type: multipart/mixed; boundary=\"b\"\nMIME-Version: 1.0\n\n--b\n\n#cloud-config\nx_kubevirt_features: {numa: on}\n",
    "\n#Cloud-Config-Archive\n- x_kubevirt_features: {pci_passthrough: {devices: [], devices: []}}\n",
    "I2Nsb3VkLWNvbmZpZwp4X2t1YmV2aXJ0X2ZlYXR1cmVzOgogIG5lc3RlZF92aXJ0OiB0cnVlCg==",
];

/// The inputs that a target starts from; none if there is no such target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "validate" => payloads(),
        "validate_settings" => settings().iter().map(|s| s.to_string().into_bytes()).collect(),
        "directives" => {
            let seeds = (0..12u8).flat_map(|variant| {
                values().into_iter().map(move |(key, text)| headed([number_of(key), variant], text))
            });
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

/// Values of every directive and option.
pub fn values() -> Vec<(&'static str, &'static str)> {
    let own = VALUES.iter().copied();
    let examples = features::directives().into_iter().filter(|example| !VALUES.contains(example));
    own.chain(examples).collect()
}

/// The byte by which the target `directives` identifies a directive or an option.
fn number_of(key: &str) -> u8 {
    let place = keys().iter().position(|known| *known == key).unwrap_or_else(|| panic!("there is no {key} any more"));
    u8::try_from(place).expect("fewer than 256 directives and options")
}

/// The virtual machines of all examples.
fn examples() -> Vec<Value> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> =
            fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
        entries.sort();
        for path in entries {
            if path.ends_with("vm.yaml") {
                let text = fs::read_to_string(&path).expect("an example");
                found.push(serde_saphyr::from_str(&text).expect("YAML"));
            } else if path.is_dir() && !path.ends_with("cluster") {
                folders.push(path);
            }
        }
    }
    found
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
            "nestedVirtualization": {"enabled": true, "errorHandling": "strip-label", "cpuVendor": "any"},
            "vbiosInjection": {"enabled": false, "errorHandling": "allow-and-log", "hookVersion": "v1alpha2"},
            "pciPassthrough": {
                "maxDevices": 4,
                "deviceNames": "address",
                "equalDevices": "deny",
                "pinToNode": false,
                "allowedDevices": {"default": ["0000:*"], "team-*": "node1/*, node2/*"},
            },
            "gpuDevicePlugin": {"allowedPlugins": ["nvidia.com/*"], "attachDevice": "never", "maxDevices": 2},
        }),
        json!({"defaultDirectives": {
            "*": {"hugepages": "2Mi", "cpu-vendor": "amd"},
            "default": "nested-virt=enabled; pci-passthrough={\"devices\": [\"node1/0000:00:02.0\"]}",
        }}),
        json!({"defaultDirectives": {"default": "nested-vrt; numa=; gpu-device-plugin=a=2", "": {"numa": true}}}),
        json!({"nestedVirtualisation": {}, "pciPassthrough": {"maxDevices": -1, "deviceNames": ["auto"]}}),
    ]
}

/// A virtual machine that chooses its node in every way, and has optional CPU features.
fn placed() -> Value {
    let mut vm = asking(&VM, &[("nested-virt", "enabled"), ("pci-passthrough", "01:00.0, 8086:3e98")]);
    let spec = &mut vm["spec"]["template"]["spec"];
    spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] = json!([
        {"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node1", "node2"]},
            {"key": "cores", "operator": "Gt", "values": ["8"]},
            {"key": "cpu-vendor.node.kubevirt.io/AMD", "operator": "DoesNotExist"},
        ]},
        {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node2"]}]},
    ]);
    spec["tolerations"] =
        json!([{"key": "gpu", "operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoSchedule"}]);
    spec["domain"]["cpu"]["features"] =
        json!([{"name": "vmx", "policy": "optional"}, {"name": "svm", "policy": "optional"}]);
    vm
}

fn payloads() -> Vec<Vec<u8>> {
    let mut objects = examples();
    objects.push(VM.clone());
    let mut recorded = asking(&VM, &[("nested-virt", "enabled")]);
    set_record(
        &mut recorded,
        &[
            ("nested-virt", "enabled", json!([{"cpuFeature": "svm"}])),
            (
                "pci-passthrough",
                r#"{"devices": ["node2/0000:05:00.0"]}"#,
                json!([
                    {"hostDevice": "node2-000005000", "resource": "amd.com/CEZANNE", "beside": ["x"]},
                    {"nodeSelector": "node2"},
                ]),
            ),
        ],
    );
    objects.push(recorded);
    objects.push(placed());
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
