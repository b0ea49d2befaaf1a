//! What must hold for any devices of a cluster, any list of `pci-passthrough`, and any devices that a VM already has.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::devices::{asking, create, edited, entry, having, node, pci, pci_without_claim, update};
use super::harness::{Answer, MemoryCluster, bare_vm, record};
use super::properties::config;

const PLACES: [&str; 5] = ["00000e000", "00000e001", "000041000", "000081000", "10000e1000"];

/// A device of a node: its kind, and what its owner did with it.
#[derive(Debug, Clone)]
struct Device {
    name: String,
    kind: usize,
    /// Whether its claim has `disableResourcePooling`.
    is_alone: bool,
    is_enabled: bool,
}

impl Device {
    fn node(&self) -> &str {
        &self.name[..5]
    }

    fn resource(&self) -> String {
        if self.is_alone { format!("x.io/{}", self.name) } else { format!("x.io/{}", self.kind) }
    }

    fn objects(&self) -> Vec<Value> {
        let ids = format!("10de:000{}", self.kind);
        // The functions of a slot share a group.
        let group = &self.name[self.name.len() - 5..self.name.len() - 1];
        match self.is_enabled {
            true => pci(&self.name, &ids, group, &self.resource()).to_vec(),
            false => vec![pci_without_claim(&self.name, &ids, group, &self.resource())],
        }
    }
}

fn devices() -> impl Strategy<Value = Vec<Device>> {
    let names = || ["node1", "node2"].into_iter().flat_map(|node| PLACES.map(|place| format!("{node}-{place}")));
    let one = (0..3_usize, prop::bool::weighted(0.2), prop::bool::weighted(0.8), prop::bool::weighted(0.8));
    let count = prop::sample::select(vec![PLACES.len(), PLACES.len() * 2]);
    count.prop_flat_map(move |count| prop::collection::vec(one.clone(), count)).prop_map(move |devices| {
        let of = |(name, (kind, is_alone, is_enabled, is_there))| {
            Some(Device { name, kind, is_alone, is_enabled }).filter(|_| is_there)
        };
        names().zip(devices).filter_map(of).collect()
    })
}

/// The texts of a directive.
fn texts() -> impl Strategy<Value = Vec<String>> {
    let device = prop_oneof![
        4 => prop::sample::select(vec!["0e:00.0", "0e:00.1", "41:00.0", "81:00.0", "10000:e1:00.0"]),
        3 => prop::sample::select(vec!["10de:0000", "10de:0001", "10de:0002"]),
        1 => prop::sample::select(vec!["0e:00.*", "41:00.*"]),
    ];
    let node = prop_oneof![3 => Just(""), 1 => Just("node1/"), 1 => Just("node2/")];
    let text = (node, device).prop_map(|(node, device)| format!("{node}{device}"));
    let name = prop::sample::select(vec!["node1-000041000".to_owned(), "node2-00000e000".to_owned()]);
    prop::collection::vec(prop_oneof![8 => text, 1 => name], 1..4)
}

/// Indexes of devices that a VM has, under `hostDevices` and under `gpus`, and whether they are named after the devices.
fn present() -> impl Strategy<Value = Vec<(prop::sample::Index, bool, bool)>> {
    let one = (any::<prop::sample::Index>(), prop::bool::weighted(0.3), prop::bool::weighted(0.7));
    prop::collection::vec(one, 0..3)
}

fn cluster(devices: &[Device]) -> MemoryCluster {
    let devices = devices.iter().flat_map(Device::objects);
    MemoryCluster::of([node("node1"), node("node2")].into_iter().chain(devices).collect())
}

/// Gives the VM the devices.
fn with(mut vm: Value, devices: &[Device], present: &[(prop::sample::Index, bool, bool)]) -> Value {
    let (mut host_devices, mut gpus) = (Vec::new(), Vec::new());
    // Harvester refuses a VM with devices of two nodes.
    let node = devices.first().map(|device| device.node());
    let has_nodes = devices.iter().any(|device| Some(device.node()) != node);
    let devices: Vec<&Device> = devices.iter().filter(|device| Some(device.node()) == node).collect();
    for (number, (index, is_gpu, is_named)) in present.iter().enumerate().filter(|_| !devices.is_empty()) {
        let device = *index.get(&devices);
        // Under another name, the node of a device is not known.
        let name = if *is_named || has_nodes { device.name.clone() } else { format!("mine-{number}") };
        let list = if *is_gpu { &mut gpus } else { &mut host_devices };
        list.push(entry(&name, &device.resource()));
    }
    for (list, entries) in [("hostDevices", host_devices), ("gpus", gpus)] {
        if !entries.is_empty() {
            vm = having(vm, list, json!(entries));
        }
    }
    vm
}

/// The entries of the VM, each with how often it is there.
fn entries(vm: &Value) -> BTreeMap<String, usize> {
    let mut entries = BTreeMap::new();
    let devices = &vm["spec"]["template"]["spec"]["domain"]["devices"];
    for list in ["hostDevices", "gpus"] {
        for entry in devices[list].as_array().into_iter().flatten() {
            *entries.entry(format!("{list} {entry}")).or_default() += 1;
        }
    }
    entries
}

/// What the record lists, in any order.
fn added(answer: &Answer) -> Vec<String> {
    let part = record(&answer.after(), "pci-passthrough").expect("the directive is applied");
    let mut added: Vec<String> = part["added"].as_array().unwrap().iter().map(Value::to_string).collect();
    added.sort();
    added
}

fn without_directive(vm: &Value) -> Value {
    let mut vm = vm.clone();
    vm["metadata"]["annotations"] = json!({});
    vm
}

proptest! {
    // Three of four inputs ask for what no node has.
    #![proptest_config(ProptestConfig { cases: config().cases / 4, ..config() })]

    #[test]
    fn the_directive_adds_once_and_is_taken_back(
        devices in devices(), texts in texts(), present in present(), is_update in any::<bool>(),
    ) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let vm = with(asking(&texts), &devices, &present);
        let plain = with(bare_vm(&[]), &devices, &present);
        let cluster = || cluster(&devices);
        let answer: Answer =
            if is_update { update(&plain, vm.clone(), cluster()) } else { create(vm.clone(), cluster()) };
        prop_assume!(answer.is_accepted());
        let after = answer.after();
        // What the user has stays, and no device is there twice.
        let (before, now) = (entries(&vm), entries(&after));
        prop_assert!(before.iter().all(|(entry, count)| now[entry] >= *count), "{now:?}");
        prop_assert!(now.iter().all(|(entry, count)| *count <= before.get(entry).copied().unwrap_or(1)), "{now:?}");
        // Each new device is one of the cluster, on one node, and is asked for or goes with one that is.
        let new: Vec<&String> = now.keys().filter(|entry| !before.contains_key(*entry)).collect();
        prop_assert!(new.iter().all(|entry| devices.iter().any(|device| {
            entry.contains(&format!(r#""{}""#, device.name)) && entry.contains(&format!(r#""{}""#, device.resource()))
        })), "{new:?}");
        prop_assert!(!["node1-", "node2-"].iter().all(|node| new.iter().any(|entry| entry.contains(node))), "{new:?}");
        // The second time, nothing changes.
        let again = if is_update { update(&plain, after.clone(), cluster()) } else { create(after.clone(), cluster()) };
        prop_assert_eq!(entries(&again.after()), now.clone(), "{}", again.patch());
        prop_assert_eq!(added(&again), added(&answer));
        let later = update(&after, edited(&after), cluster());
        prop_assert!(later.is_accepted(), "{}", later.message());
        prop_assert_eq!(entries(&later.after()), now);
        prop_assert!(!later.warnings().join(" ").contains("fails as before"), "{:?}", later.warnings());
        // Without the directive, the VM is what it was.
        let dropped = update(&after, without_directive(&after), cluster());
        prop_assert_eq!(&dropped.after()["spec"], &plain["spec"]);
    }
    /// Devices come and go between two requests, of which the second one asks for nothing.
    #[test]
    fn what_changes_meanwhile_refuses_nothing(
        before in devices(), after in devices(), texts in texts(), present in present(),
    ) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let vm = with(asking(&texts), &before, &present);
        let plain = with(bare_vm(&[]), &before, &present);
        let created = create(vm.clone(), cluster(&before));
        prop_assume!(created.is_accepted());
        let stored = created.after();
        let later = update(&stored, edited(&stored), cluster(&after));
        prop_assert!(later.is_accepted(), "{}", later.message());
        let (users, now) = (entries(&vm), entries(&later.after()));
        prop_assert!(users.iter().all(|(entry, count)| now.get(entry) >= Some(count)), "{users:?} {now:?}");
        // What fails leaves everything as it is.
        if later.warnings().join(" ").contains("fails as before") {
            prop_assert_eq!(entries(&stored), now);
        }
        let again = update(&later.after(), edited(&later.after()), cluster(&after));
        prop_assert_eq!(entries(&again.after()), entries(&later.after()));
        let dropped = update(&later.after(), without_directive(&later.after()), cluster(&after));
        prop_assert_eq!(&dropped.after()["spec"], &edited(&plain)["spec"]);
    }
}
