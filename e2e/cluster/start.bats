#!/usr/bin/env bats
# shellcheck disable=SC2154 # the names that lib.bash exports
# Starts a virtual machine, if KubeVirt has a node for it; emulation is enough.

setup_file() {
    load lib
    discover
    make_world >&2
}

teardown_file() {
    load lib
    unmake_world
}

setup() {
    load lib
    cd "$BATS_TEST_DIRNAME/../.." || return
}

# The nodes on which KubeVirt starts guests.
nodes() {
    kubectl get nodes --selector kubevirt.io/schedulable=true --output name
}

phase_is() {
    has "$(k get virtualmachineinstances.kubevirt.io "$1" --output jsonpath='{.status.phase}')" "$2"
}

# Whether the sidecar's log contains a text: pod, text.
says() {
    has "$(k logs "$1" --container hook-sidecar-0)" "$2"
}

@test "a guest starts with nested-virt switched off and the hook's sidecar" {
    needs_gate Sidecar HostDevices
    [ -n "$(nodes)" ] || skip "KubeVirt has no node here that starts guests"
    # The sidecar as the policy writes it, but without its mark: one with the mark is the policy's, and is removed without a directive.
    # The guest has no device to pass through, so the hook must accept that there is none.
    device=.
    # Harvester refuses a device that it does not know.
    [ -z "${HARVESTER-}" ] ||
        device=".spec.template.spec.domain.devices.hostDevices = [{name: \"$INTEL-${DOMAIN}03000\", deviceName: \"intel.com/I350_GIGABIT_NETWORK_CONNECTION\"}]"
    create model kubevirt/vbios "$device | .spec.runStrategy = \"Halted\""
    sidecars=$(stored model | jq --raw-output '.spec.template.metadata.annotations["hooks.kubevirt.io/hookSidecars"]
        | fromjson | .[].command |= map(if . == "fail" then "continue" elif startswith("vm-feature-manager.io/") then "cluster-tests" else . end) | tojson')
    [ -n "$sidecars" ]
    remove model
    version=$(jq --raw-output .status.observedKubeVirtVersion <<<"$KUBEVIRT_JSON")
    image=${VM_IMAGE:-quay.io/kubevirt/cirros-container-disk-demo:$version}
    vm guest kubevirt/vbios "$plain | $(with nested-virt disabled)" | jq --arg sidecars "$sidecars" --arg image "$image" '
        .spec.template.metadata.annotations["hooks.kubevirt.io/hookSidecars"] = $sidecars
        | .spec.template.spec.volumes[0].containerDisk.image = $image
        | .spec.template.spec.domain |= (.cpu.cores = 1 | .memory.guest = "128Mi" | del(.devices.hostDevices))' | k create --filename -
    same "$(stored guest | summary)" "ROMs: igpu-rom"
    eventually 600 phase_is guest Running
    pod=$(k get pods --selector vm.kubevirt.io/name=guest --output name | head -1)
    eventually 30 says "$pod" "vbios: LookupError: no single PCI device"
    remove guest
}
