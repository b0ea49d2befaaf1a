//! Runs the hook in the same way as KubeVirt: the command of the module's sidecar starts the program, which becomes a stand-in for
//! KubeVirt's sidecar-shim, which calls the hook with domain XML as KubeVirt writes it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rstest::rstest;
use serde_json::{Value, json};
use vmfm::cluster::Cluster;

use crate::harness::{HOST, message, request, root};

/// Does the same as the shim: finds the hook on PATH, calls it, and passes its output on.
const SHIM: &str = r#"#!/bin/sh
echo "$0 $*" >"$SHIM_LOG"
domain=$(cat "$DOMAIN")
onDefineDomain --vmi '{"metadata": {}}' --domain "$domain" || exit 3
"#;

/// A container: the folders that the program uses, under a folder of the test's own.
struct Container {
    folder: PathBuf,
    command: Vec<String>,
}

/// How the test asks for a sidecar.
struct Ask<'a> {
    devices: Value,
    option: Option<&'a str>,
    guest_address: Option<&'a str>,
    settings: Value,
}

impl Default for Ask<'_> {
    fn default() -> Self {
        let igpu = json!({"name": "node1-000000020", "deviceName": "intel.com/UHD"});
        Self { devices: json!({"hostDevices": [igpu]}), option: None, guest_address: None, settings: json!({}) }
    }
}

const ROM: &[u8] = b"\x55\xaa\x01 the bytes of a ROM \xff\x00\x80";

impl Container {
    fn new(name: &str, ask: Ask<'_>) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hook").join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("run/vbios")).unwrap();
        fs::write(folder.join("run/vbios/rom"), ROM).unwrap();
        fs::create_dir_all(folder.join("hooks")).unwrap();
        fs::create_dir_all(folder.join("tmp")).unwrap();
        executable(&folder.join("sidecar-shim"), SHIM);
        let place = |path: &str| folder.join(path).display().to_string();
        let command = command(ask)
            .into_iter()
            .map(|argument| {
                argument
                    .replace("/run/vbios/rom", &place("run/vbios/rom"))
                    .replace("\"/var/run/kubevirt-hooks\"", &format!("\"{}\"", place("hooks")))
                    .replace("/usr/bin/sidecar-shim", &place("usr/bin/sidecar-shim"))
                    .replace("\"/sidecar-shim\"", &format!("\"{}\"", place("sidecar-shim")))
            })
            .collect();
        Self { folder, command }
    }

    /// Starts the sidecar. `name` is the name of the container, which KubeVirt passes from 1.6 on.
    fn start(&self, domain: &str, name: Option<&str>) -> Output {
        fs::write(self.folder.join("domain.xml"), domain).unwrap();
        let mut command = Command::new(&self.command[0]);
        command
            .args(&self.command[1..])
            .env("DOMAIN", self.folder.join("domain.xml"))
            .env("SHIM_LOG", self.folder.join("shim.log"))
            .env("TMPDIR", self.folder.join("tmp"))
            .env_remove("CONTAINER_NAME");
        if let Some(name) = name {
            command.env("CONTAINER_NAME", name);
        }
        command.output().expect("python3 is installed")
    }

    /// The domain that the hook writes.
    fn define(&self, domain: &str) -> String {
        let output = self.start(domain, Some("hook-sidecar-0"));
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    fn rom_path(&self) -> String {
        self.folder.join("hooks/hook-sidecar-0/vbios/rom").display().to_string()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn executable(path: &Path, script: &str) {
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The command of the sidecar in the module's answer.
fn command(ask: Ask<'_>) -> Vec<String> {
    let mut vm = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": "vm", "namespace": "default", "annotations": {
            "vm-feature-manager.io/vbios-injection": "igpu-rom",
        }},
        "spec": {"template": {"spec": {"domain": {"devices": ask.devices}}}},
    });
    if let Some(option) = ask.option {
        vm["metadata"]["annotations"]["vm-feature-manager.io/vbios-device"] = json!(option);
    }
    if let Some(address) = ask.guest_address {
        vm["metadata"]["annotations"]["vm-feature-manager.io/guest-address"] = json!(address);
    }
    let cluster = Cluster::from_folder(&root().join("examples/vbios/cluster")).unwrap();
    let settings = json!({"vbiosInjection": ask.settings});
    let request = request(vm, None);
    let evaluation = HOST.with_cluster(cluster).validate(&settings, &request);
    assert!(evaluation.response.allowed, "{}", message(&evaluation));
    let after = evaluation.response.patched(&request["object"]).unwrap();
    let annotations = &after["spec"]["template"]["metadata"]["annotations"];
    let sidecars = annotations["hooks.kubevirt.io/hookSidecars"].as_str().unwrap();
    let sidecars: Value = serde_json::from_str(sidecars).unwrap();
    serde_json::from_value(sidecars[0]["command"].clone()).unwrap()
}

fn domain(name: &str) -> String {
    fs::read_to_string(root().join("tests/data/domains").join(name)).unwrap()
}

/// The alias of the only host device with a ROM, and the path of the ROM.
fn rom_of(xml: &str) -> (String, String) {
    let with_rom: Vec<&str> = xml
        .split("<hostdev")
        .skip(1)
        .map(|h| h.split("</hostdev>").next().unwrap())
        .filter(|h| h.contains("<rom"))
        .collect();
    assert_eq!(with_rom.len(), 1, "{xml}");
    assert_eq!(xml.matches("<rom").count(), 1, "{xml}");
    let attribute = |element: &str| {
        let at = with_rom[0].split(element).nth(1).unwrap();
        at.split('"').nth(1).unwrap().to_owned()
    };
    (attribute("<alias name="), attribute("<rom file="))
}

fn two_devices() -> Value {
    json!({"hostDevices": [
        {"name": "node1-000000020", "deviceName": "intel.com/UHD"},
        {"name": "node1-000001000", "deviceName": "nvidia.com/T4"},
    ]})
}

#[test]
fn the_only_device_gets_the_rom_and_the_shim_its_arguments() {
    let container = Container::new("only", Ask::default());
    let xml = container.define(&domain("domain-one-hostdev.xml"));
    assert_eq!(rom_of(&xml), ("ua-hostdevice-node1-000000020".to_owned(), container.rom_path()));
    let shim = fs::read_to_string(container.folder.join("shim.log")).unwrap();
    assert!(shim.ends_with("/sidecar-shim --version v1alpha3\n"), "{shim}");
}

#[test]
fn the_program_is_python_3_9() {
    let program = &command(Ask::default())[2];
    let check = "import ast, sys; ast.parse(sys.argv[1], feature_version=(3, 9))";
    let output = Command::new("python3").args(["-c", check, program]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn the_rest_of_the_domain_is_as_it_was() {
    let container = Container::new("rest", Ask::default());
    let before = domain("domain-one-hostdev.xml");
    let after = container.define(&before);
    let rom = format!("<rom file=\"{}\"/>", container.rom_path());
    assert_eq!(after.replace(&rom, ""), before.trim_end());
}

#[rstest]
#[case::from_1_6(Some("hook-sidecar-0"), "hooks/hook-sidecar-0/vbios/rom")]
#[case::third_sidecar(Some("hook-sidecar-2"), "hooks/hook-sidecar-2/vbios/rom")]
#[case::up_to_1_5(None, "hooks/vbios/rom")]
fn qemu_finds_the_roms_bytes_in_the_shared_folder(#[case] name: Option<&str>, #[case] path: &str) {
    let container = Container::new(&format!("layout-{}", name.unwrap_or("none")), Ask::default());
    // From 1.6 on, the sidecar's folder is a subfolder of QEMU's.
    if let Some(name) = name {
        std::os::unix::fs::symlink(".", container.folder.join("hooks").join(name)).unwrap();
    }
    let output = container.start(&domain("domain-one-hostdev.xml"), name);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let path = container.folder.join(path);
    assert_eq!(rom_of(&text(&output.stdout)).1, path.display().to_string());
    assert_eq!(fs::read(&path).unwrap(), ROM);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o644);
    assert_eq!(mode(path.parent().unwrap()), 0o755);
    // KubeVirt, which collects hook sockets, connects to every plain file in the folder.
    let files = fs::read_dir(container.folder.join("hooks")).unwrap();
    assert!(files.map(Result::unwrap).all(|entry| !entry.file_type().unwrap().is_file()));
}

#[test]
fn by_volume_qemu_reads_the_volume_and_nothing_is_copied() {
    let settings = json!({"romDelivery": "volume"});
    let container = Container::new("volume", Ask { settings, ..Ask::default() });
    fs::remove_file(container.folder.join("run/vbios/rom")).unwrap();
    let xml = container.define(&domain("domain-one-hostdev.xml"));
    assert_eq!(rom_of(&xml).1, "/var/run/kubevirt-private/config-map/vbios-rom/rom");
    assert_eq!(fs::read_dir(container.folder.join("hooks")).unwrap().count(), 0);
}

#[rstest]
#[case::name("node1-000001000", "ua-hostdevice-node1-000001000")]
#[case::address("0000:00:02.0", "ua-hostdevice-node1-000000020")]
#[case::address_in_upper_case("0000:01:00.0", "ua-hostdevice-node1-000001000")]
fn of_several_devices_the_one_that_is_meant_gets_the_rom(#[case] option: &str, #[case] alias: &str) {
    let ask = Ask { devices: two_devices(), option: Some(option), ..Ask::default() };
    let container = Container::new(&format!("several-{}", option.replace(':', "-")), ask);
    assert_eq!(rom_of(&container.define(&domain("domain-two-hostdevs.xml"))).0, alias);
}

#[test]
fn a_gpu_is_found_by_its_alias() {
    let devices = json!({"gpus": [{"name": "gpu-0", "deviceName": "nvidia.com/T4"}]});
    let container = Container::new("gpu", Ask { devices, option: Some("gpu-0"), ..Ask::default() });
    assert_eq!(rom_of(&container.define(&domain("domain-gpu.xml"))).0, "ua-gpu-gpu-0");
}

#[test]
fn a_name_that_harvester_encodes_is_found() {
    let name = "node1.example-000000020";
    let devices = json!({"hostDevices": [
        {"name": name, "deviceName": "intel.com/UHD"}, {"name": "other", "deviceName": "x.io/y"},
    ]});
    let container = Container::new("base32", Ask { devices, option: Some(name), ..Ask::default() });
    let encoded = "NZXWIZJRFZSXQYLNOBWGKLJQGAYDAMBQGAZDA";
    let domain = domain("domain-two-hostdevs.xml").replace("node1-000000020", encoded).replace("0x02", "0x1f");
    assert_eq!(rom_of(&container.define(&domain)).0, format!("ua-hostdevice-{encoded}"));
}

#[test]
fn a_device_that_harvester_has_renamed_is_found_as_the_only_one() {
    let container = Container::new("renamed", Ask::default());
    let domain = domain("domain-one-hostdev.xml").replace("node1-000000020", "node2-000005000");
    let (alias, _) = rom_of(&container.define(&domain));
    assert_eq!(alias, "ua-hostdevice-node2-000005000");
}

/// Adds devices to the domain that are not PCI devices passed through for the user.
fn with_others(domain: &str) -> String {
    let others = r#"<hostdev type="mdev" model="vfio-pci" mode="subsystem">
            <source><address uuid="c2177883-f1bb-47f0-914d-32a22e3a8804"></address></source>
            <alias name="ua-hostdevice-vgpu"></alias>
        </hostdev>
        <hostdev type="usb" mode="subsystem">
            <source><address type="usb" bus="1" device="2"></address></source>
            <alias name="ua-usb-host-stick"></alias>
        </hostdev>
        <hostdev type="pci" managed="no">
            <source><address type="pci" domain="0x0000" bus="0x81" slot="0x01" function="0x2"></address></source>
            <alias name="ua-sriov-net1"></alias>
        </hostdev>
        <controller "#;
    domain.replacen("<controller ", others, 1)
}

#[test]
fn mediated_usb_and_sriov_devices_do_not_count() {
    let container = Container::new("others", Ask::default());
    let xml = container.define(&with_others(&domain("domain-one-hostdev.xml")));
    assert_eq!(rom_of(&xml).0, "ua-hostdevice-node1-000000020");
}

#[test]
fn qemu_arguments_and_a_windows_guests_features_are_kept() {
    let more = r#"<features><hyperv><spinlocks state="on" retries="8191"></spinlocks></hyperv></features>
        <clock offset="localtime"><timer name="hypervclock" present="yes"></timer></clock>
        <qemu:commandline><qemu:arg value="-fw_cfg"></qemu:arg><qemu:arg value="name=a,string=&lt;&amp;&quot;b&#xA;&#x9;c"></qemu:arg></qemu:commandline>
        </domain>"#;
    let before = domain("domain-one-hostdev.xml").replace("</domain>", more);
    let container = Container::new("windows", Ask::default());
    let after = container.define(&before);
    let rom = format!("<rom file=\"{}\"/>", container.rom_path());
    assert_eq!(after.replace(&rom, ""), before.trim_end());
}

#[test]
fn a_second_call_gives_the_same_and_a_rom_that_is_there_is_replaced() {
    let container = Container::new("twice", Ask::default());
    let once = container.define(&domain("domain-one-hostdev.xml"));
    assert_eq!(container.define(&once), once);
    let rom = format!("<rom file=\"{}\"/>", container.rom_path());
    for other in [
        "<rom bar=\"on\" file='/other/rom'></rom>",
        "<rom file='/other/rom'/>",
        "<rom><!-- > --></rom><rom enabled='no'/>",
    ] {
        assert_eq!(container.define(&once.replace(&rom, other)), once, "{other}");
    }
}

const IN_THE_GUEST: &str = r#"<address type="pci" domain="0x0000" bus="0x00" slot="0x02" function="0x0"/>"#;

#[test]
fn the_device_gets_its_place_in_the_guest_and_the_rest_stays_as_it_was() {
    let container = Container::new("place", Ask { guest_address: Some("00:02.0"), ..Ask::default() });
    let before = domain("domain-one-hostdev.xml");
    let after = container.define(&before);
    let added = format!("<rom file=\"{}\"/>{IN_THE_GUEST}", container.rom_path());
    assert_eq!(after.replace(&added, ""), before.trim_end());
    let shim = fs::read_to_string(container.folder.join("shim.log")).unwrap();
    assert!(shim.ends_with("/sidecar-shim --version v1alpha3\n"), "{shim}");
}

/// The device's own address, in the domain that libvirt gives back, is a child of the device. The one on the host is a
/// child of its source.
#[rstest]
#[case::other_device("domain-one-hostdev.xml", None)]
#[case::one_of_two("domain-two-hostdevs.xml", Some("0000:01:00.0"))]
fn a_place_that_is_there_is_replaced(#[case] file: &str, #[case] option: Option<&str>) {
    let devices = if option.is_some() { two_devices() } else { Ask::default().devices };
    let ask = Ask { devices, option, guest_address: Some("0000:00:02.0"), ..Ask::default() };
    let container = Container::new(&format!("places-{file}"), ask);
    let once = container.define(&domain(file));
    assert_eq!(container.define(&once), once);
    for other in [
        r#"<address type="pci" domain="0x0000" bus="0x05" slot="0x00" function="0x0"></address>"#,
        "<address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0'/>",
        "<address type='pci'><zpci uid='0x0001'/></address>",
    ] {
        assert_eq!(container.define(&once.replace(IN_THE_GUEST, other)), once, "{other}");
    }
}

#[test]
fn without_the_option_the_place_in_the_guest_stays() {
    let with_place = Container::new("placed", Ask { guest_address: Some("00:02.0"), ..Ask::default() });
    let container = Container::new("not-placed", Ask::default());
    let placed = with_place.define(&domain("domain-one-hostdev.xml"));
    assert!(container.define(&placed).contains(IN_THE_GUEST));
}

#[test]
fn a_vm_that_had_no_device_when_it_was_planned_starts_without_one() {
    let container = Container::new("none", Ask { devices: json!({}), ..Ask::default() });
    let before = domain("domain-no-hostdev.xml");
    assert_eq!(container.define(&before), before.trim_end());
    let xml = container.define(&domain("domain-one-hostdev.xml"));
    assert_eq!(rom_of(&xml).0, "ua-hostdevice-node1-000000020");
}

/// What can go wrong, and what the hook prints.
#[rstest]
#[case::no_device(
    "domain-no-hostdev.xml",
    None,
    "LookupError: no single PCI device for 'node1-000000020 *' among none"
)]
#[case::no_such_device(
    "domain-two-hostdevs.xml",
    Some("/"),
    "among ua-hostdevice-x at 0000:00:02.0, ua-hostdevice-y at 0000:01:00.0"
)]
#[case::no_rom("domain-one-hostdev.xml", Some("rom"), "FileNotFoundError")]
#[case::empty_rom("domain-one-hostdev.xml", Some("empty"), "ValueError: the ROM is empty")]
#[case::no_xml("domain-one-hostdev.xml", Some("xml"), "ExpatError")]
fn a_hook_that_cannot_do_its_work_fails_or_leaves_the_domain_alone(
    #[case] file: &str,
    #[case] fault: Option<&str>,
    #[case] error: &str,
    #[values("fail", "continue")] mode: &str,
) {
    let settings = json!({"onHookFailure": mode});
    let name = format!("fault-{}-{}-{mode}", file, fault.unwrap_or("").replace('/', "name"));
    let container = Container::new(&name, Ask { settings, ..Ask::default() });
    let rom = container.folder.join("run/vbios/rom");
    let mut before = domain(file);
    match fault {
        Some("rom") => fs::remove_file(rom).unwrap(),
        Some("empty") => fs::write(rom, b"").unwrap(),
        Some("xml") => before.truncate(100),
        Some(_) => before = before.replace("node1-000000020", "x").replace("node1-000001000", "y"),
        None => {}
    }
    let output = container.start(&before, Some("hook-sidecar-0"));
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("vbios: ") && stderr.contains(error), "{stderr}");
    if mode == "fail" {
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(3), ""));
    } else {
        assert!(output.status.success());
        assert_eq!(text(&output.stdout).trim_end(), before.trim_end());
    }
}

#[test]
fn suses_shim_is_found_and_an_image_without_one_is_told() {
    let container = Container::new("suse", Ask::default());
    fs::create_dir_all(container.folder.join("usr/bin")).unwrap();
    let suse = container.folder.join("usr/bin/sidecar-shim");
    fs::rename(container.folder.join("sidecar-shim"), &suse).unwrap();
    rom_of(&container.define(&domain("domain-one-hostdev.xml")));

    fs::remove_file(suse).unwrap();
    let output = container.start(&domain("domain-one-hostdev.xml"), None);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("vbios: no sidecar-shim in this image"));
}

#[rstest]
#[case::one("domain-one-hostdev.xml", Ask::default())]
#[case::two("domain-two-hostdevs.xml", Ask { devices: two_devices(), option: Some("0000:01:00.0"), ..Ask::default() })]
#[case::gpu("domain-gpu.xml", Ask { devices: json!({"gpus": [{"name": "gpu-0", "deviceName": "x.io/y"}]}), ..Ask::default() })]
#[case::with_a_place("domain-one-hostdev.xml", Ask { guest_address: Some("00:02.0"), ..Ask::default() })]
fn libvirt_takes_the_domain_and_keeps_the_rom(#[case] file: &str, #[case] ask: Ask<'_>) {
    let has_place = ask.guest_address.is_some();
    let container = Container::new(&format!("libvirt-{file}-{has_place}"), ask);
    let xml = container.define(&domain(file)).replacen("type=\"kvm\"", "type=\"test\"", 1);
    let dumped = defined(&container, &xml);
    let has_rom = |xml: &str| xml.contains(&format!("<rom file='{}'/>", container.rom_path()));
    assert!(has_rom(&dumped), "{dumped}");
    if has_place {
        let place = "<address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>";
        // KubeVirt reads the domain back, and the hook is called again.
        let again = defined(&container, &container.define(&dumped));
        for xml in [dumped, again] {
            assert!(has_rom(&xml) && xml.contains(place), "{xml}");
        }
    }
}

/// The domain as libvirt has it after it was defined.
fn defined(container: &Container, xml: &str) -> String {
    let path = container.folder.join("defined.xml");
    fs::write(&path, xml).unwrap();
    let commands = format!("define {}; dumpxml default_igpu-vm", path.display());
    let output = Command::new("virsh")
        .args(["-c", "test:///default", &commands])
        .output()
        .expect("virsh is installed (package libvirt-clients)");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let dumped = text(&output.stdout);
    dumped[dumped.find("<domain").unwrap()..].to_owned()
}

#[test]
fn the_command_of_the_documents_shows_the_hook_on_a_sample_domain() {
    let page = fs::read_to_string(root().join("docs/vbios.md")).unwrap();
    assert!(page.lines().any(|line| line == "make hook"));
    // The flags of the make that runs the tests must not apply to this one.
    let output = Command::new("make")
        .args(["--silent", "hook"])
        .current_dir(root())
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(stdout.contains(r#"<alias name="ua-hostdevice-node1-000000020">"#), "{stdout}");
    assert!(stdout.contains("<rom file="), "{stdout}");
}
