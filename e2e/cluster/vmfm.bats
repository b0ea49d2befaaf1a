#!/usr/bin/env bats
# shellcheck disable=SC2154 # the names that lib.bash exports
# `vmfm cluster` and `vmfm doctor` with a cluster that runs. VMFM names the program, if not scripts/vmfm with policy.wasm.

setup_file() {
    load lib
    discover
    vmfm --version >&2 || { echo "build the evaluator and policy.wasm, or name a program in VMFM" >&2; return 1; }
    make_world >&2
}

teardown_file() {
    load lib
    give_rights_back
    if [ -e "$BATS_FILE_TMPDIR/stopped" ]; then start_server; fi
    unmake_world
}

setup() {
    load lib
    cd "$BATS_TEST_DIRNAME/../.." || return
}

vmfm() {
    "${VMFM:-scripts/vmfm}" "$@"
}

# The state and the first message of a virtual machine: its name.
state() {
    vmfm cluster "$1" --namespace "$NAMESPACE" --policy "$POLICY" --output json | jq --raw-output '.[0] | .state, .messages[0] // empty'
}

# The findings of a check: name, grade.
findings() {
    vmfm doctor --policy "$POLICY" --output json |
        jq --raw-output --arg check "$1" --arg grade "$2" '.[] | select(.check == $check and .grade == $grade) | "\(.found); \(.cure // "")"'
}

# Whether a text does not contain another.
has_not() {
    [[ $1 != *"$2"* ]] && return
    echo "found: $2"
    echo "in: $1"
    return 1
}

@test "vmfm cluster names what is applied, and what was never evaluated" {
    create done nested-virt
    create plain nested-virt "$plain"
    same "$(state done)" applied
    same "$(state plain)" nothing
    remove done plain
}

@test "vmfm doctor names each permission that is missing" {
    same "$(findings permissions problem)" ""
    take_rights
    eventually 10 is_missing nodes
    is_missing kubevirts.kubevirt.io
    # Kubewarden's own role lets policy-server create them in some versions.
    local reviews=subjectaccessreviews.authorization.k8s.io
    if ! kubectl auth can-i create "$reviews" --as "system:serviceaccount:$SERVER_NAMESPACE:policy-server"; then
        is_missing "$reviews"
    fi
    give_rights_back
}

is_missing() {
    has "$(findings permissions problem)" "$1; have an administrator run: kubectl create clusterrolebinding" ||
        has "$(findings permissions problem)" "$1 in the namespace"
}

@test "vmfm doctor says of each feature gate whether it is on" {
    local gate
    for gate in HostDevices Sidecar CPUManager; do
        if gate "$gate"; then
            has_not "$(findings "feature gates" problem; findings "feature gates" warning)" "gate $gate is off"
        else
            has "$(findings "feature gates" problem; findings "feature gates" warning)" "gate $gate is off"
        fi
    done
}

@test "vmfm doctor names Harvester's PCI devices, or says that there need be none" {
    if [ -n "${HARVESTER-}" ]; then
        has "$(findings Harvester ok)" "PCI devices, of which"
    else
        has "$(findings Harvester ok)" "without Harvester"
    fi
}

@test "vmfm cluster --fix writes what was missed while policy-server was down" {
    [ "$(jq --raw-output .spec.failurePolicy <<<"$POLICY_JSON")" = Ignore ] || skip "the failurePolicy is not Ignore"
    can_stop_server || skip "policy-server is not a pod here; name commands in POLICY_SERVER_STOP and POLICY_SERVER_START"
    stop_server
    create late nested-virt
    start_server
    same "$(state late | head -1)" never-evaluated
    has "$(findings "missed VMs" problem)" "$NAMESPACE/late"
    vmfm cluster late --namespace "$NAMESPACE" --policy "$POLICY" --fix --yes
    same "$(stored late | summary)" $'features: vmx=require\napplied: nested-virt=true'
    same "$(state late)" applied
    remove late
}
