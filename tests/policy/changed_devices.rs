//! Devices change after a VM got them: drivers and vGPU profiles give them other resources, they are moved, disabled or
//! plugged in again. What the directive added follows; what the user wrote is theirs to correct.

use rstest::rstest;
use serde_json::{Value, json};

use super::devices::{
    asking, create, edited, entry, having, host_devices, names, node, pci, pci_without_claim, update, usb, warnings,
};
use super::harness::copies::harvester_restore_over;
use super::harness::{Answer, MemoryCluster, Request, annotate, bare_vm};

const OLD: &str = "nvidia.com/2f80";
const NEW: &str = "nvidia.com/GB205_HIGH_DEFINITION_AUDIO_CONTROLLER";

fn cluster(devices: &[[Value; 2]]) -> MemoryCluster {
    MemoryCluster::of([vec![node("node1"), node("node2")], devices.concat()].concat())
}

/// A cluster with a device of this resource at 0000:01:00.1 of node1.
fn with_resource(resource: &str) -> MemoryCluster {
    cluster(&[pci("node1-000001001", "10de:2f80", "7", resource)])
}

fn stored(devices: &[&str], cluster: MemoryCluster) -> Value {
    let answer = create(asking(devices), cluster);
    assert!(answer.is_accepted(), "{}", answer.message());
    answer.after()
}

/// The answer to an update that changes nothing that the policy reads.
fn edit(vm: &Value, cluster: MemoryCluster) -> Answer {
    update(vm, edited(vm), cluster)
}

mod another_resource {
    use super::*;

    /// Harvester names a resource after the PCI ids, and after their description as soon as its database has one.
    #[rstest]
    #[case::address(&["0000:01:00.1"])]
    #[case::address_on_the_node(&["node1/0000:01:00.1"])]
    #[case::name(&["node1-000001001"])]
    #[case::ids(&["10de:2f80"])]
    #[case::slot(&["node1/0000:01:00.*"])]
    fn of_an_entry_of_ours_is_written(#[case] devices: &[&str]) {
        let stored = stored(devices, with_resource(OLD));
        let answer = edit(&stored, with_resource(NEW));
        assert_eq!(host_devices(&answer), json!([entry("node1-000001001", NEW)]));
        let added = answer.added("pci-passthrough").unwrap();
        assert!(added.contains(NEW) && !added.contains(OLD), "{added}");
        assert_eq!(warnings(&answer), "");
        // It is still ours.
        let mut new = answer.after();
        new["metadata"]["annotations"] = json!({});
        assert_eq!(update(&answer.after(), new, with_resource(NEW)).after()["spec"], edited(&bare_vm(&[]))["spec"]);
    }

    #[rstest]
    #[case::address(&["0000:01:00.1"])]
    #[case::ids(&["10de:2f80"])]
    fn of_an_entry_of_the_users_is_an_error_that_names_both(#[case] devices: &[&str]) {
        let vm = having(asking(devices), "hostDevices", json!([entry("node1-000001001", OLD)]));
        let parts = [
            "the VirtualMachine's host device node1-000001001 has the resource nvidia.com/2f80, but Harvester's PCI device of that \
             name has nvidia.com/GB205_HIGH_DEFINITION_AUDIO_CONTROLLER now",
            "correct or remove that entry",
        ];
        create(vm.clone(), with_resource(NEW)).assert_denied(&parts);
        // An update that changes nothing of it is not refused.
        let stored = create(vm, with_resource(OLD)).after();
        let answer = edit(&stored, with_resource(NEW));
        assert_eq!(host_devices(&answer), json!([entry("node1-000001001", OLD)]));
        assert!(warnings(&answer).contains(parts[0]), "{:?}", answer.warnings());
    }

    #[test]
    fn of_an_entry_under_gpus_is_an_error() {
        let vm = having(asking(&["0000:01:00.1"]), "gpus", json!([entry("node1-000001001", OLD)]));
        create(vm, with_resource(NEW)).assert_denied(&["node1-000001001 has the resource nvidia.com/2f80"]);
    }

    /// A vGPU is a PCIDevice, whose resource is that of its profile.
    #[test]
    fn of_another_vgpu_profile_is_written() {
        let profile = |name: &str| cluster(&[pci("node1-000008004", "10de:26b9", "70", name)]);
        let stored = stored(&["node1/0000:08:00.4"], profile("nvidia.com/NVIDIA_L40S-12Q"));
        let answer = edit(&stored, profile("nvidia.com/NVIDIA_L40S-24Q"));
        assert_eq!(host_devices(&answer), json!([entry("node1-000008004", "nvidia.com/NVIDIA_L40S-24Q")]));
    }

    /// With `disableResourcePooling`, a device gets a resource of its own.
    #[test]
    fn of_its_own_is_written() {
        // Each is its own IOMMU group, like the address.
        let disk = |name: &str, resource: &str| pci(name, "144d:a80a", &name[10..12], resource);
        let pooled = || cluster(&[disk("node1-000041000", "x.io/disk"), disk("node1-000081000", "x.io/disk")]);
        let stored = stored(&["node1/0000:81:00.0"], pooled());
        let alone = cluster(&[disk("node1-000041000", "x.io/disk"), disk("node1-000081000", "x.io/node1-000081000")]);
        let answer = edit(&stored, alone);
        assert_eq!(host_devices(&answer), json!([entry("node1-000081000", "x.io/node1-000081000")]));
        assert_eq!(warnings(&answer), "");
    }

    /// Another device of the ids has the old resource, but the entry is named after one that has it no longer.
    #[test]
    fn of_the_device_of_an_entry_counts_before_that_of_others() {
        let before = cluster(&[pci("node1-000001001", "10de:2f80", "7", OLD)]);
        let stored = stored(&["10de:2f80"], before);
        let after = cluster(&[
            pci("node1-000001001", "8086:1521", "7", "intel.com/I350"),
            pci("node1-000002001", "10de:2f80", "8", OLD),
        ]);
        assert_eq!(host_devices(&edit(&stored, after)), json!([entry("node1-000002001", OLD)]));
    }

    #[test]
    fn of_siblings_is_written() {
        let card = |resource: &str| {
            cluster(&[
                pci("node1-00000e000", "10de:1e07", "15", "nvidia.com/GPU"),
                pci("node1-00000e001", "10de:10f7", "15", resource),
            ])
        };
        let stored = update(&bare_vm(&[]), asking(&["0e:00.0"]), card(OLD)).after();
        let answer = edit(&stored, card(NEW));
        let expected = json!([entry("node1-00000e000", "nvidia.com/GPU"), entry("node1-00000e001", NEW)]);
        assert_eq!(host_devices(&answer), expected);
    }
}

mod gone {
    use super::*;

    const CARD: &str = "intel.com/I350_GIGABIT_NETWORK_CONNECTION";

    fn cards(names: &[&str]) -> MemoryCluster {
        cluster(&names.iter().map(|name| pci(name, "8086:1521", &name[10..12], CARD)).collect::<Vec<_>>())
    }

    /// Another node has the same card at the address.
    #[test]
    fn the_device_of_another_node_takes_its_place() {
        let stored = stored(&["0000:03:00.0"], cards(&["node1-000003000", "node2-000003000"]));
        assert_eq!(names(&edit(&stored, cards(&["node1-000003000", "node2-000003000"]))), ["node1-000003000"]);
        let answer = edit(&stored, cards(&["node2-000003000"]));
        assert_eq!(names(&answer), ["node2-000003000"]);
        assert!(answer.added("pci-passthrough").unwrap().contains("node2-000003000"));
    }

    #[rstest]
    #[case::removed(&["node1-000004000"])]
    #[case::disabled(&["node1-000003000 disabled", "node1-000004000"])]
    fn another_of_its_ids_takes_its_place(#[case] left: &[&str]) {
        let stored = stored(&["8086:1521"], cards(&["node1-000003000", "node1-000004000"]));
        assert_eq!(
            stored["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"][0]["name"],
            "node1-000003000"
        );
        let objects = left.iter().flat_map(|name| match name.strip_suffix(" disabled") {
            Some(name) => vec![pci_without_claim(name, "8086:1521", "20", CARD)],
            None => pci(name, "8086:1521", &name[10..12], CARD).to_vec(),
        });
        let answer = edit(&stored, MemoryCluster::of(objects.chain([node("node1")]).collect()));
        assert_eq!(names(&answer), ["node1-000004000"]);
    }

    #[rstest]
    #[case::address(&["0000:03:00.0"], "no node has a PCI device 0000:03:00.0")]
    #[case::on_the_node(&["node1/0000:03:00.0"], "the node node1 has no PCI device 0000:03:00.0; it is on node2")]
    #[case::ids(&["node1/8086:1521"], "the node node1 has no PCI device 8086:1521; it is on node2")]
    fn without_another_it_stays_with_a_warning(#[case] devices: &[&str], #[case] why: &str) {
        let stored = stored(devices, cards(&["node1-000003000"]));
        let others = if devices[0].starts_with("0000") { cards(&[]) } else { cards(&["node2-000003000"]) };
        let answer = edit(&stored, others);
        assert_eq!(names(&answer), ["node1-000003000"]);
        let start = "pci-passthrough fails as before this request, and stays as it is";
        assert!(warnings(&answer).starts_with(start), "{:?}", answer.warnings());
        assert!(warnings(&answer).contains(why), "{:?}", answer.warnings());
    }

    /// What the user wrote is not touched.
    #[test]
    fn an_entry_of_the_users_stays() {
        let there = json!([entry("node1-000003000", CARD)]);
        let vm = having(asking(&["0000:03:00.0"]), "hostDevices", there.clone());
        assert_eq!(host_devices(&create(vm, cards(&["node2-000003000"]))), there);
    }
}

/// Harvester names a USBDevice after its port, and keeps one that is unplugged as an orphan (harvester/harvester, issue 6720).
mod plugged_in_again {
    use super::*;

    const BEFORE: &str = "node1-046d-085c-005005";
    const AFTER: &str = "node1-046d-085c-005002";

    fn asking(device: &str) -> Value {
        bare_vm(&[("usb-passthrough", &json!({"devices": [device]}).to_string())])
    }

    fn orphan(name: &str) -> Value {
        let mut device = usb(name);
        device["status"]["status"] = json!("orphaned");
        device
    }

    fn cluster(devices: &[Value]) -> MemoryCluster {
        MemoryCluster::of([vec![node("node1")], devices.to_vec()].concat())
    }

    fn entry_of(name: &str) -> Value {
        entry(name, &format!("kubevirt.io/{name}"))
    }

    #[rstest]
    #[case::renumbered(&[usb(AFTER)])]
    #[case::with_an_orphan(&[orphan(BEFORE), usb(AFTER)])]
    #[case::with_an_orphan_behind_it(&[usb(AFTER), orphan(BEFORE)])]
    fn the_entry_of_ours_is_written_anew(
        #[case] devices: &[Value],
        #[values("046d:085c", "node1/046d:085c")] device: &str,
    ) {
        let stored = create(asking(device), cluster(&[usb(BEFORE)])).after();
        let answer = edit(&stored, cluster(devices));
        assert_eq!(host_devices(&answer), json!([entry_of(AFTER)]));
        let added = answer.added("usb-passthrough").unwrap();
        assert!(added.contains(AFTER) && !added.contains(BEFORE), "{added}");
        assert_eq!(warnings(&answer), "");
    }

    /// The user wrote an entry for a stick that is no longer there. Kubernetes has no such resource.
    #[test]
    fn the_users_entry_of_an_orphan_stays_theirs() {
        let vm = having(asking("046d:085c"), "hostDevices", json!([entry_of(BEFORE)]));
        let answer = create(vm, cluster(&[orphan(BEFORE), usb(AFTER)]));
        assert_eq!(names(&answer)[0], BEFORE);
    }

    /// Hotplugging a volume is such an update.
    #[rstest]
    #[case::gone(&[])]
    #[case::orphaned(&[orphan(BEFORE)])]
    #[case::another_is_there(&[usb("node1-1050-0407-001003")])]
    fn nothing_is_refused_while_it_is_out(
        #[case] devices: &[Value],
        #[values("reject", "allow-and-log", "strip-label")] mode: &str,
    ) {
        let stored = create(asking("046d:085c"), cluster(&[usb(BEFORE)])).after();
        let mut new = stored.clone();
        let spec = &mut new["spec"]["template"]["spec"];
        spec["domain"]["devices"]["disks"] = json!([{"name": "hp", "disk": {"bus": "scsi"}, "serial": "hp"}]);
        spec["volumes"] = json!([{"name": "hp", "persistentVolumeClaim": {"claimName": "hp", "hotpluggable": true}}]);
        let request = Request::update(stored, new).settings(json!({"usbPassthrough": {"errorHandling": mode}}));
        let answer = request.cluster(cluster(devices)).evaluate();
        answer.assert_accepted_unchanged();
        let start = "usb-passthrough fails as before this request, and stays as it is until the directive changes";
        assert!(warnings(&answer).starts_with(start), "{:?}", answer.warnings());
    }

    /// It is in again, at its old port: nothing had to change.
    #[test]
    fn at_its_old_port_it_is_what_it_was() {
        let stored = create(asking("046d:085c"), cluster(&[usb(BEFORE)])).after();
        let answer = edit(&edit(&stored, cluster(&[])).after(), cluster(&[usb(BEFORE)]));
        assert_eq!(host_devices(&answer), json!([entry_of(BEFORE)]));
        assert_eq!(warnings(&answer), "");
    }
}

/// Harvester restores the spec of a backup over the VM, whose directives have changed since.
mod restored {
    use super::*;

    fn cards() -> MemoryCluster {
        cluster(&[
            pci("node1-00000e000", "10de:1e07", "15", "nvidia.com/TU102"),
            pci("node1-00000e001", "10de:10f7", "15", "nvidia.com/AUDIO"),
            pci("node1-000041000", "10de:1eb8", "30", "nvidia.com/TU104GL_TESLA_T4"),
        ])
    }

    #[rstest]
    #[case::another(&["node1/0000:41:00.0"], &["node1-000041000"])]
    #[case::another_and_it(
        &["node1/0000:41:00.0", "0e:00.0"], &["node1-00000e000", "node1-00000e001", "node1-000041000"]
    )]
    fn devices_are_those_of_todays_directive(#[case] devices: &[&str], #[case] expected: &[&str]) {
        let backup = stored(&["node1/0000:0e:00.0"], cards());
        let mut new = backup.clone();
        annotate(&mut new, &[("pci-passthrough", &json!({"devices": devices}).to_string())]);
        let current = update(&backup, new, cards()).after();
        let answer = update(&current, harvester_restore_over(&current, &backup), cards());
        let mut names = names(&answer);
        names.sort();
        assert_eq!(names, expected);
        assert_eq!(warnings(&answer), "");
    }
}
