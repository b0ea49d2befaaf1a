//! Harvester's controller renames the devices of a VM that stops, after those that it actually got. The update changes
//! nothing but their names (`patchHostDevices` of pcidevices).

use rstest::rstest;
use serde_json::{Value, json};

use super::devices::{asking, edited, entry, having, node, pci};
use super::harness::copies::harvester_restore_over;
use super::harness::{Answer, MemoryCluster, PREFIX, Request, annotate, bare_vm, vbios_objects};

const CARD: &str = "nvidia.com/TU104GL_TESLA_T4";
const AUDIO: &str = "nvidia.com/TU104_HD_AUDIO_CONTROLLER";
const NIC: &str = "intel.com/I350";

/// Cards of two functions at 01, 02, 81 and 82; a network card with two ports in one group at 03, and single ones at 05,
/// 07, 08 and 09; on node2 another one at 41.
fn cluster() -> MemoryCluster {
    let mut objects = vec![node("node1"), node("node2")];
    for slot in ["01", "02", "81", "82"] {
        objects.extend(pci(&format!("node1-0000{slot}000"), "10de:1eb8", slot, CARD));
        objects.extend(pci(&format!("node1-0000{slot}001"), "10de:10f8", slot, AUDIO));
    }
    for name in ["node1-000003000", "node1-000003001", "node1-000005000", "node1-000007000", "node1-000008000"] {
        objects.extend(pci(name, "8086:1521", &name[10..12], NIC));
    }
    objects.extend(pci("node1-000009000", "8086:1521", "9", NIC));
    objects.extend(pci("node2-000041000", "8086:1521", "41", NIC));
    objects.extend(vbios_objects());
    let mut cluster = MemoryCluster::of(objects);
    let resources = [("10de:1eb8", CARD), ("10de:10f8", AUDIO), ("8086:1521", NIC)];
    let permitted = resources.map(|(ids, resource)| json!({"pciVendorSelector": ids, "resourceName": resource}));
    cluster.object("KubeVirt", "kubevirt")["spec"]["configuration"]["permittedHostDevices"] =
        json!({"pciHostDevices": permitted});
    cluster
}

/// A VM, and what happens to it.
struct Vm {
    stored: Value,
    settings: Value,
}

impl Vm {
    /// Creates a VM with directives. `own` lists the devices that the user wrote, by name and resource.
    fn create(own: &[(&str, &str)], directives: &[(&str, &str)], settings: Value) -> Self {
        let mut vm = bare_vm(directives);
        if !own.is_empty() {
            vm = having(vm, "hostDevices", entries(own));
        }
        let answer = Request::create(vm).settings(settings.clone()).cluster(cluster()).evaluate();
        assert!(answer.is_accepted(), "{}", answer.message());
        Self { stored: answer.after(), settings }
    }

    fn with(own: &[(&str, &str)], devices: &[&str]) -> Self {
        Self::create(own, &[("pci-passthrough", &json!({"devices": devices}).to_string())], json!({}))
    }

    /// The API server may call the policy twice for a request. The second time changes nothing.
    #[track_caller]
    fn answer(&self, new: Value) -> Answer {
        let evaluate = |new| {
            Request::update(self.stored.clone(), new).settings(self.settings.clone()).cluster(cluster()).evaluate()
        };
        let answer = evaluate(new);
        if answer.is_accepted() {
            assert_eq!(evaluate(answer.after()).after(), answer.after(), "the second time");
        }
        answer
    }

    #[track_caller]
    fn update(mut self, change: impl Fn(&mut Value)) -> (Self, String) {
        let mut new = self.stored.clone();
        change(&mut new);
        let answer = self.answer(new);
        assert!(answer.is_accepted(), "{}", answer.message());
        self.stored = answer.after();
        (self, answer.warnings().join(" "))
    }

    /// An update that is silent.
    #[track_caller]
    fn change(self, change: impl Fn(&mut Value)) -> Self {
        let (vm, warnings) = self.update(change);
        assert_eq!(warnings, "");
        vm
    }

    /// Gives the devices these names, in order.
    #[track_caller]
    fn rename(self, names: &[&str]) -> Self {
        let devices = |vm: &mut Value| {
            let devices = devices(vm);
            assert_eq!(devices.len(), names.len());
            devices.iter_mut().zip(names).for_each(|(device, name)| device["name"] = json!(name));
        };
        let vm = self.change(devices);
        assert_eq!(vm.names(), names);
        vm
    }

    /// The same while the policy cannot be called.
    fn rename_unseen(mut self, names: &[&str]) -> Self {
        devices(&mut self.stored).iter_mut().zip(names).for_each(|(device, name)| device["name"] = json!(name));
        self
    }

    /// Harvester, or the user while the policy cannot be called, adds a device.
    fn with_device(mut self, name: &str, resource: &str) -> Self {
        devices(&mut self.stored).push(entry(name, resource));
        self
    }

    fn ask(self, devices: &[&str]) -> (Self, String) {
        let value = json!({"devices": devices}).to_string();
        self.update(|vm| annotate(vm, &[("pci-passthrough", &value)]))
    }

    fn remove(self, directive: &str) -> (Self, String) {
        self.update(|vm| {
            let annotations = vm["metadata"]["annotations"].as_object_mut().unwrap();
            annotations.remove(&format!("{PREFIX}{directive}")).unwrap();
        })
    }

    /// What is left without the directive.
    #[track_caller]
    fn end(self) -> Vec<String> {
        let (vm, warnings) = self.remove("pci-passthrough");
        assert_eq!(warnings, "");
        vm.names()
    }

    fn names(&self) -> Vec<String> {
        let devices = &self.stored["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"];
        let names = devices.as_array().into_iter().flatten().map(|device| device["name"].as_str().unwrap().to_owned());
        names.collect()
    }

    /// What the hook looks for.
    fn target(&self) -> String {
        let annotations = &self.stored["spec"]["template"]["metadata"]["annotations"];
        let sidecars: Value =
            serde_json::from_str(annotations["hooks.kubevirt.io/hookSidecars"].as_str().unwrap()).unwrap();
        sidecars[0]["command"][6].as_str().unwrap().to_owned()
    }
}

fn entries(devices: &[(&str, &str)]) -> Value {
    devices.iter().map(|(name, resource)| entry(name, resource)).collect()
}

fn devices(vm: &mut Value) -> &mut Vec<Value> {
    let devices = &mut vm["spec"]["template"]["spec"]["domain"]["devices"]["hostDevices"];
    if devices.is_null() {
        *devices = json!([]);
    }
    devices.as_array_mut().unwrap()
}

/// Of equal devices, each stays whose it was.
#[rstest]
#[case::the_users_first(&["node1-000008000", "node1-000009000"], "node1-000008000")]
#[case::after_each_other(&["node1-000005000", "node1-000007000"], "node1-000005000")]
#[case::to_ports_of_one_group(&["node1-000003000", "node1-000003001"], "node1-000003000")]
#[case::one_of_them(&["node1-000003000", "node1-000005000"], "node1-000003000")]
#[case::alike(&["node1-000008000", "node1-000008000"], "node1-000008000")]
fn devices_stay_whose_they_were(#[case] names: &[&str], #[case] left: &str) {
    let vm = Vm::with(&[("node1-000007000", NIC)], &["node1/05:00.0"]);
    assert_eq!(vm.names(), ["node1-000007000", "node1-000005000"]);
    assert_eq!(vm.rename(names).end(), [left]);
}

#[test]
fn two_devices_of_the_policys_go_after_two_renames() {
    let vm = Vm::with(&[("node1-000007000", NIC)], &["node1/05:00.0", "node1/08:00.0"]);
    let vm = vm.rename(&["node1-000009000", "node1-000007000", "node1-000003000"]);
    let vm = vm.rename(&["node1-000005000", "node1-000003000", "node1-000007000"]);
    assert_eq!(vm.end(), ["node1-000005000"]);
}

/// The user has a card, and so has the directive. Harvester added the second function of that one.
#[rstest]
#[case::to_other_cards(["node1-000081000", "node1-000081001", "node1-000082000", "node1-000082001"])]
#[case::exchanged(["node1-000001000", "node1-000001001", "node1-000002000", "node1-000002001"])]
fn what_harvester_added_stays_beside_its_device(#[case] names: [&str; 4]) {
    let own = [("node1-000002000", CARD), ("node1-000002001", AUDIO)];
    let vm = || Vm::with(&own, &["node1/01:00.0"]).with_device("node1-000001001", AUDIO).rename(&names);
    assert_eq!(vm().end(), names[..2]);
    let (vm, _) = vm().ask(&["node1/05:00.0"]);
    assert_eq!(vm.names(), [names[0], names[1], "node1-000005000"]);
}

/// The name of a device that the user removed may be that of another one later.
#[test]
fn what_the_user_removed_is_forgotten() {
    let own = [("node1-000002000", CARD), ("node1-000002001", AUDIO)];
    let vm = Vm::with(&own, &["node1/01:00.0"]).with_device("node1-000001001", AUDIO);
    let vm = vm.change(|vm| drop(devices(vm).drain(..2)));
    assert_eq!(vm.rename(&["node1-000002000", "node1-000002001"]).end(), [""; 0]);
}

#[test]
fn a_device_that_the_user_removes_comes_again_and_goes_with_its_siblings() {
    let vm = Vm::with(&[], &["node1/01:00.0"]).with_device("node1-000001001", AUDIO);
    let (vm, _) = vm.update(|vm| drop(devices(vm).remove(0)));
    assert_eq!(vm.names(), ["node1-000001001", "node1-000001000"]);
    assert_eq!(vm.end(), [""; 0]);
}

/// The device shares no group with the directive's.
#[rstest]
fn a_device_of_the_users_is_not_doubtful(#[values("01:00.0", "node1/01:00.0")] device: &str) {
    let vm = Vm::with(&[("node1-000005000", NIC)], &[device]);
    assert_eq!(vm.end(), ["node1-000005000"]);
}

/// A backup has the device of a directive that was removed since, and what Harvester added with it.
#[rstest]
#[case::no_directive(None, &[])]
#[case::another_directive(Some("node1/05:00.0"), &["node1-000005000"])]
fn what_a_restore_brings_goes_with_its_siblings(#[case] today: Option<&str>, #[case] left: &[&str]) {
    let vm = Vm::with(&[], &["node1/01:00.0"]).with_device("node1-000001001", AUDIO);
    let backup = vm.stored.clone();
    let (vm, _) = match today {
        Some(device) => vm.ask(&[device]),
        None => vm.remove("pci-passthrough"),
    };
    let (vm, _) = vm.update(|vm| *vm = harvester_restore_over(vm, &backup));
    assert_eq!(vm.names(), left);
    if today.is_some() {
        assert_eq!(vm.end(), [""; 0]);
    }
}

/// The policy did not see which of two equal devices got which name.
#[test]
fn an_unseen_rename_leaves_what_may_be_the_users() {
    let vm = Vm::with(&[("node1-000007000", NIC)], &["node1/05:00.0"]);
    let (vm, warnings) = vm.rename_unseen(&["node1-000003000", "node1-000003001"]).remove("pci-passthrough");
    assert_eq!(vm.names(), ["node1-000003001"]);
    assert!(warnings.contains("node1-000003001 stay: Harvester may have added them"), "{warnings}");
    // Without other devices, there is no doubt.
    let vm = Vm::with(&[], &["node1/01:00.0"]).with_device("node1-000001001", AUDIO);
    assert_eq!(vm.rename_unseen(&["node1-000002000", "node1-000002001"]).end(), [""; 0]);
}

/// The user's device of the card's group is not Harvester's, also if the policy's GPU gets a PCIDevice's name only later.
#[rstest]
fn a_device_of_the_users_stays_beside_a_gpu_that_was_renamed(#[values(true, false)] is_first: bool) {
    let settings = json!({"gpuDevicePlugin": {"allowedPlugins": [CARD]}});
    let audio = [("node1-000001001", AUDIO)];
    let vm = Vm::create(if is_first { &audio } else { &[] }, &[("gpu-device-plugin", CARD)], settings);
    let vm = if is_first { vm } else { vm.change(|vm| devices(vm).push(entry("node1-000001001", AUDIO))) };
    let names: Vec<_> = vm.names().iter().map(|name| name.replace("gpu-0", "node1-000001000")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let (vm, warnings) = vm.rename(&names).remove("gpu-device-plugin");
    assert_eq!((vm.names(), warnings.as_str()), (vec!["node1-000001001".to_owned()], ""));
}

/// The directive exchanges one of two devices; Harvester added the second function of the other one.
#[rstest]
#[case::one_of_two(&["node1/01:00.0", "node1/05:00.0"], &["node1/01:00.0", "node1/07:00.0"], &["node1-000001000", "node1-000001001", "node1-000007000"])]
#[case::to_both_functions(&["node1/01:00.0", "node1/05:00.0"], &["node1/01:00.*"], &["node1-000001000", "node1-000001001"])]
#[case::to_the_other_function(&["node1/01:00.0", "node1/05:00.0"], &["node1/01:00.1"], &["node1-000001000", "node1-000001001"])]
#[case::to_another_card(&["node1/01:00.0", "node1/05:00.0"], &["node1/02:00.0"], &["node1-000002000", "node1-000002001"])]
fn siblings_of_what_stays_stay_once(#[case] before: &[&str], #[case] after: &[&str], #[case] names: &[&str]) {
    let (vm, _) = Vm::with(&[], before).with_device("node1-000001001", AUDIO).ask(after);
    let mut there = vm.names();
    there.sort();
    assert_eq!(there, names);
    let vm = vm.change(|vm| *vm = edited(vm));
    assert_eq!(vm.end(), [""; 0]);
}

/// Harvester changes only the names, and the entries keep their other fields.
mod with_other_fields {
    use super::*;

    fn tagged(name: &str, resource: &str) -> Value {
        let mut entry = entry(name, resource);
        entry["tag"] = json!("mine");
        entry
    }

    #[test]
    fn an_entry_of_the_users_stays_the_device() {
        let vm = having(asking(&["node1/07:00.0"]), "hostDevices", json!([tagged("node1-000007000", NIC)]));
        let stored = Request::create(vm).cluster(cluster()).evaluate().after();
        let vm = Vm { stored, settings: json!({}) }.rename(&["node1-000008000"]).change(|vm| *vm = edited(vm));
        assert_eq!(vm.end(), ["node1-000008000"]);
    }

    /// The user adds the field to the policy's entry, so it is theirs.
    #[test]
    fn an_entry_that_was_the_policys_stays_the_device() {
        let (vm, warnings) = Vm::with(&[], &["node1/07:00.0"]).update(|vm| devices(vm)[0]["tag"] = json!("mine"));
        assert!(warnings.contains("has been changed since the policy added it, so it stays"), "{warnings}");
        let (vm, _) = vm.update(|vm| devices(vm)[0]["name"] = json!("node1-000008000"));
        assert_eq!(vm.change(|vm| *vm = edited(vm)).end(), ["node1-000008000"]);
    }

    #[test]
    fn a_neighbour_is_followed() {
        let own = having(asking(&["node1/01:00.0"]), "hostDevices", json!([tagged("node1-000007000", NIC)]));
        let stored = Request::create(own).cluster(cluster()).evaluate().after();
        let vm = Vm { stored, settings: json!({}) }.with_device("node1-000001001", AUDIO);
        let vm = vm.rename(&["node1-000008000", "node1-000002000", "node1-000002001"]);
        assert_eq!(vm.end(), ["node1-000008000"]);
    }
}

/// A second evaluation sees names that the policy itself has changed. It is no rename of Harvester's.
#[rstest]
#[case::another_card(&["node1/01:00.0"], &[("node1-000001001", AUDIO)], &["node1/02:00.0"])]
#[case::other_ports(&["node1/03:00.1"], &[("node1-000003000", NIC)], &["node1/08:00.0", "node1/07:00.0"])]
#[case::one_more(&["node1/05:00.0"], &[], &["node1/05:00.0", "node1/08:00.0"])]
fn what_the_policy_changes_goes(#[case] before: &[&str], #[case] added: &[(&str, &str)], #[case] after: &[&str]) {
    let mut vm = Vm::with(&[], before);
    for (name, resource) in added {
        vm = vm.with_device(name, resource);
    }
    let (vm, _) = vm.ask(after);
    assert_eq!(vm.end(), [""; 0]);
}

/// The user replaces a device of theirs by one of the directive's.
#[test]
fn what_the_user_gives_to_the_directive_goes() {
    let vm = Vm::with(&[("node1-000007000", NIC)], &["node1/05:00.0"]);
    let value = json!({"devices": ["node1/05:00.0", "node1/08:00.0"]}).to_string();
    let (vm, _) = vm.update(|vm| {
        devices(vm).remove(0);
        annotate(vm, &[("pci-passthrough", &value)]);
    });
    assert_eq!(vm.names(), ["node1-000005000", "node1-000008000"]);
    assert_eq!(vm.end(), [""; 0]);
}

/// The directive names a device that the user has.
mod an_entry_of_the_users {
    use super::*;

    const OWN: &[(&str, &str)] = &[("node1-000005000", NIC)];

    #[rstest]
    #[case::default(json!({}), "node1-000007000")]
    #[case::equal_devices(json!({"pciPassthrough": {"equalDevices": "deny"}}), "node1-000007000")]
    #[case::most_devices(json!({"pciPassthrough": {"maxDevices": 1}}), "node1-000007000")]
    #[case::another_node(json!({}), "node2-000041000")]
    fn stays_the_device(#[case] settings: Value, #[case] name: &str) {
        let device = if name.starts_with("node2") { "05:00.0" } else { "node1/05:00.0" };
        let directive = json!({"devices": [device]}).to_string();
        let create = json!({"pciPassthrough": {"maxDevices": 1}});
        let mut vm = Vm::create(OWN, &[("pci-passthrough", &directive)], create);
        vm.settings = settings;
        let vm = vm.rename(&[name]).change(|vm| *vm = edited(vm));
        assert_eq!(vm.names(), [name]);
        assert_eq!(vm.end(), [name]);
    }

    /// Then the policy adds its own.
    #[test]
    fn that_is_removed_is_missed() {
        let own = [OWN[0], ("node1-000007000", NIC)];
        let (vm, _) = Vm::with(&own, &["node1/05:00.0"]).update(|vm| drop(devices(vm).remove(0)));
        assert_eq!(vm.names(), ["node1-000007000", "node1-000005000"]);
    }

    /// The record still lists it beside the other function after the policy adds it again.
    #[test]
    fn that_is_removed_stays_a_neighbour() {
        let own = [("node1-000001001", AUDIO)];
        let (vm, _) = Vm::with(&own, &["node1/01:00.0", "node1/01:00.1"]).update(|vm| drop(devices(vm).remove(0)));
        assert_eq!(vm.names(), ["node1-000001000", "node1-000001001"]);
    }

    /// The policy's own device comes again beside it.
    #[test]
    fn does_not_take_the_place_of_one_that_is_removed() {
        let own = [("node1-000007000", NIC)];
        let vm = Vm::with(&own, &["node1/05:00.0"]).rename(&["node1-000008000", "node1-000009000"]);
        let (vm, _) = vm.update(|vm| drop(devices(vm).remove(1)));
        assert_eq!(vm.names(), ["node1-000008000", "node1-000005000"]);
    }

    /// The policy could not be called when the directive was set.
    #[test]
    fn of_the_resource_is_not_the_device_of_a_directive_that_was_missed() {
        let stored = having(asking(&["node1/05:00.0"]), "hostDevices", json!([entry("node1-000007000", NIC)]));
        let (vm, _) = Vm { stored, settings: json!({}) }.update(|vm| *vm = edited(vm));
        assert_eq!(vm.names(), ["node1-000007000", "node1-000005000"]);
    }
}

/// Harvester turns GPUs into host devices, and renames them when the VM stops.
#[test]
fn a_gpu_that_becomes_a_host_device_goes_with_its_directive() {
    let settings = json!({"gpuDevicePlugin": {"allowedPlugins": [CARD]}});
    let vm = Vm::create(&[], &[("gpu-device-plugin", CARD)], settings);
    let moved = vm.update(|vm| {
        let domain = &mut vm["spec"]["template"]["spec"]["domain"]["devices"];
        if let Some(gpus) = domain.as_object_mut().unwrap().remove("gpus") {
            domain["hostDevices"] = gpus;
        }
    });
    let vm = moved.0;
    assert_eq!(vm.names(), ["gpu-0"]);
    let (vm, _) = vm.rename(&["node1-000001000"]).remove("gpu-device-plugin");
    assert_eq!(vm.names(), [""; 0]);
}

/// The device with the ROM.
mod the_device_of_a_rom {
    use super::*;

    const SLOT: (&str, &str) = ("pci-passthrough", r#"{"devices": ["node1/01:00.*"]}"#);
    const ROM: (&str, &str) = ("vbios-injection", "igpu-rom");

    #[rstest]
    #[case::name("node1-000001000", "0000:01:00.0 node1-000082000")]
    #[case::address("01:00.0", "0000:01:00.0 node1-000082000")]
    #[case::address_with_its_node("node1/0000:01:00.0", "0000:01:00.0 node1-000082000")]
    #[case::ids("10de:1eb8", "node1-000082000")]
    fn is_found_under_its_new_name(#[case] option: &str, #[case] target: &str) {
        let vm = Vm::create(&[], &[SLOT, ROM, ("vbios-device", option)], json!({}));
        let (vm, _) = vm.update(|vm| {
            devices(vm)[0]["name"] = json!("node1-000082000");
            devices(vm)[1]["name"] = json!("node1-000082001");
        });
        assert_eq!(vm.target(), target);
        let (vm, _) = vm.update(|vm| *vm = edited(vm));
        assert_eq!(vm.target(), target);
        // Another ROM for the same device.
        let (vm, _) = vm.update(|vm| annotate(vm, &[("vbios-injection", "igpu-rom "), ("guest-address", "00:05.0")]));
        assert_eq!(vm.target(), target);
        let (vm, _) = vm.remove("vbios-injection");
        assert_eq!(vm.names(), ["node1-000082000", "node1-000082001"]);
    }

    /// Kubernetes exchanged two cards.
    #[test]
    fn that_was_exchanged_with_another_is_found() {
        let both = ("pci-passthrough", r#"{"devices": ["node1/05:00.0", "node1/07:00.0"]}"#);
        let vm = Vm::create(&[], &[both, ROM, ("vbios-device", "05:00.0")], json!({}));
        assert_eq!(vm.target(), "0000:05:00.0 node1-000005000");
        let (vm, _) = vm.update(|vm| {
            devices(vm)[0]["name"] = json!("node1-000007000");
            devices(vm)[1]["name"] = json!("node1-000005000");
        });
        // The entry of the address, whatever its place in the list.
        assert_eq!(vm.target(), "0000:05:00.0 node1-000005000");
    }

    /// A GPU of a device plugin has the policy's name until the VM stops.
    #[test]
    fn of_a_device_plugin_is_found_under_its_new_name() {
        let settings = json!({"gpuDevicePlugin": {"allowedPlugins": [CARD]}});
        let gpu = [("gpu-device-plugin", CARD), ROM, ("vbios-device", "gpu-0")];
        let vm = Vm::create(&[], &gpu, settings);
        let (vm, _) = vm.update(|vm| {
            for list in ["hostDevices", "gpus"] {
                let devices = &mut vm["spec"]["template"]["spec"]["domain"]["devices"][list];
                devices
                    .as_array_mut()
                    .into_iter()
                    .flatten()
                    .for_each(|device| device["name"] = json!("node1-000081000"));
            }
        });
        assert_eq!(vm.target(), "node1-000081000");
    }

    /// The directives are in user data that moved to a Secret, which the policy does not read.
    #[test]
    fn whose_directives_are_hidden_is_followed() {
        let settings = json!({"userData": {"enabled": true}});
        let text = "#cloud-config\nx_kubevirt_features: {pci_passthrough: {devices: ['node1/01:00.*']}, \
                    vbios_injection: igpu-rom, vbios_device: '01:00.0'}\n";
        let volume = |source: Value| json!([{"name": "cloudinitdisk", "cloudInitNoCloud": source}]);
        let mut vm = bare_vm(&[]);
        vm["spec"]["template"]["spec"]["volumes"] = volume(json!({"userData": text}));
        let answer = Request::create(vm).settings(settings.clone()).cluster(cluster()).evaluate();
        let vm = Vm { stored: answer.after(), settings };
        assert_eq!(vm.target(), "0000:01:00.0 node1-000001000");
        let secret = volume(json!({"secretRef": {"name": "seed"}}));
        let (vm, _) = vm.update(|vm| vm["spec"]["template"]["spec"]["volumes"] = secret.clone());
        let (vm, warnings) = vm.update(|vm| {
            devices(vm)[0]["name"] = json!("node1-000082000");
            devices(vm)[1]["name"] = json!("node1-000082001");
        });
        assert!(warnings.contains("what the policy added stays as it is"), "{warnings}");
        assert_eq!(vm.target(), "0000:01:00.0 node1-000082000");
    }

    /// The ROM is for one of the two devices.
    #[test]
    fn that_was_renamed_unseen_is_told_by_the_rom() {
        const GPU: &str = "amd.com/CEZANNE_RADEON_VEGA_SERIES";
        let own = [("node2-000005000", GPU), ("node2-000041000", NIC)];
        let vm = Vm::create(&own, &[ROM, ("vbios-device", "05:00.0")], json!({}));
        assert_eq!(vm.target(), "0000:05:00.0 node2-000005000");
        let vm = vm.rename_unseen(&["node2-000007000", "node2-000041000"]);
        let cluster = pci("node2-000007000", "1002:1638", "7", GPU).into_iter().fold(cluster(), MemoryCluster::with);
        let request = Request::update(vm.stored.clone(), edited(&vm.stored)).cluster(cluster);
        let vm = Vm { stored: request.evaluate().after(), ..vm };
        assert_eq!(vm.target(), "0000:05:00.0 node2-000007000");
    }
}
