#!/usr/bin/env bats
# shellcheck disable=SC2154 # the names that lib.bash exports
# shellcheck disable=SC2153
# The installed policy in a cluster: what the cluster stores, with every client and controller that writes virtual machines.
# CONTRIBUTING.md says what the cluster must have.

setup_file() {
    load lib
    discover
    make_world >&2
    local gates
    gates=$(for gate in HostDevices Sidecar; do gate $gate && printf '%s ' $gate; done || true)
    echo "# $POLICY, policy-server in $SERVER_NAMESPACE, Harvester: ${HARVESTER-no}, gates: ${gates:-none }, GPU: ${GPU:-none}" >&3
}

teardown_file() {
    load lib
    unmake_world
}

setup() {
    load lib
    cd "$BATS_TEST_DIRNAME/../.." || return
}

# Cleans up after a test that failed, so that the next tests do not see anything of it.
teardown() {
    give_rights_back
    [ ! -e "$BATS_FILE_TMPDIR/stopped" ] || start_server
    [ -n "$BATS_TEST_COMPLETED" ] || k delete virtualmachines.kubevirt.io --all --ignore-not-found
}

# Takes an example through its life: name, expected changes, jq program that changes it.
example() {
    local file=$BATS_TEST_TMPDIR/vm.json name=vm-$BATS_TEST_NUMBER before directives
    # Without directives: what must be left at the end.
    vm "$name" "$1" "${3:-.} | $plain" | k create --filename -
    before=$(everything "$name")
    same "$(stored "$name" | summary | grep -v '^node:')" ""
    remove "$name"

    vm "$name" "$1" "${3:-.}" >"$file"
    k apply --filename "$file"
    same "$(stored "$name" | summary)" "$2"
    stays "$name" k apply --filename "$file"
    k diff --filename "$file"
    # Harvester adds a term to the affinity of a VM with pinned CPUs, and rejects a manifest without it.
    grep -q "CPUs: dedicated" <<<"$2" || stays "$name" k replace --filename "$file"
    directives=$(jq --raw-output --arg ours "$ours/" '.metadata.annotations | keys[] | select(startswith($ours)) | "\(.)-"' "$file")
    # shellcheck disable=SC2086 # one argument each
    k annotate virtualmachines.kubevirt.io "$name" $directives
    same "$(everything "$name" | without_amounts)" "$(without_amounts <<<"$before")"
    remove "$name"

    k apply --server-side --filename "$file"
    same "$(stored "$name" | summary)" "$2"
    stays "$name" k apply --server-side --filename "$file"
    k diff --server-side --filename "$file"
    remove "$name"
}

# Runs a command that must not change the virtual machine: name, command. The command writes the manifest again, with what Harvester
# set in a new virtual machine.
stays() {
    local before
    before=$(everything "$1" | without_amounts)
    "${@:2}"
    same "$(everything "$1" | without_amounts)" "$before"
}

# Removes what Harvester computes from the limits when these change: the guest's memory and the requests.
without_amounts() {
    jq '.template.spec.domain |= (del(.memory.guest, .resources.requests, .cpu.maxSockets) | if .memory == {} then del(.memory) else . end)'
}

# Adds, changes and removes a directive on a virtual machine without directives: example, jq program for the virtual machine,
# directives, what they add, other directives, what these add. Each line has one directive, as name=value.
directive() {
    local name=vm-$BATS_TEST_NUMBER before added changed
    create "$name" "$1" "$plain | $2"
    before=$(everything "$name")
    mapfile -t added <<<"$3"
    mapfile -t changed <<<"$5"
    annotate "$name" "${added[@]}"
    same "$(stored "$name" | summary)" "$4"
    annotate "$name" "${changed[@]}"
    same "$(stored "$name" | summary)" "$6"
    annotate "$name" "${added[@]/%=*/-}"
    same "$(everything "$name")" "$before"
    remove "$name"
}

# What the policy adds for a number of GPUs: resource, number.
gpus() {
    local kind=limits devices
    devices=$(seq --format "gpu-%g=$1" --separator ' ' 0 $(($2 - 1)))
    if ! served "$1"; then
        devices=$1=$2
    elif [ -n "${HARVESTER-}" ]; then
        kind='host devices'
    else
        kind=gpus
    fi
    echo "$kind: $devices"
}

# The iGPU of the examples with a ROM.
igpu() {
    echo "$AMD-${DOMAIN}05000=amd.com/CEZANNE_RADEON_VEGA_SERIES"
}

# USB devices as host devices: names.
usb() {
    printf '%s\n' "$@" | sed 's/.*/&=kubevirt.io\/&/' | paste --serial --delimiters ' '
}

card=intel.com/I350_GIGABIT_NETWORK_CONNECTION

# jq: the node that a virtual machine must run on.
on() {
    echo ".spec.template.spec.nodeSelector[\"kubernetes.io/hostname\"] = \"$1\""
}

@test "the policy is active" {
    kubectl wait --for=condition=PolicyActive clusteradmissionpolicies "$POLICY" --timeout 2m
    same "$(kubectl get clusteradmissionpolicies "$POLICY" --output jsonpath='{.spec.mode} {.spec.mutating} {.status.mode}')" "protect true protect"
    kubectl get mutatingwebhookconfigurations "clusterwide-$POLICY"
}

@test "policy-server's account may look up what the policy asks for" {
    accounts=$(bindings | jq --raw-output '.subjects[] | select(.kind == "ServiceAccount") | "\(.namespace) \(.name)"' | sort --unique)
    [ -n "$accounts" ] || skip "no ClusterRoleBinding refers to the ClusterRole $POLICY: the rights were given in another way"
    {
        echo "get kubevirts.kubevirt.io"
        echo "get configmaps"
        echo "create subjectaccessreviews.authorization.k8s.io"
        for verb in get list watch; do echo "$verb nodes"; done
        [ -z "${HARVESTER-}" ] || for verb in get list watch; do printf '%s\n' "$verb pcidevices.$pci" "$verb pcideviceclaims.$pci" "$verb usbdevices.$pci"; done
    } >"$BATS_TEST_TMPDIR/rights"
    while read -r namespace name; do
        while read -r verb resource; do
            k auth can-i "$verb" "$resource" --quiet --as "system:serviceaccount:$namespace:$name" || {
                echo "$namespace:$name may not $verb $resource"
                return 1
            }
        done <"$BATS_TEST_TMPDIR/rights"
    done <<<"$accounts"
    # Kubewarden's own charts grant this permission, too, so the account always has it.
    has "$(kubectl get clusterroles "$POLICY" --output json | jq --compact-output '[.rules[] | {resources, verbs}]')" \
        '{"resources":["subjectaccessreviews"],"verbs":["create"]}'
}

@test "example nested-virt" {
    example nested-virt "\
features: vmx=require
applied: nested-virt=true"
}

@test "example pci-passthrough" {
    needs_devices
    example pci-passthrough "\
host devices: $INTEL-${DOMAIN}00020=intel.com/COFFEELAKES_GT2_UHD_GRAPHICS_630
node: $INTEL
applied: pci-passthrough=[\"$DOMAIN:00:02.0\"]"
}

@test "example usb-passthrough" {
    needs_devices
    example usb-passthrough "\
host devices: $(usb "$INTEL-$VENDOR-c52b-001002" "$INTEL-$VENDOR-0407-001003")
node: $INTEL
applied: usb-passthrough=[\"$VENDOR:c52b\",\"$VENDOR:0407\"]"
}

@test "example gpu-device-plugin" {
    example gpu-device-plugin "\
$(gpus nvidia.com/gpu 1)
applied: gpu-device-plugin=nvidia.com/gpu"
}

@test "example sriov" {
    needs_devices
    example sriov "\
host devices: $INTEL-${DOMAIN}08100=intel.com/82599_ETHERNET_CONTROLLER_VIRTUAL_FUNCTION
node: $INTEL
applied: pci-passthrough=[\"$DOMAIN:08:10.0\"]"
}

@test "example vgpu" {
    needs_devices
    local profile=nvidia.com/NVIDIA_L40S-12Q
    served "$profile" || skip "KubeVirt's permittedHostDevices does not list $profile"
    setting .gpuDevicePlugin.allowedPlugins '["nvidia.com/*"]' | grep -qE 'nvidia.com/(NVIDIA_)?[*]' || skip "the policy's setting gpuDevicePlugin.allowedPlugins has no nvidia.com/NVIDIA_*"
    example vgpu "\
host devices: gpu-0=$profile gpu-1=$profile
applied: gpu-device-plugin=$profile=2"
}

@test "example harvester" {
    needs_devices
    served nvidia.com/gpu && skip "KubeVirt serves nvidia.com/gpu, which the example has as a limit"
    example harvester "\
features: vmx=require
host devices: $INTEL-${DOMAIN}00020=intel.com/COFFEELAKES_GT2_UHD_GRAPHICS_630
limits: nvidia.com/gpu=1
node: $INTEL
applied: gpu-device-plugin=nvidia.com/gpu nested-virt=true pci-passthrough=[\"$DOMAIN:00:02.0\"]"
}

@test "example vbios" {
    needs_devices
    needs_gate Sidecar
    example vbios "\
host devices: $(igpu)
node: $AMD
ROMs: igpu-rom
applied: pci-passthrough=[\"$DOMAIN:05:00.0\"] vbios-injection=igpu-rom"
}

@test "example all" {
    needs_devices
    needs_gate Sidecar
    served nvidia.com/gpu && skip "KubeVirt serves nvidia.com/gpu, which the example has as a limit"
    example all "\
features: svm=require
host devices: $(igpu)
limits: nvidia.com/gpu=1
node: $AMD
ROMs: igpu-rom
applied: gpu-device-plugin=nvidia.com/gpu nested-virt=true pci-passthrough=[\"$DOMAIN:05:00.0\"] vbios-injection=igpu-rom"
}

@test "example workstation" {
    needs_devices
    needs_gate Sidecar
    needs_numa
    example workstation "\
CPUs: dedicated isolated NUMA
pages: 2Mi
host devices: $(igpu) $(usb "$AMD-$VENDOR-c52b-001004")
node: $AMD
ROMs: igpu-rom
applied: cpu-pinning=true hugepages=2Mi numa=passthrough pci-passthrough=[\"$DOMAIN:05:00.0\"] usb-passthrough=[\"$VENDOR:c52b\"] vbios-injection=igpu-rom"
}

@test "example user-data" {
    [ "$(setting .userData.enabled false)" = true ] || skip "the policy's setting userData.enabled is off"
    needs_devices
    # The directives are not annotations here, so only the stored template is the same.
    vm user-data user-data 'del(.spec.template.spec.networks[].multus) | .spec.template.spec.networks[].pod = {}
        | .spec.template.spec.domain.devices.interfaces[] |= (del(.bridge) | .masquerade = {})' | k apply --filename -
    same "$(stored user-data | summary)" "\
features: vmx=require
host devices: $INTEL-${DOMAIN}00020=intel.com/COFFEELAKES_GT2_UHD_GRAPHICS_630
node: $INTEL
applied: nested-virt=true pci-passthrough=[\"$DOMAIN:00:02.0\"]"
    remove user-data
}

@test "example kubevirt/nested-virt" {
    example kubevirt/nested-virt "\
features: svm=require
node: $AMD
applied: nested-virt=true" "$(on "$AMD")"
}

@test "example kubevirt/usb-passthrough" {
    needs_no_harvester
    needs_gate HostDevices
    jq --exit-status 'any(.spec.configuration.permittedHostDevices.usb[]?; .resourceName == "kubevirt.io/receiver")' <<<"$KUBEVIRT_JSON" >/dev/null ||
        skip "KubeVirt's permittedHostDevices lists no USB device kubevirt.io/receiver"
    example kubevirt/usb-passthrough "\
host devices: usb-0=kubevirt.io/receiver
applied: usb-passthrough=[\"046d:c52b\"]"
}

@test "example kubevirt/pci-passthrough" {
    needs_no_harvester
    needs_gate HostDevices
    needs_igpu
    example kubevirt/pci-passthrough "\
host devices: pci-device-0=amd.com/CEZANNE
applied: pci-passthrough=[\"1002:1638\"]"
}

@test "example kubevirt/gpu-device-plugin" {
    example kubevirt/gpu-device-plugin "\
$(gpus nvidia.com/gpu 1)
applied: gpu-device-plugin=nvidia.com/gpu"
}

@test "example kubevirt/vbios" {
    needs_no_harvester
    needs_gate HostDevices Sidecar
    # The example has its own host device, which stays.
    vm rom kubevirt/vbios | k apply --filename -
    same "$(stored rom | summary)" "\
host devices: igpu=amd.com/CEZANNE
ROMs: igpu-rom
applied: vbios-injection=igpu-rom"
    annotate rom vbios-injection-
    same "$(stored rom | summary)" "host devices: igpu=amd.com/CEZANNE"
    remove rom
}

@test "example kubevirt/all" {
    needs_no_harvester
    needs_gate HostDevices Sidecar
    needs_igpu
    example kubevirt/all "\
features: svm=require
host devices: pci-device-0=amd.com/CEZANNE
$(gpus nvidia.com/gpu 1)
node: $AMD
ROMs: igpu-rom
applied: gpu-device-plugin=nvidia.com/gpu nested-virt=true pci-passthrough=[\"1002:1638\"] vbios-injection=igpu-rom" "$(on "$AMD")"
}

@test "nested-virt is added, changed and removed" {
    directive nested-virt . \
        $'nested-virt=enabled\ncpu-vendor=intel' $'features: vmx=require\napplied: nested-virt=true' \
        cpu-vendor=amd $'features: svm=require\napplied: nested-virt=true'
}

@test "nested-virt takes the vendor from the node, and does not guess between two" {
    directive nested-virt '.spec.template.spec.nodeSelector = {"cpu-vendor.node.kubevirt.io/AMD": "true"}' \
        nested-virt=enabled $'features: svm=require\napplied: nested-virt=true' \
        nested-virt=yes $'features: svm=require\napplied: nested-virt=true'
    refused "are of both AMD and Intel" try two nested-virt "$plain | $(with nested-virt enabled)"
}

@test "cpu-pinning is added, changed and removed" {
    directive nested-virt . \
        $'cpu-pinning=enabled\nisolate-emulator-thread=enabled' $'CPUs: dedicated isolated\napplied: cpu-pinning=true' \
        isolate-emulator-thread=disabled $'CPUs: dedicated\napplied: cpu-pinning=true'
}

@test "hugepages and NUMA are added, changed and removed" {
    needs_numa
    directive nested-virt '.spec.template.spec.domain.memory.guest = "2Gi" | .spec.template.spec.domain.resources.limits.memory = "2Gi"' \
        $'cpu-pinning=enabled\nhugepages=2Mi\nnuma=passthrough' "\
CPUs: dedicated NUMA
pages: 2Mi
applied: cpu-pinning=true hugepages=2Mi numa=passthrough" \
        hugepages=1Gi "\
CPUs: dedicated NUMA
pages: 1Gi
applied: cpu-pinning=true hugepages=1Gi numa=passthrough"
}

@test "CPUs, pages and NUMA that KubeVirt would refuse are refused in the policy's words" {
    refused "NUMA passthrough needs pinned CPUs and hugepages" try numa nested-virt "$plain | $(with numa passthrough)"
    refused "pins at most 2 threads" try threads nested-virt "$plain | $(with cpu-pinning enabled)
        | .spec.template.spec.domain.cpu = {threads: 4} | .spec.template.spec.domain.resources.limits.cpu = 4"
    refused "not a multiple of the page size 1Gi" try pages nested-virt "$plain | $(with hugepages 1Gi)
        | .spec.template.spec.domain.memory.guest = \"1536Mi\" | .spec.template.spec.domain.resources.limits.memory = \"1536Mi\""
}

@test "hugepages go by the memory that Harvester sets" {
    local limits='.spec.template.spec.domain |= (.memory.guest = "8Gi" | .resources = {limits: {cpu: "4", memory: "8Gi"}})'
    create paged nested-virt "$plain | $limits"
    # Harvester's setting overcommit-config leads to two thirds.
    [ "$(stored paged | jq --raw-output .spec.template.spec.domain.resources.requests.memory)" = 5461Mi ] || {
        remove paged
        skip "no Harvester that sets the requests to two thirds of the limits"
    }
    refused "requests.memory is 5461Mi, which is not a multiple of the page size 2Mi" annotate paged hugepages=2Mi
    annotate paged hugepages=2Mi cpu-pinning=enabled
    same "$(stored paged | summary)" $'CPUs: dedicated\npages: 2Mi\napplied: cpu-pinning=true hugepages=2Mi'
    refused "is not a multiple of the page size" annotate paged cpu-pinning-
    annotate paged hugepages- cpu-pinning-
    same "$(stored paged | jq --raw-output .spec.template.spec.domain.resources.requests.memory)" 5461Mi
    remove paged
    refused "the guest's memory is 8Gi less 256Mi, which is not a multiple of the page size 1Gi" try reserving nested-virt "$plain | $limits
        | $(with hugepages 1Gi) | $(with cpu-pinning enabled) | .metadata.annotations[\"harvesterhci.io/reservedMemory\"] = \"256Mi\""
}

@test "pci-passthrough is added, changed and removed" {
    needs_devices
    directive pci-passthrough . \
        "pci-passthrough={\"devices\": [\"$INTEL/$DOMAIN:03:00.0\"]}" "\
host devices: $INTEL-${DOMAIN}03000=$card
node: $INTEL
applied: pci-passthrough=[\"$DOMAIN:03:00.0\"]" \
        "pci-passthrough={\"devices\": [\"$AMD/$DOMAIN:03:00.0\"]}" "\
host devices: $AMD-${DOMAIN}03000=$card
node: $AMD
applied: pci-passthrough=[\"$DOMAIN:03:00.0\"]"
}

@test "usb-passthrough is added, changed and removed" {
    needs_devices
    directive usb-passthrough . \
        "usb-passthrough={\"devices\": [\"$INTEL/$VENDOR:0407\"]}" "\
host devices: $(usb "$INTEL-$VENDOR-0407-001003")
node: $INTEL
applied: usb-passthrough=[\"$VENDOR:0407\"]" \
        "usb-passthrough={\"devices\": [\"$AMD/$VENDOR:c52b\"]}" "\
host devices: $(usb "$AMD-$VENDOR-c52b-001004")
node: $AMD
applied: usb-passthrough=[\"$VENDOR:c52b\"]"
}

@test "USB devices that cannot be had are refused, also those of another node than the PCI devices" {
    needs_devices
    refused "matches different devices" try usb usb-passthrough "$(with_usb "$VENDOR:c52b")"
    refused "$VENDOR:5567 is not enabled for passthrough on $INTEL" try usb usb-passthrough "$(with_usb "$INTEL/$VENDOR:5567")"
    refused "no node has a USB device dead:beef" try usb usb-passthrough "$(with_usb dead:beef)"
    refused "the node $AMD (named by usb-passthrough) has no PCI device $DOMAIN:01:00.0; it is on $INTEL" \
        try usb usb-passthrough "$(with_usb "$AMD-$VENDOR-c52b-001004") | $(with_pci "$DOMAIN:01:00.0")"
    # The PCI device decides between two identical devices.
    same "$(try usb usb-passthrough "$(with_usb "$VENDOR:c52b") | $(with_pci "$AMD/$DOMAIN:03:00.0")" | summary | grep -o "$AMD-$VENDOR-c52b-[0-9]*" | head -1)" \
        "$AMD-$VENDOR-c52b-001004"
}

@test "pci-passthrough without PCI devices is added, changed and removed" {
    needs_no_harvester
    needs_gate HostDevices
    needs_igpu
    directive kubevirt/pci-passthrough . \
        'pci-passthrough={"devices": ["1002:1638"]}' $'host devices: pci-device-0=amd.com/CEZANNE\napplied: pci-passthrough=["1002:1638"]' \
        'pci-passthrough={"devices": ["1002:1638", "1002:1638"]}' "\
host devices: pci-device-0=amd.com/CEZANNE pci-device-1=amd.com/CEZANNE
applied: pci-passthrough=[\"1002:1638\",\"1002:1638\"]"
    refused "0000:05:00.0 is an address, but without Harvester" try pci kubevirt/pci-passthrough "$(with_pci 0000:05:00.0)"
}

@test "pci-passthrough leaves a card of the same kind that the user gave" {
    needs_devices
    directive pci-passthrough ".spec.template.spec.domain.devices.hostDevices = [{name: \"$INTEL-${DOMAIN}03001\", deviceName: \"$card\"}]" \
        "pci-passthrough={\"devices\": [\"$INTEL/$DOMAIN:03:00.0\"]}" "\
host devices: $INTEL-${DOMAIN}03001=$card $INTEL-${DOMAIN}03000=$card
node: $INTEL
applied: pci-passthrough=[\"$DOMAIN:03:00.0\"]" \
        "pci-passthrough={\"devices\": [\"$INTEL/$DOMAIN:00:02.0\"]}" "\
host devices: $INTEL-${DOMAIN}03001=$card $INTEL-${DOMAIN}00020=intel.com/COFFEELAKES_GT2_UHD_GRAPHICS_630
node: $INTEL
applied: pci-passthrough=[\"$DOMAIN:00:02.0\"]"
}

@test "a PCI device that is not enabled for passthrough is refused, and so is one that is not there" {
    needs_devices
    refused "pci-passthrough cannot be applied" try pci pci-passthrough "$(with_pci "$INTEL/$DOMAIN:03:00.1")"
    refused "pci-passthrough cannot be applied" try pci pci-passthrough "$(with_pci "$INTEL/$DOMAIN:7f:00.0")"
}

@test "devices of an IOMMU group come and go with the device" {
    needs_devices
    [ -n "${SIBLINGS-}" ] || skip "no Harvester: its webhook, which adds them, is not installed"
    local file=$BATS_TEST_TMPDIR/vm.json
    vm group pci-passthrough "$plain | $(with_pci "$DOMAIN:01:00.0") | .spec.runStrategy = \"Halted\"" >"$file"
    k create --filename "$file"
    same "$(stored group | summary)" "\
host devices: $INTEL-${DOMAIN}01000=nvidia.com/TU104GL_TESLA_T4 $INTEL-${DOMAIN}01001=nvidia.com/TU104_HD_AUDIO_CONTROLLER
applied: pci-passthrough=[\"$DOMAIN:01:00.0\"]"
    # Harvester adds them only to a new virtual machine, and the manifest does not contain them.
    stays group k replace --filename "$file"
    annotate group pci-passthrough-
    same "$(stored group | summary)" ""
    remove group
}

@test "two devices of an IOMMU group of four bring the other two, each once" {
    needs_devices
    local all applied="\"$DOMAIN:0e:00.0\",\"$DOMAIN:0e:00.1\""
    all=$(printf "$INTEL-${DOMAIN}0e00%d=nvidia.com/TU102_FUNCTION_%d " 0 0 1 1 2 2 3 3)
    directive pci-passthrough . \
        "pci-passthrough={\"devices\": [\"$INTEL/$DOMAIN:0e:00.0\", \"$INTEL/$DOMAIN:0e:00.1\"]}" "\
host devices: ${all% }
node: $INTEL
applied: pci-passthrough=[$applied]" \
        "pci-passthrough={\"devices\": [\"$INTEL/$DOMAIN:0e:00.*\"]}" "\
host devices: ${all% }
node: $INTEL
applied: pci-passthrough=[\"$DOMAIN:0e:00.*\"]"
    # Without a USB device, Harvester's webhook adds the devices of an IOMMU group, too.
    create four pci-passthrough "$plain | $(with_pci "$INTEL/$DOMAIN:0e:00.0" "$INTEL/$DOMAIN:0e:00.1")"
    same "$(stored four | jq --raw-output '[.spec.template.spec.domain.devices.hostDevices[] | "\(.name)=\(.deviceName)"] | join(" ")')" "${all% }"
    annotate four pci-passthrough-
    same "$(stored four | summary)" ""
    remove four
}

@test "one of three equal disks comes with a warning that names the others" {
    needs_devices
    local disk=samsung.com/NVME_SSD_PM9A1
    warned "$AMD-${DOMAIN}81000, $AMD-${DOMAIN}c1000" create_with_pci disk "$AMD/$DOMAIN:41:00.0"
    same "$(stored disk | summary)" "\
host devices: $AMD-${DOMAIN}41000=$disk
node: $AMD
applied: pci-passthrough=[\"$DOMAIN:41:00.0\"]"
    # All three leave no other that Kubernetes could give.
    same "$(annotate disk "pci-passthrough={\"devices\": [\"$AMD/$DOMAIN:41:00.0\", \"$AMD/$DOMAIN:81:00.0\", \"$AMD/$DOMAIN:c1:00.0\"]}" 2>&1 | grep -c "may give")" 0
    remove disk
}

@test "a device whose resource is renamed has the new resource after the next change" {
    needs_devices
    local device=$AMD-${DOMAIN}81000
    create_with_pci renamed "$AMD/$DOMAIN:81:00.0"
    rename "$device" samsung.com/NVME_SSD_PM9A3
    eventually 30 changes_to renamed "$device=samsung.com/NVME_SSD_PM9A3"
    rename "$device" samsung.com/NVME_SSD_PM9A1
    eventually 30 changes_to renamed "$device=samsung.com/NVME_SSD_PM9A1"
    annotate renamed pci-passthrough-
    same "$(stored renamed | summary)" ""
    remove renamed
}

# Gives a PCI device another resource: name, resource.
rename() {
    patch_status pcidevices "$1" "{\"resourceName\": \"$2\"}"
}

# Whether the virtual machine has the host device after a change: name, device.
changes_to() {
    change "$1" "{\"spec\": {\"template\": {\"spec\": {\"terminationGracePeriodSeconds\": $((60 + SECONDS))}}}}"
    has "$(stored "$1" | summary)" "$2"
}

@test "a limit of gpu-device-plugin is added, changed and removed" {
    served nvidia.com/gpu && skip "KubeVirt serves nvidia.com/gpu as a device"
    directive gpu-device-plugin . \
        gpu-device-plugin=nvidia.com/gpu $'limits: nvidia.com/gpu=1\napplied: gpu-device-plugin=nvidia.com/gpu' \
        gpu-device-plugin=nvidia.com/gpu=2 $'limits: nvidia.com/gpu=2\napplied: gpu-device-plugin=nvidia.com/gpu=2'
}

@test "GPUs that KubeVirt serves are added, changed and removed" {
    needs_gpu
    needs_gate HostDevices
    directive gpu-device-plugin . \
        "gpu-device-plugin=$GPU" "$(gpus "$GPU" 1)"$'\n'"applied: gpu-device-plugin=$GPU" \
        "gpu-device-plugin=$GPU=2" "$(gpus "$GPU" 2)"$'\n'"applied: gpu-device-plugin=$GPU=2"
}

@test "two GPUs are stored at once" {
    needs_gpu
    needs_gate HostDevices
    create gpus gpu-device-plugin "$(with gpu-device-plugin "$GPU=2")"
    same "$(stored gpus | summary)" "$(gpus "$GPU" 2)"$'\n'"applied: gpu-device-plugin=$GPU=2"
    remove gpus
}

@test "a ROM is added, changed and removed" {
    needs_gate Sidecar HostDevices
    k get configmap igpu-rom --output json | jq '.metadata = {name: "other-rom"}' | k create --filename -
    # A device of the user that Harvester knows.
    local device=$INTEL-${DOMAIN}03000
    directive nested-virt ".spec.template.spec.domain.devices.hostDevices = [{name: \"$device\", deviceName: \"$card\"}]" \
        vbios-injection=igpu-rom $'host devices: '"$device=$card"$'\nROMs: igpu-rom\napplied: vbios-injection=igpu-rom' \
        vbios-injection=other-rom $'host devices: '"$device=$card"$'\nROMs: other-rom\napplied: vbios-injection=other-rom'
    k delete configmap other-rom
}

@test "a value that is wrong is refused by every way of writing" {
    create plain nested-virt "$plain"
    vm plain nested-virt "$(with nested-virt maybe)" >"$BATS_TEST_TMPDIR/vm.json"
    local message="must be enabled or disabled"
    refused "$message" annotate plain nested-virt=maybe
    refused "$message" k apply --filename "$BATS_TEST_TMPDIR/vm.json"
    refused "$message" k apply --server-side --force-conflicts --filename "$BATS_TEST_TMPDIR/vm.json"
    refused "$message" k replace --filename "$BATS_TEST_TMPDIR/vm.json"
    same "$(stored plain | summary)" ""
    remove plain
    refused "$message" k create --filename "$BATS_TEST_TMPDIR/vm.json"
    refused NotFound stored plain
}

@test "a gate that is off is named" {
    local off=no
    if ! gate HostDevices; then
        off=yes
        if [ -n "${HARVESTER-}" ]; then
            refused "feature gate HostDevices is off" try pci pci-passthrough
        else
            refused "feature gate HostDevices is off" try pci kubevirt/pci-passthrough
        fi
    fi
    if ! gate Sidecar; then
        off=yes
        refused "feature gate Sidecar is off" try rom nested-virt "$(with vbios-injection igpu-rom)"
    fi
    [ $off = yes ] || skip "the gates HostDevices and Sidecar are on"
}

@test "a dry run on the server answers with the whole virtual machine and stores nothing" {
    same "$(try dry nested-virt | summary)" $'features: vmx=require\napplied: nested-virt=true'
    refused NotFound stored dry
    create dry nested-virt "$plain"
    same "$(k annotate virtualmachines.kubevirt.io dry "$ours/nested-virt=enabled" "$ours/cpu-vendor=amd" --dry-run=server --output json | summary)" \
        $'features: svm=require\napplied: nested-virt=true'
    same "$(stored dry | summary)" ""
    remove dry
}

@test "a virtual machine whose ROM is gone can be changed and deleted, and a change says what is missing" {
    needs_devices
    needs_gate Sidecar
    k get configmap igpu-rom --output json | jq '.metadata = {name: "lost-rom"}' | k create --filename -
    create lost vbios "$(with vbios-injection lost-rom)"
    k delete configmap lost-rom
    # policy-server caches what it reads for some seconds.
    eventually 30 warned "vbios-injection fails as before this request" \
        k patch virtualmachines.kubevirt.io lost --type merge --patch '{"spec": {"template": {"spec": {"domain": {"cpu": {"cores": 2}}}}}}' --dry-run=server
    refused "there is no ConfigMap lost-too in the namespace $NAMESPACE" \
        annotate lost vbios-injection=lost-too
    stays lost k label virtualmachines.kubevirt.io lost somebody=here
    stays lost change lost '{"spec": {"runStrategy": "Halted"}}'
    same "$(stored lost | jq --raw-output .spec.runStrategy)" Halted
    # The other features stay when the directive is removed.
    annotate lost vbios-injection-
    same "$(stored lost | summary)" "\
host devices: $(igpu)
node: $AMD
applied: pci-passthrough=[\"$DOMAIN:05:00.0\"]"
    remove lost
}

@test "a virtual machine whose claim is gone can be changed and deleted, and a change says what is missing" {
    needs_devices
    local claim=$INTEL-${DOMAIN}03000
    create_with_pci claimed "$INTEL/$DOMAIN:03:00.0"
    kubectl get "pcideviceclaims.$pci" "$claim" --output json >"$BATS_TEST_TMPDIR/claim.json"
    # Harvester does not delete a claim that a virtual machine uses. In that case, the claim's status says that it has no effect.
    kubectl delete "pcideviceclaims.$pci" "$claim" ||
        patch_status pcideviceclaims "$claim" '{"passthroughEnabled": false}'
    eventually 30 warned "pci-passthrough fails as before this request" \
        k patch virtualmachines.kubevirt.io claimed --type merge --patch '{"spec": {"template": {"spec": {"domain": {"cpu": {"cores": 2}}}}}}' --dry-run=server
    stays claimed k label virtualmachines.kubevirt.io claimed somebody=here
    stays claimed change claimed '{"spec": {"runStrategy": "Halted"}}'
    remove claimed
    jq '{apiVersion, kind, metadata: {name: .metadata.name}, spec}' "$BATS_TEST_TMPDIR/claim.json" | kubectl apply --filename -
    patch_status pcideviceclaims "$claim" "$(jq --compact-output .status "$BATS_TEST_TMPDIR/claim.json")"
    eventually 30 try claimed pci-passthrough "$(with_pci "$INTEL/$DOMAIN:03:00.0")"
}

@test "a copy without annotations, as Harvester clones and restores, gets its directives back" {
    local left
    create original nested-virt "$(with nested-virt enabled) | $(with cpu-vendor intel)"
    stored original | jq '{apiVersion, kind, metadata: {name: "copy"}, spec}
        | '"$own_volumes"'
        | del(.spec.template.spec.domain.firmware, .spec.template.spec.domain.devices.interfaces[].macAddress)' >"$BATS_TEST_TMPDIR/copy.json"
    warned "the policy put it back" k create --filename "$BATS_TEST_TMPDIR/copy.json"
    same "$(stored copy | summary)" "$(stored original | summary)"
    same "$(stored copy | jq --raw-output '.metadata.annotations["vm-feature-manager.io/cpu-vendor"]')" intel
    annotate copy nested-virt- cpu-vendor-
    left=$(stored copy | jq --compact-output '[.spec.template.spec.domain.cpu.features, .spec.template.metadata.annotations["vm-feature-manager.io/record"]]')
    same "$left" '[null,null]'
    remove original
    remove copy
}

@test "disks that are plugged, unplugged, inserted and ejected leave what the policy added" {
    needs_devices
    needs_gate Sidecar
    local own="disk-0 cloudinitdisk" spec=.spec.template.spec write plug cd
    plug="$spec.domain.devices.disks += [{name: \"data\", disk: {bus: \"scsi\"}}]
        | $spec.volumes += [{name: \"data\", persistentVolumeClaim: {claimName: \"plugged-data\", hotpluggable: true}}]"
    create plugged vbios "$(with nested-virt enabled) | .spec.runStrategy = \"Halted\""
    for write in patch_disks rewrite; do
        plugs plugged $write "$plug" "$own data, $own data"
        plugs plugged $write "del($spec | (.domain.devices.disks, .volumes)[] | select(.name == \"data\"))" "$own, $own"
    done
    if gate DeclarativeHotplugVolumes; then
        # An empty CD-ROM drive.
        cd='select(.name == "cd")'
        plugs plugged rewrite "$spec.domain.devices.disks += [{name: \"cd\", cdrom: {bus: \"sata\"}}]" "$own cd, $own"
        plugs plugged rewrite "$spec.volumes += [{name: \"cd\", persistentVolumeClaim: {claimName: \"plugged-cd\", hotpluggable: true}}]" "$own cd, $own cd"
        plugs plugged rewrite "del($spec.volumes[] | $cd)" "$own cd, $own"
        plugs plugged rewrite "del($spec.domain.devices.disks[] | $cd)" "$own, $own"
    fi
    plugs plugged rewrite "$plug" "$own data, $own data"
    annotate plugged nested-virt- pci-passthrough- vbios-injection-
    same "$(stored plugged | summary)" ""
    same "$(stored plugged | disks)" "$own data, $own data"
    remove plugged
}

# Changes the disks of a virtual machine, and nothing else, without a warning: name, function that writes, jq program, disks and volumes.
plugs() {
    local before
    before=$(everything "$1" | without_disks)
    # The virtual machine may have changed between the two requests of the function.
    eventually 20 "$2" "$1" "$3"
    same "$(grep Warning "$BATS_TEST_TMPDIR/eventually")" ""
    same "$(everything "$1" | without_disks)" "$before"
    same "$(stored "$1" | disks)" "$4"
}

without_disks() {
    jq 'del(.template.spec.volumes, .template.spec.domain.devices.disks)'
}

# The names of the disks, then those of the volumes. Reads the object.
disks() {
    jq --raw-output '.spec.template.spec | "\([.domain.devices.disks[].name] | join(" ")), \([.volumes[].name] | join(" "))"'
}

# Writes the whole object, as Harvester and virt-controller do: name, jq program.
rewrite() {
    stored "$1" | jq "$2" | k replace --filename -
}

# Patches the two lists, as virt-api does for virtctl addvolume and removevolume: name, jq program.
patch_disks() {
    stored "$1" | jq "[., ($2)] | map(.spec.template.spec | {volumes, \"domain/devices/disks\": .domain.devices.disks} | to_entries
        | map({path: \"/spec/template/spec/\(.key)\", value})) | (.[0] | map(.op = \"test\")) + (.[1] | map(.op = \"replace\"))" \
        >"$BATS_TEST_TMPDIR/patch.json"
    k patch virtualmachines.kubevirt.io "$1" --type json --patch-file "$BATS_TEST_TMPDIR/patch.json"
}

@test "a user without rights is refused by Kubernetes" {
    vm nobody nested-virt >"$BATS_TEST_TMPDIR/vm.json"
    refused "User \"$RUN-nobody\" cannot create resource \"virtualmachines\"" k create --as "$RUN-nobody" --filename "$BATS_TEST_TMPDIR/vm.json"
    refused NotFound stored nobody
}

@test "a user with rights on virtual machines alone gets what the policy looks up" {
    local user=$RUN-user example=nested-virt
    k create role vm-user --verb=get,create,patch,delete --resource=virtualmachines.kubevirt.io
    k create rolebinding vm-user --role=vm-user --user="$user"
    refused "cannot list resource \"nodes\"" kubectl get nodes --as "$user"
    vm user $example "$plain | $(with nested-virt enabled) | $(on "$AMD") | .spec.runStrategy = \"Halted\"" | k create --as "$user" --filename -
    same "$(stored user | summary)" $'features: svm=require\n'"node: $AMD"$'\napplied: nested-virt=true'
    if [ -n "${HARVESTER-}" ] && gate HostDevices; then
        k annotate --as "$user" virtualmachines.kubevirt.io user "$ours/pci-passthrough={\"devices\": [\"$DOMAIN:03:00.0\"]}"
        same "$(stored user | summary)" "\
features: svm=require
host devices: $AMD-${DOMAIN}03000=$card
node: $AMD
applied: nested-virt=true pci-passthrough=[\"$DOMAIN:03:00.0\"]"
    fi
    k delete --as "$user" virtualmachines.kubevirt.io user
}

@test "without rights every answer comes soon and says what to grant, and what it says helps" {
    [ -n "$(bindings)" ] || skip "no ClusterRoleBinding refers to the ClusterRole $POLICY: the rights were given in another way"
    local asks grant
    asks="$plain | $(with nested-virt enabled)"
    take_rights
    eventually 60 refused "may not list and watch nodes" try none nested-virt "$asks"
    eventually 60 refused "may not get nodes" try none nested-virt "$asks | $(on "$AMD")"
    if [ -n "${HARVESTER-}" ]; then
        eventually 60 refused "pci-passthrough cannot be applied" try none pci-passthrough
        eventually 60 refused "pci-passthrough cannot be applied" try none pci-passthrough "$(with_pci "$DOMAIN:01:00.0")"
    fi
    SECONDS=0
    grant=$(try none nested-virt "$asks" 2>&1 | grep --only-matching 'kubectl create clusterrolebinding .*')
    [ "$SECONDS" -lt 5 ]
    # A virtual machine that asks for nothing needs no permissions.
    same "$(try none nested-virt "$plain" | summary)" ""
    if [ "$POLICY" = vm-feature-manager ]; then
        echo "$grant" | cut -d ' ' -f 4 >"$BATS_FILE_TMPDIR/granted"
        eval "$grant"
        eventually 60 refused "are of both AMD and Intel" try none nested-virt "$asks"
    fi
    give_rights_back
    eventually 60 refused "are of both AMD and Intel" try none nested-virt "$asks"
}

@test "while policy-server is down virtual machines can be written, and when it is back their features come" {
    [ "$(jq --raw-output .spec.failurePolicy <<<"$POLICY_JSON")" = Ignore ] || skip "the failurePolicy is not Ignore"
    can_stop_server || skip "policy-server is not a pod here; name commands in POLICY_SERVER_STOP and POLICY_SERVER_START"
    create early nested-virt
    stop_server
    create late nested-virt
    same "$(stored late | summary)" ""
    stays early change early '{"spec": {"runStrategy": "Halted"}}'
    remove early
    start_server
    eventually 120 features_come try back nested-virt
    change late '{"spec": {"template": {"spec": {"domain": {"cpu": {"cores": 2}}}}}}'
    same "$(stored late | summary)" $'features: vmx=require\napplied: nested-virt=true'
    remove late
}

features_come() {
    has "$("$@" | summary)" "features: vmx=require"
}

@test "200 virtual machines by 8 clients, none wrong" {
    local client kinds='["none", "intel", "amd", "node"]'
    [ -z "${HARVESTER-}" ] || ! gate HostDevices || kinds='["none", "intel", "amd", "node", "pci", "pci-node"]'
    # shellcheck disable=SC2016 # jq's variables
    local program='. as $vm | {apiVersion: "v1", kind: "List", items: [range(25) as $i | $kinds[$i % ($kinds | length)] as $kind
        | $vm | .metadata.name = "burst-\($client)-\($i)" | .metadata.labels.burst = $kind
        | del(.spec.template.spec.domain.devices.interfaces[].macAddress) | .spec.runStrategy = "Halted"
        | '"$own_volumes"' | .metadata.annotations += {
            none: {}, intel: {"nested-virt": "enabled", "cpu-vendor": "intel"}, amd: {"nested-virt": "enabled", "cpu-vendor": "amd"},
            node: {"nested-virt": "enabled"}, pci: {"pci-passthrough": "{\"devices\": [\"\($ENV.DOMAIN):01:00.0\"]}"},
            "pci-node": {"pci-passthrough": "{\"devices\": [\"\($ENV.AMD)/\($ENV.DOMAIN):03:00.0\"]}"}
        }[$kind] | .metadata.annotations |= with_entries(if .key | contains("/") then . else .key |= "\($ENV.ours)/\(.)" end)
        | if $kind == "node" then .spec.template.spec.nodeSelector = {"cpu-vendor.node.kubevirt.io/AMD": "true"} else . end]}'
    for client in {1..8}; do
        vm burst nested-virt "$plain" | jq --argjson kinds "$kinds" --arg client "$client" "$program" >"$BATS_TEST_TMPDIR/$client.json"
    done
    SECONDS=0
    printf '%s\n' "$BATS_TEST_TMPDIR"/[1-8].json |
        xargs --max-args 1 --max-procs 8 "${KUBECTL:-kubectl}" --namespace "$NAMESPACE" create --filename >"$BATS_TEST_TMPDIR/created"
    echo "# 200 virtual machines in $SECONDS s" >&3
    k get virtualmachines.kubevirt.io --selector burst --output json >"$BATS_TEST_TMPDIR/all.json"
    same "$(jq '.items | length' "$BATS_TEST_TMPDIR/all.json")" 200
    # shellcheck disable=SC2016
    same "$(jq --raw-output --arg amd "$AMD" --arg intel "$INTEL" '
        {none: [], intel: ["vmx"], amd: ["svm"], node: ["svm"], "pci-node": ["\($amd)-\($ENV.DOMAIN)03000", $amd],
         pci: ["\($intel)-\($ENV.DOMAIN)01000", (if $ENV.SIBLINGS then "\($intel)-\($ENV.DOMAIN)01001" else empty end)]} as $expected
        | .items[] | .spec.template.spec as $spec
        | [($spec.domain.cpu.features // [])[].name, ($spec.domain.devices.hostDevices // [])[].name, ($spec.nodeSelector // {})["kubernetes.io/hostname"] // empty] as $found
        | select($found != $expected[.metadata.labels.burst]) | "\(.metadata.name) \(.metadata.labels.burst): \($found | tojson)"' "$BATS_TEST_TMPDIR/all.json")" ""
    # This takes only one request. kubectl would send one per object.
    kubectl delete --raw "/apis/kubevirt.io/v1/namespaces/$NAMESPACE/virtualmachines?labelSelector=burst" >"$BATS_TEST_TMPDIR/deleted"
}
