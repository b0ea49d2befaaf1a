//! Measures how long requests take, and compares them with a module that does nothing with the same bytes. Each request is
//! measured in a new instance, as policy-server evaluates it, and in a reused one. The measurement includes what policy-server
//! does: it reads the AdmissionReview, builds a payload with the settings, evaluates it, and answers with a patch. The output ends
//! with a table of the ratios and of what does not depend on the machine: fuel (about one unit per instruction), memory, sizes.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use serde_json::{Value, json};
use vm_feature_manager_testkit::features;
use vmfm::admission::{self, AdmissionResponse};
use vmfm::cluster::Cluster;
use vmfm::host::Host;
use vmfm::yaml;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn vm(file: &str, annotations: &[(&str, &str)]) -> Value {
    let mut vm = yaml::read(&root().join(file)).unwrap().remove(0);
    for (key, value) in annotations {
        vm["metadata"]["annotations"][format!("vm-feature-manager.io/{key}")] = json!(value);
    }
    vm
}

/// A request as the API server sends it, and the policy's settings.
struct Case {
    review: Vec<u8>,
    settings: Value,
}

impl Case {
    fn payload(&self) -> Vec<u8> {
        let request: Value = serde_json::from_slice(&self.review).unwrap();
        json!({"request": request, "settings": self.settings}).to_string().into_bytes()
    }

    /// What policy-server does with the request before and after the guest's call.
    fn evaluate(&self, call: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let request: Value = serde_json::from_slice(&self.review).unwrap();
        let payload = json!({"request": request, "settings": self.settings}).to_string();
        let response = AdmissionResponse::from_guest(&request, &call(payload.as_bytes()));
        serde_json::to_vec(&response).unwrap()
    }
}

fn payload(object: Value, old: Option<Value>, settings: &Value) -> Case {
    let request = admission::request(object, old).unwrap();
    Case { review: request.to_string().into_bytes(), settings: settings.clone() }
}

/// The requests that are measured.
fn cases() -> Vec<(&'static str, Case)> {
    let form = "tests/data/vm-ui-create.yaml";
    let stored = "tests/data/vm-stored.yaml";
    let none = json!({});
    let alone = json!({
        "nestedVirtualization": {"cpuVendor": "amd"},
        "pciPassthrough": {"deviceNames": "address"},
        "gpuDevicePlugin": {"attachDevice": "never"},
    });
    let nested = ("nested-virt", "enabled");
    let pci = ("pci-passthrough", r#"{"devices": ["0000:03:00.0"]}"#);
    let pci_of_node = ("pci-passthrough", r#"{"devices": ["node2/0000:05:00.0"]}"#);
    let gpu = ("gpu-device-plugin", "nvidia.com/gpu");
    let rom = ("vbios-injection", "igpu-rom");
    let asked = vm(stored, &[nested, ("nested-virt-applied", "true")]);
    let mut touched = asked.clone();
    touched["metadata"]["resourceVersion"] = json!("2");
    let mut plain = vm(form, &[]);
    plain["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"] = json!([]);
    let mut all = plain.clone();
    for (key, value) in [nested, pci_of_node, gpu, rom] {
        all["metadata"]["annotations"][format!("vm-feature-manager.io/{key}")] = json!(value);
    }
    let workstation = vm("examples/workstation/vm.yaml", &[nested, ("cpu-vendor", "amd")]);
    let mut large = vm(form, &[]);
    let note = "x".repeat(1 << 20);
    large["metadata"]["annotations"]["example.com/note"] = json!(note);
    let mut large_asking = large.clone();
    large_asking["metadata"]["annotations"]["vm-feature-manager.io/nested-virt"] = json!("enabled");
    vec![
        ("no directive", payload(vm(form, &[]), None, &none)),
        ("unchanged update", payload(touched, Some(asked), &none)),
        ("nested-virt", payload(vm(form, &[nested]), None, &alone)),
        ("pci-passthrough", payload(vm(form, &[pci]), None, &alone)),
        ("gpu-device-plugin", payload(vm(form, &[gpu]), None, &alone)),
        ("vbios-injection", payload(vm(form, &[rom]), None, &alone)),
        ("three features", payload(vm(form, &[nested, pci, gpu]), None, &alone)),
        ("all four, with lookups", payload(all, None, &json!({"nestedVirtualization": {"cpuVendor": "amd"}}))),
        ("seven features, with lookups", payload(workstation, None, &none)),
        ("1 MiB, no directive", payload(large, None, &none)),
        ("1 MiB, nested-virt", payload(large_asking, None, &alone)),
    ]
}

/// Checks that the requests ask for every feature.
fn check_features() {
    let text: String = cases().iter().map(|(_, case)| String::from_utf8_lossy(&case.review).into_owned()).collect();
    for feature in features::names() {
        let key = format!("\"vm-feature-manager.io/{feature}\":");
        assert!(text.contains(&key), "no request that is measured asks for {feature}; add it in cases()");
    }
}

fn main() {
    check_features();
    let cluster = Cluster::from_folder(&root().join("examples/workstation/cluster")).unwrap();
    let (policy, noop) = (root().join("policy.wasm"), root().join("target/noop.wasm"));
    let start = Instant::now();
    let host = Host::load(&policy, None, cluster).unwrap();
    let compile = start.elapsed();
    let hosts = [("policy", host), ("nothing", Host::load(&noop, None, Cluster::default()).unwrap())];
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for (case, request) in cases() {
        let answer = request.evaluate(|payload| hosts[0].1.call("validate", payload).unwrap().0);
        let answer = String::from_utf8(answer).unwrap();
        // A denial takes less time.
        assert!(answer.contains(r#""allowed":true"#), "{case}: {answer}");
        let mut group = criterion.benchmark_group(case);
        group.throughput(Throughput::Bytes(request.review.len() as u64));
        for (module, host) in &hosts {
            group.bench_function(format!("fresh/{module}"), |b| {
                b.iter(|| black_box(request.evaluate(|payload| host.call("validate", payload).unwrap().0)));
            });
            let (mut instance, _) = host.instance().unwrap();
            group.bench_function(format!("reused/{module}"), |b| {
                b.iter(|| black_box(request.evaluate(|payload| instance.call("validate", payload).unwrap())));
            });
        }
    }
    criterion.final_summary();
    report(&policy, &noop, &hosts, compile);
}

/// The median that criterion saved, in microseconds.
fn median(case: &str, mode: &str, module: &str) -> Option<f64> {
    let directory = case.replace(['/', ' ', ','], "_");
    let folders = [case.to_owned(), directory];
    let file = folders.iter().find_map(|folder| {
        let path = format!("target/criterion/{folder}/{mode}_{module}/new/estimates.json");
        fs::read_to_string(root().join(path)).ok()
    })?;
    let estimates: Value = serde_json::from_str(&file).ok()?;
    estimates["median"]["point_estimate"].as_f64().map(|nanoseconds| nanoseconds / 1000.0)
}

fn report(policy: &Path, noop: &Path, hosts: &[(&str, Host); 2], compile: Duration) {
    let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    println!(
        "\n| request | bytes | fresh, us | ratio | reused, us | ratio | fuel | ratio | memory, KiB | stack left, KiB |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (case, request) in cases() {
        let payload = request.payload();
        let mut row = format!("| {case} | {} ", payload.len());
        for mode in ["fresh", "reused"] {
            match (median(case, mode, "policy"), median(case, mode, "nothing")) {
                (Some(a), Some(b)) => row.push_str(&format!("| {a:.1} | {:.2} ", a / b)),
                _ => row.push_str("| - | - "),
            }
        }
        let [ours, nothing] = hosts.each_ref().map(|(_, host)| host.measure("validate", &payload).unwrap());
        let ratio = ours.fuel as f64 / nothing.fuel as f64;
        let (memory, stack) = (ours.memory >> 10, ours.free_stack >> 10);
        println!("{row}| {} | {ratio:.1} | {memory} | {stack} |", ours.fuel);
    }
    println!(
        "\nThe module has {} bytes and is compiled in {} ms; the one that does nothing has {} bytes.",
        size(policy),
        compile.as_millis(),
        size(noop)
    );
}
