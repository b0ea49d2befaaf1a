//! What Harvester and KubeVirt make of a stored VirtualMachine: the object that they send to the API server.
//!
//! Sources: harvester 3d63c2af1, harvester-ui-extension 8fba4e70, kubevirt d923fdb815, k8s.io/apiserver v0.34.4.
//! Random parts of names and UIDs of restores are fixed.

use serde_json::{Value, json};

const RANDOM: &str = "x7k2q";
const RESTORE: &str = "6f1c3c1e-0000-4000-8000-000000000001";
const CLONE: &str = "6f1c3c1e-0000-4000-8000-000000000002";
const VOLUMES: &str = "/template/spec/volumes";
const VOLUME_CLAIMS: &str = "harvesterhci.io/volumeClaimTemplates";
const LAST_RESTORE: &str = "restore.kubevirt.io/lastRestoreUID";
const POOL_REVISION: &str = "kubevirt.io/vm-pool-revision-name";

/// CREATE by Harvester's account: the UI's clone with data (harvester pkg/api/vm/handler.go:1299-1358, 1360-1428,
/// 1569-1596). It keeps the template with its annotations, the VM's labels, and two of its annotations.
pub fn harvester_clone(vm: &Value, name: &str) -> Value {
    let mut spec = vm["spec"].clone();
    spec["template"]["spec"]["hostname"] = json!(name);
    spec["template"]["metadata"]["labels"]["harvesterhci.io/vmName"] = json!(name);
    forget_macs(&mut spec);
    let claims = rename_claims(&mut spec, |volume| format!("{name}-{volume}-{RANDOM}"));
    for volume in list(&mut spec, VOLUMES) {
        rename_secrets(volume, |_| format!("{name}-{RANDOM}"));
        rename(volume, "/secret/secretName", |_| format!("clone-{RANDOM}"));
    }
    let mut clone = object(vm, name, kept_by_harvester(vm), spec);
    clone["metadata"]["annotations"][VOLUME_CLAIMS] = claim_templates(vm, &claims, true);
    copy_labels(vm, &mut clone);
    clone
}

/// CREATE by Harvester's account: a backup or snapshot of `vm`, restored to a new VM (harvester
/// pkg/controller/master/backup/restore.go:653-781; pkg/restore/common/operator.go:813-815, 907-946, 1115-1219).
/// Of the spec only the template is kept; the VM has no labels, and two of its annotations.
pub fn harvester_restore_new(vm: &Value, name: &str) -> Value {
    let old = &vm["spec"]["template"];
    let mut metadata = json!({"labels": {"harvesterhci.io/creator": "harvester", "harvesterhci.io/vmName": name}});
    if let Some(annotations) = old["metadata"].get("annotations") {
        metadata["annotations"] = annotations.clone();
        rename(&mut metadata, "/annotations/harvesterhci.io~1dynamic-ssh-key-names", |keys| {
            let keys: serde_json::Map<String, Value> = serde_json::from_str(keys).unwrap();
            let keys: Value = keys.into_iter().map(|(secret, names)| (format!("{name}-{secret}"), names)).collect();
            keys.to_string()
        });
    }
    let mut spec = json!({"runStrategy": "Halted", "template": {"metadata": metadata, "spec": old["spec"]}});
    for credential in list(&mut spec, "/template/spec/accessCredentials") {
        for kind in ["sshPublicKey", "userPassword"] {
            rename(credential, &format!("/{kind}/source/secret/secretName"), |secret| format!("{name}-{secret}"));
        }
    }
    for volume in list(&mut spec, VOLUMES) {
        rename_secrets(volume, |secret| format!("{name}-{secret}"));
    }
    forget_macs(&mut spec);
    let claims = rename_claims(&mut spec, |volume| format!("restore-backup1-{RESTORE}-{volume}"));
    let mut restored = object(vm, name, kept_by_harvester(vm), spec);
    mark_restored_by_harvester(&mut restored, claim_templates(vm, &claims, false));
    restored
}

/// UPDATE by Harvester's account: a backup or snapshot, restored over the VM that is there and is stopped (harvester
/// pkg/controller/master/backup/restore.go:542-589). Metadata is today's; the spec is the backup's, template included.
pub fn harvester_restore_over(current: &Value, backup: &Value) -> Value {
    let mut vm = current.clone();
    vm["spec"] = backup["spec"].clone();
    vm["spec"]["runStrategy"] = json!("Halted");
    let claims = rename_claims(&mut vm["spec"], |volume| format!("restore-backup1-{RESTORE}-{volume}"));
    mark_restored_by_harvester(&mut vm, claim_templates(backup, &claims, false));
    vm
}

/// CREATE by the user: a VM of a template version that was generated of `vm` (harvester pkg/api/vm/template.go:440-465,
/// 557-590), with the form of Harvester's UI (harvester-ui-extension edit/kubevirt.io.virtualmachine/index.vue:260-305,
/// 427-430; mixins/harvester-vm/index.js:415-418, 875-1046). Annotations of the VM and of the template are kept.
pub fn template_version_vm(vm: &Value, name: &str) -> Value {
    let mut spec = vm["spec"].clone();
    if spec.get("running").is_some() || spec.get("runStrategy").is_none() {
        remove(&mut spec, "running");
        spec["runStrategy"] = json!("RerunOnFailure");
    }
    forget_macs(&mut spec);
    spec["template"]["spec"]["hostname"] = json!(name);
    remove(&mut spec["template"]["spec"], "accessCredentials");
    spec["template"]["metadata"]["labels"]["harvesterhci.io/vmName"] = json!(name);
    let annotations = &mut spec["template"]["metadata"]["annotations"];
    remove(annotations, "harvesterhci.io/dynamic-ssh-key-names");
    remove(annotations, "harvesterhci.io/dynamic-ssh-key-users");
    if annotations.get("harvesterhci.io/sshNames").is_none() {
        annotations["harvesterhci.io/sshNames"] = json!("[]");
    }
    forget_volumes_without_a_row(&mut spec);
    let claims = rename_claims(&mut spec, |volume| format!("{name}-{volume}-{RANDOM}"));
    for volume in list(&mut spec, VOLUMES) {
        rename_secrets(volume, |_| format!("{name}-{RANDOM}"));
    }
    let mut annotations = vm["metadata"]["annotations"].clone();
    remove(&mut annotations, "harvesterhci.io/mac-address");
    annotations[VOLUME_CLAIMS] = claim_templates(vm, &claims, false);
    annotations["network.harvesterhci.io/ips"] = json!("[]");
    let mut created = object(vm, name, annotations, spec);
    copy_labels(vm, &mut created);
    let labels = &mut created["metadata"]["labels"];
    labels["harvesterhci.io/creator"] = json!("harvester");
    if labels.get("harvesterhci.io/os").is_none() {
        labels["harvesterhci.io/os"] = json!("linux");
    }
    created
}

/// CREATE by virt-controller: VirtualMachineClone without filters and patches (kubevirt
/// pkg/virt-controller/watch/clone/vm-target.go:34-54, 70-91, 155-161, over a restore to a new VM). All labels and
/// annotations are kept; MAC addresses and the firmware's UUID and serial are not.
pub fn kubevirt_clone(vm: &Value, name: &str) -> Value {
    let mut clone = kubevirt_restore_new(vm, name);
    clone["metadata"]["annotations"][LAST_RESTORE] = json!(format!("tmp-restore-{CLONE}-{RESTORE}"));
    forget_macs(&mut clone["spec"]);
    if let Some(firmware) = clone.pointer_mut("/spec/template/spec/domain/firmware") {
        remove(firmware, "serial");
        remove(firmware, "uuid");
    }
    clone
}

/// CREATE by virt-controller: VirtualMachineRestore to a target that is not there (kubevirt
/// pkg/storage/snapshot/restore.go:920-1023, 1038). All labels and annotations are kept, MAC addresses and UUIDs too.
pub fn kubevirt_restore_new(vm: &Value, name: &str) -> Value {
    let mut spec = vm["spec"].clone();
    match spec.get("running") {
        Some(_) => spec["running"] = json!(false),
        None => spec["runStrategy"] = json!("Halted"),
    }
    restore_volumes_of_kubevirt(&mut spec);
    let mut restored = object(vm, name, vm["metadata"]["annotations"].clone(), spec);
    restored["metadata"]["annotations"][LAST_RESTORE] = json!(format!("restore1-{RESTORE}"));
    copy_labels(vm, &mut restored);
    restored
}

/// UPDATE by virt-controller: VirtualMachineRestore over the VM (kubevirt pkg/storage/snapshot/restore.go:998-1020,
/// 1040). Metadata and run strategy are today's, the spec is the snapshot's.
pub fn kubevirt_restore_over(current: &Value, snapshot: &Value) -> Value {
    let mut vm = current.clone();
    vm["spec"] = snapshot["spec"].clone();
    remove(&mut vm["spec"], "running");
    remove(&mut vm["spec"], "runStrategy");
    match current["spec"].get("running") {
        Some(_) => vm["spec"]["running"] = json!(false),
        None => vm["spec"]["runStrategy"] = current["spec"].get("runStrategy").cloned().unwrap_or(json!("Halted")),
    }
    restore_volumes_of_kubevirt(&mut vm["spec"]);
    vm["metadata"]["annotations"][LAST_RESTORE] = json!(format!("restore1-{RESTORE}"));
    vm
}

/// UPDATE by virt-controller: a changed virtualMachineTemplate of the pool is written over a VM of it (kubevirt
/// pkg/virt-controller/watch/pool/pool.go:1084-1094, 772-845, 2086-2107). Labels, annotations and the spec, template
/// included, are the pool's; the firmware's UUID and serial stay. Names of DataVolumes are left alone here.
pub fn pool_update(vm: &Value, pool_template: &Value) -> Value {
    let mut new = vm.clone();
    for key in ["labels", "annotations"] {
        remove(&mut new["metadata"], key);
        if let Some(values) = pool_template["metadata"].get(key) {
            new["metadata"][key] = values.clone();
        }
    }
    new["spec"] = pool_template["spec"].clone();
    new["metadata"]["labels"][POOL_REVISION] = json!("pool-2");
    new["spec"]["template"]["metadata"]["labels"][POOL_REVISION] = json!("pool-2");
    for key in ["uuid", "serial"] {
        if let Some(value) = vm["spec"]["template"]["spec"]["domain"]["firmware"].get(key) {
            new["spec"]["template"]["spec"]["domain"]["firmware"][key] = value.clone();
        }
    }
    new
}

/// CREATE by the user: `kubectl get -o yaml`, resourceVersion removed, created again. This is what admission sees
/// (k8s.io/apiserver pkg/registry/rest/meta.go:30-36; apiextensions customresource/strategy.go:145-156 drops the status
/// later). All annotations and finalizers are there.
pub fn exported(vm: &Value) -> Value {
    let mut vm = vm.clone();
    for key in ["managedFields", "resourceVersion", "uid", "creationTimestamp", "deletionTimestamp", "selfLink"] {
        remove(&mut vm["metadata"], key);
    }
    remove(&mut vm["metadata"], "deletionGracePeriodSeconds");
    vm
}

/// UPDATE by virt-api: `virtctl start` of a halted VM (kubevirt pkg/virt-api/rest/lifecycle.go:110-118, 633-650). With
/// the run strategies Manual and RerunOnFailure only the status is written.
pub fn started(vm: &Value) -> Value {
    let mut vm = vm.clone();
    match vm["spec"].get("runStrategy") {
        Some(_) => vm["spec"]["runStrategy"] = json!("Always"),
        None => vm["spec"]["running"] = json!(true),
    }
    vm
}

fn object(vm: &Value, name: &str, annotations: Value, spec: Value) -> Value {
    json!({
        "apiVersion": vm["apiVersion"],
        "kind": vm["kind"],
        "metadata": {"name": name, "namespace": vm["metadata"]["namespace"], "annotations": annotations},
        "spec": spec,
    })
}

fn copy_labels(from: &Value, to: &mut Value) {
    if let Some(labels) = from["metadata"].get("labels") {
        to["metadata"]["labels"] = labels.clone();
    }
}

/// harvester pkg/api/vm/handler.go:70-73, pkg/controller/master/backup/restore.go:751-754.
fn kept_by_harvester(vm: &Value) -> Value {
    let mut annotations = json!({});
    for key in ["harvesterhci.io/reservedMemory", "harvesterhci.io/enableCPUAndMemoryHotplug"] {
        if let Some(value) = vm["metadata"]["annotations"].get(key) {
            annotations[key] = value.clone();
        }
    }
    annotations
}

fn mark_restored_by_harvester(vm: &mut Value, claim_templates: Value) {
    let annotations = &mut vm["metadata"]["annotations"];
    annotations["restore.harvesterhci.io/last-restore-uid"] = json!(format!("restore1-{RESTORE}"));
    annotations["restore.harvesterhci.io/name"] = json!("restore1");
    annotations[VOLUME_CLAIMS] = claim_templates;
}

fn forget_macs(spec: &mut Value) {
    for interface in list(spec, "/template/spec/domain/devices/interfaces") {
        remove(interface, "macAddress");
    }
}

/// The form of the UI writes volumes from its rows (index.js:875-960), and those of file systems.
fn forget_volumes_without_a_row(spec: &mut Value) {
    let shared: Vec<Value> =
        list(spec, "/template/spec/domain/devices/filesystems").iter().map(|system| system["name"].clone()).collect();
    if let Some(Value::Array(volumes)) = spec.pointer_mut(VOLUMES) {
        volumes.retain(|volume| {
            let known = ["persistentVolumeClaim", "containerDisk", "cloudInitNoCloud", "sysprep"];
            shared.contains(&volume["name"]) || known.iter().any(|source| volume.get(source).is_some())
        });
    }
}

/// Claims and DataVolumes are the restored ones, a memory dump goes (restore.go:931-978).
fn restore_volumes_of_kubevirt(spec: &mut Value) {
    let templates: Vec<Value> =
        list(spec, "/dataVolumeTemplates").iter().map(|template| template["metadata"]["name"].clone()).collect();
    let mut renamed = Vec::new();
    if let Some(Value::Array(volumes)) = spec.pointer_mut(VOLUMES) {
        volumes.retain(|volume| volume.get("memoryDump").is_none());
    }
    for volume in list(spec, VOLUMES) {
        let restored = format!("restore-{RESTORE}-{}", volume["name"].as_str().unwrap());
        rename(volume, "/persistentVolumeClaim/claimName", |_| restored.clone());
        let Some(old) = volume.pointer("/dataVolume/name").cloned() else { continue };
        if templates.contains(&old) {
            volume["dataVolume"]["name"] = json!(restored);
            renamed.push((old, restored));
        } else {
            *volume = json!({"name": volume["name"], "persistentVolumeClaim": {"claimName": restored}});
        }
    }
    for template in list(spec, "/dataVolumeTemplates") {
        if let Some((_, new)) = renamed.iter().find(|(old, _)| *old == template["metadata"]["name"]) {
            template["metadata"]["name"] = json!(new);
        }
    }
}

/// Renames the claims after their volumes; old and new names.
fn rename_claims(spec: &mut Value, to: impl Fn(&str) -> String) -> Vec<(String, String)> {
    let mut claims = Vec::new();
    for volume in list(spec, VOLUMES) {
        let new = to(volume["name"].as_str().unwrap());
        rename(volume, "/persistentVolumeClaim/claimName", |old| {
            claims.push((old.to_owned(), new.clone()));
            new.clone()
        });
    }
    claims
}

/// The annotation with these claims; their specs are what the VM's own annotation says.
fn claim_templates(vm: &Value, claims: &[(String, String)], with_source: bool) -> Value {
    let own = vm["metadata"]["annotations"][VOLUME_CLAIMS].as_str().unwrap_or("[]");
    let known: Vec<Value> = serde_json::from_str(own).unwrap_or_default();
    let entries: Vec<Value> = claims
        .iter()
        .map(|(old, new)| {
            let entry = known.iter().find(|entry| entry["metadata"]["name"] == old.as_str());
            let mut entry = entry.cloned().unwrap_or(json!({"metadata": {}, "spec": {}}));
            entry["metadata"]["name"] = json!(new);
            if with_source {
                entry["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": old});
            }
            entry
        })
        .collect();
    if entries.is_empty() { json!("") } else { json!(Value::Array(entries).to_string()) }
}

fn rename_secrets(volume: &mut Value, to: impl Fn(&str) -> String) {
    rename(volume, "/cloudInitNoCloud/secretRef/name", &to);
    rename(volume, "/cloudInitNoCloud/networkDataSecretRef/name", &to);
}

fn rename(value: &mut Value, pointer: &str, to: impl FnOnce(&str) -> String) {
    if let Some(Value::String(text)) = value.pointer_mut(pointer) {
        *text = to(text);
    }
}

fn remove(object: &mut Value, key: &str) {
    if let Value::Object(fields) = object {
        fields.remove(key);
    }
}

fn list<'a>(value: &'a mut Value, pointer: &str) -> &'a mut [Value] {
    match value.pointer_mut(pointer) {
        Some(Value::Array(entries)) => entries.as_mut_slice(),
        _ => &mut [],
    }
}
