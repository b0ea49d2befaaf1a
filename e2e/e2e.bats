#!/usr/bin/env bats
# The annotated module in kwctl. The cluster's answers come from sessions that kwctl recorded
# (--record-host-capabilities-interactions). If a session does not fit, lookups fail, and the patches differ.

setup_file() {
    bats_require_minimum_version 1.5.0
    cd "$BATS_TEST_DIRNAME/.." || return
    export KWCTL=${KWCTL:-kwctl} NO_COLOR=1 MODULE=$PWD/annotated-policy.wasm
    "$KWCTL" --version >&3
}

setup() {
    cd "$BATS_TEST_DIRNAME/.." || return
}

# The request that creates the virtual machine of an example: example, jq program that changes the object.
create() {
    "$KWCTL" scaffold admission-request -o CREATE --object "examples/$1/vm.yaml" 2>/dev/null |
        jq ".object |= (${2:-.})" >"$BATS_TEST_TMPDIR/request.json"
}

# The request that updates it: example, jq program for the old object, jq program that turns it into the new one.
update() {
    create "$1" "$2"
    jq ".operation = \"UPDATE\" | .oldObject = .object | .object |= ($3)" \
        "$BATS_TEST_TMPDIR/request.json" >"$BATS_TEST_TMPDIR/update.json"
    mv "$BATS_TEST_TMPDIR/update.json" "$BATS_TEST_TMPDIR/request.json"
}

# Evaluates the request.
evaluate() {
    run --separate-stderr "$KWCTL" run --request-path "$BATS_TEST_TMPDIR/request.json" "$@" "$MODULE"
    echo "$output"
    echo "$stderr"
}

# Evaluates the request with the answers of a session.
replay() {
    evaluate --allow-context-aware --replay-host-capabilities-interactions "e2e/sessions/$1.yml" "${@:2}"
}

# A part of the answer: jq program.
answer() {
    jq --compact-output --raw-output "$1" <<<"$output"
}

# The operations of the patch, one per line, as `op path value`, without the record.
patch() {
    answer '.patch // "W10="' | base64 --decode | jq --compact-output --raw-output '
        def without_record: del(.["vm-feature-manager.io/record"]?) | del(.annotations["vm-feature-manager.io/record"]?);
        .[] | select(.path | endswith("vm-feature-manager.io~1record") | not)
        | .value |= (if type == "object" then without_record else . end)
        | select((.path | startswith("/spec/template/metadata") | not)
            or (.value != {} and .value != {annotations: {}} and .op != "remove"))
        | "\(.op) \(.path) \(.value | if type == "string" then . else tojson end)"'
}

# What the record says about a feature: its name.
record() {
    answer .patch | base64 --decode | jq --compact-output --arg feature "$1" '
        [.[] | select(.path | endswith("vm-feature-manager.io~1record")).value,
         (.. | objects | .["vm-feature-manager.io/record"] // empty)][0] | fromjson[$feature]'
}

# Compares two texts.
same() {
    diff <(echo "$1") <(echo "$2")
}

ours=/metadata/annotations/vm-feature-manager.io~1
domain=/spec/template/spec/domain

@test "the module with its metadata has 640 KiB at most" {
    [ "$(wc -c <"$MODULE")" -le $((640 * 1024)) ]
}

@test "a virtual machine without a directive is accepted as it is" {
    create harvester '.metadata.annotations = {}'
    evaluate
    [ "$status" -eq 0 ]
    same "$(answer '[.allowed, .patch, .warnings, .auditAnnotations]')" '[true,null,null,null]'
}

@test "settings that are invalid are refused" {
    create harvester
    evaluate --settings-json '{"nestedVirtualization": {"cpuVendor": "arm"}}'
    [ "$status" -eq 1 ]
    [[ "$stderr" == *'setting nestedVirtualization.cpuVendor: got "arm", expected one of auto, amd, intel'* ]]
}

@test "nested virtualization by an option" {
    create nested-virt
    evaluate
    same "$(patch)" "\
add ${ours}nested-virt-applied true
add $domain/cpu/features [{\"name\":\"vmx\",\"policy\":\"require\"}]"
    same "$(record nested-virt)" '{"value":"enabled","options":{"cpu-vendor":"intel"},"added":[{"cpuFeature":"vmx"}]}'
}

@test "a value that is wrong is denied" {
    create nested-virt '.metadata.annotations["vm-feature-manager.io/nested-virt"] = "maybe"'
    evaluate
    same "$(answer '[.allowed, .status.code, .patch]')" '[false,400,null]'
    same "$(answer .status.message)" 'nested-virt cannot be applied (annotation vm-feature-manager.io/nested-virt: "maybe"): must be enabled or disabled'
}

@test "allow-and-log tells in an annotation and a warning" {
    create nested-virt '.metadata.annotations["vm-feature-manager.io/nested-virt"] = "maybe"'
    evaluate --settings-json '{"nestedVirtualization": {"errorHandling": "allow-and-log"}}'
    same "$(patch)" "add ${ours}nested-virt-error must be enabled or disabled"
    same "$(answer '[.allowed, .warnings[0], .auditAnnotations.failed]')" '[true,"nested-virt is not applied: must be enabled or disabled","nested-virt"]'
}

@test "strip-label removes the directive" {
    create nested-virt '.metadata.annotations["vm-feature-manager.io/nested-virt"] = "maybe"'
    evaluate --settings-json '{"nestedVirtualization": {"errorHandling": "strip-label"}}'
    same "$(patch)" "remove ${ours}nested-virt null"
}

@test "directives may be labels" {
    create nested-virt '.metadata |= (.labels["vm-feature-manager.io/nested-virt"] = "maybe" | del(.annotations["vm-feature-manager.io/nested-virt"]))'
    evaluate --settings-json '{"configSource": "labels", "nestedVirtualization": {"errorHandling": "strip-label"}}'
    same "$(patch)" 'remove /metadata/labels/vm-feature-manager.io~1nested-virt null'
}

@test "three features on Harvester" {
    create harvester
    replay harvester
    same "$(patch)" "\
add ${ours}gpu-device-plugin-applied nvidia.com/gpu
add ${ours}nested-virt-applied true
add ${ours}pci-passthrough-applied [\"0000:00:02.0\"]
add $domain/cpu/features [{\"name\":\"vmx\",\"policy\":\"require\"}]
add $domain/devices/hostDevices [{\"deviceName\":\"intel.com/COFFEELAKES_GT2_UHD_GRAPHICS_630\",\"name\":\"node1-000000020\"}]
add $domain/resources/limits/nvidia.com~1gpu 1"
    [[ "$(answer '.warnings[0]')" == *"KubeVirt's permittedHostDevices does not list it"* ]]
}

@test "a ROM on Harvester" {
    create vbios
    replay vbios
    same "$(answer .auditAnnotations.applied)" 'pci-passthrough,vbios-injection'
    # The list of sidecars: the policy's, with the ROM's ConfigMap and the image of the running KubeVirt.
    sidecars=$(answer .patch | base64 --decode | jq -c '[.[] | .value | select(type == "object" and has("hooks.kubevirt.io/hookSidecars"))[] | fromjson][0]
        // [.[] | select(.path | endswith("hookSidecars")) | .value | fromjson][0]')
    same "$(jq -c '[.[0].image, .[0].configMap, .[0].command[3], length]' <<<"$sidecars")" \
        '["quay.io/kubevirt/sidecar-shim:v1.7.0",{"name":"igpu-rom","key":"rom","hookPath":"/run/vbios/rom"},"vm-feature-manager.io/vbios-injection",1]'
}

@test "user data of Rancher's node driver" {
    create user-data
    replay user-data --settings-path examples/user-data/settings.yaml
    same "$(patch)" "\
add ${ours}nested-virt-applied true
add ${ours}pci-passthrough-applied [\"0000:00:02.0\"]
add $domain/cpu/features [{\"name\":\"vmx\",\"policy\":\"require\"}]
add $domain/devices/hostDevices [{\"deviceName\":\"intel.com/COFFEELAKES_GT2_UHD_GRAPHICS_630\",\"name\":\"node1-000000020\"}]
add /spec/template/spec/nodeSelector {\"kubernetes.io/hostname\":\"node1\"}"
}

@test "all features where KubeVirt was installed by itself" {
    create kubevirt/all
    replay kubevirt --settings-path examples/kubevirt/settings.yaml
    same "$(answer .auditAnnotations.applied)" 'pci-passthrough,gpu-device-plugin,vbios-injection,nested-virt'
    same "$(patch | grep "$domain")" "\
add $domain/cpu/features [{\"name\":\"svm\",\"policy\":\"require\"}]
add $domain/devices/gpus [{\"deviceName\":\"nvidia.com/gpu\",\"name\":\"gpu-0\"}]
add $domain/devices/hostDevices [{\"deviceName\":\"amd.com/CEZANNE\",\"name\":\"pci-device-0\"}]"
}

@test "a USB device that KubeVirt permits" {
    create kubevirt/usb-passthrough
    replay usb --settings-path examples/kubevirt/settings.yaml
    same "$(patch)" "\
add ${ours}usb-passthrough-applied [\"046d:c52b\"]
add $domain/devices/hostDevices [{\"deviceName\":\"kubevirt.io/receiver\",\"name\":\"usb-0\"}]"
}

@test "pinned CPUs, pages and NUMA nodes" {
    create workstation '.metadata.annotations |= with_entries(select(.key | test("passthrough|vbios") | not))'
    replay kubevirt --settings-path examples/kubevirt/settings.yaml
    same "$(answer .auditAnnotations.applied)" 'cpu-pinning,hugepages,numa'
    same "$(patch | grep "$domain")" "\
add $domain/cpu/dedicatedCpuPlacement true
add $domain/cpu/isolateEmulatorThread true
add $domain/cpu/numa {\"guestMappingPassthrough\":{}}
add $domain/memory/hugepages {\"pageSize\":\"2Mi\"}"
}

@test "what may not be read is named, and nothing is listed" {
    create kubevirt/nested-virt
    replay no-rights-nodes
    same "$(answer .allowed)" false
    [[ "$(answer .status.message)" == *"the service account kubewarden:policy-server, which may not list and watch nodes"* ]]
    [[ "$(answer .status.message)" == *"run: kubectl create clusterrolebinding vm-feature-manager-kubewarden --clusterrole=vm-feature-manager --serviceaccount=kubewarden:policy-server" ]]
    run -1 grep -q KubernetesList e2e/sessions/no-rights-nodes.yml
}

@test "without any rights the account and the command that grants them are named" {
    create all
    replay no-rights --settings-json '{"pciPassthrough": {"errorHandling": "allow-and-log"}, "vbiosInjection": {"errorHandling": "allow-and-log"}}'
    same "$(answer '.auditAnnotations | [.applied, .failed]')" '["gpu-device-plugin,nested-virt","pci-passthrough,vbios-injection"]'
    answer '.warnings[]' | grep -qxF "kubectl create clusterrolebinding vm-feature-manager-cattle-kubewarden-system --clusterrole=vm-feature-manager --serviceaccount=cattle-kubewarden-system:policy-server"
    [[ "$(patch)" != *hostDevices* ]]
}

@test "an update that changes nothing of the policy's is accepted as it is" {
    update nested-virt '.metadata.annotations |= (.["vm-feature-manager.io/nested-virt"] = "maybe" | .["vm-feature-manager.io/nested-virt-error"] = "x")' '.metadata.finalizers = ["x"]'
    evaluate
    same "$(answer '[.allowed, .patch]')" '[true,null]'
}

@test "what a directive added is removed with it" {
    update nested-virt \
        '.spec.template.metadata.annotations["vm-feature-manager.io/record"] = "{\"nested-virt\":{\"value\":\"enabled\",\"added\":[{\"cpuFeature\":\"vmx\"}]}}" | .spec.template.spec.domain.cpu.features = [{name: "vmx", policy: "require"}, {name: "aes", policy: "require"}]' \
        'del(.metadata.annotations["vm-feature-manager.io/nested-virt"])'
    evaluate
    same "$(patch)" "\
replace $domain/cpu/features/0/name aes
remove $domain/cpu/features/1 null"
}
