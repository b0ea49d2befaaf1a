# Shared by the cluster tests: the manifests that they write, and what they read from stored objects.
# shellcheck shell=bash
# bats sets status and output.
# shellcheck disable=SC2154

export ours=vm-feature-manager.io pci=devices.harvesterhci.io

# kubectl, or the program in KUBECTL.
kubectl() {
    command "${KUBECTL:-kubectl}" "$@"
}

# The same in the tests' namespace.
k() {
    kubectl --namespace "$NAMESPACE" "$@"
}

# Compares two texts: actual, expected.
same() {
    diff <(echo "$1") <(echo "$2")
}

# Whether a text contains another.
has() {
    [[ $1 == *"$2"* ]] && return
    echo "not found: $2"
    echo "in: $1"
    return 1
}

# Repeats a command until it succeeds: seconds, command.
eventually() {
    local end=$((SECONDS + $1))
    until "${@:2}" >"$BATS_TEST_TMPDIR/eventually" 2>&1; do
        if ((SECONDS >= end)); then
            cat "$BATS_TEST_TMPDIR/eventually"
            echo "still not so after $1 seconds: ${*:2}"
            return 1
        fi
        sleep 1
    done
}

# Runs a command that must fail with a message: message, command.
refused() {
    local message
    if message=$("${@:2}" 2>&1); then
        echo "succeeded: ${*:2}"
        return 1
    fi
    has "$message" "$1"
}

# Runs a command that must succeed with a warning: part of the warning, command.
warned() {
    local output
    output=$("${@:2}" 2>&1) || { echo "$output"; return 1; }
    has "$output" "$1"
}

# --- The cluster, and what is installed in it ---

# Ends the tests if a program or a part of the cluster is missing.
need() {
    "${@:2}" >/dev/null 2>&1 && return
    echo "$1" >&2
    return 1
}

# A value of the policy's settings, or its default: jq path, default.
setting() {
    jq --raw-output --arg default "$2" ".spec.settings$1 // \$default" <<<"$POLICY_JSON"
}

# Detects what the cluster has. The names of all objects that the tests create contain the name of the run.
discover() {
    bats_require_minimum_version 1.5.0
    cd "$BATS_TEST_DIRNAME/../.." || return
    need "jq is missing" jq --version
    need "no cluster answers; set KUBECONFIG, and KUBECTL where kubectl has another name" kubectl get namespaces
    need "the account of KUBECONFIG must be an administrator of the cluster" kubectl auth can-i '*' '*' --all-namespaces
    need "KubeVirt is not installed" kubectl get crd virtualmachines.kubevirt.io
    export POLICY=${POLICY:-vm-feature-manager}
    need "there is no ClusterAdmissionPolicy $POLICY; install the policy, or name it in POLICY" kubectl get clusteradmissionpolicies "$POLICY"

    RUN=vmfm-$RANDOM
    export RUN INTEL=$RUN-intel AMD=$RUN-amd NAMESPACE=$RUN
    POLICY_JSON=$(kubectl get clusteradmissionpolicies "$POLICY" --output json)
    KUBEVIRT_JSON=$(kubectl get kubevirts.kubevirt.io "$(setting .kubevirt.name kubevirt)" \
        --namespace "$(setting .kubevirt.namespace harvester-system)" --output json)
    export POLICY_JSON KUBEVIRT_JSON
    # The sections of the settings that belong to features are those with an error handling in the chart's values.
    # shellcheck disable=SC2016 # jq's variables
    local usual='($schema[0].properties.settings.properties | map_values(select(.properties.errorHandling)) | keys) as $sections
        | .spec.settings | (.configSource // "annotations") == "annotations"
        and ([.[$sections[]] | .enabled != false and (.errorHandling // "reject") == "reject"] | length > 0 and all)'
    need "the tests need the default configSource and errorHandling, and all features" \
        jq --exit-status --slurpfile schema charts/vm-feature-manager-policy/values.schema.json "$usual" <<<"$POLICY_JSON"

    # HARVESTER: the policy looks up PCI devices. SIBLINGS: Harvester adds devices that share an IOMMU group.
    unset HARVESTER SIBLINGS
    if [ "$(setting .pciPassthrough.deviceNames auto)" != address ] && kubectl get crd "pcidevices.$pci" >/dev/null 2>&1 &&
        jq --exit-status 'any(.spec.contextAwareResources[]?; .kind == "PCIDevice")' <<<"$POLICY_JSON" >/dev/null; then
        export HARVESTER=yes
        kubectl get mutatingwebhookconfigurations pcidevices-mutator >/dev/null 2>&1 && export SIBLINGS=yes
    fi
    # The names of the examples' nodes and devices, and what they are called here: sed's program.
    RENAMES="s/\bnode1\b/$INTEL/g; s/\bnode2\b/$AMD/g"
    if [ -n "${HARVESTER-}" ]; then
        # Four digits that no device of the cluster has: the domain of the tests' PCI devices, and the vendor of their USB devices.
        local devices
        devices=$(kubectl get "pcidevices.$pci,usbdevices.$pci" --output json | jq --raw-output '.items[].status | .address, .vendorID')
        until DOMAIN=$(printf e%03x $((RANDOM % 4096))) && ! grep --quiet "^$DOMAIN" <<<"$devices"; do :; done
        RENAMES+="; s/\b0000(:[0-9a-f]{2}:[0-9a-f]{2}\.)/$DOMAIN\1/g; s/(-)0000([0-9a-f]{5}\b)/\1$DOMAIN\2/g"
        RENAMES+="; s/\b(046d|1050|0781)\b/$DOMAIN/g"
        export DOMAIN VENDOR=$DOMAIN
    fi
    export RENAMES
    # A GPU resource that the policy allows, by name or by a pattern, and KubeVirt serves as a device.
    # shellcheck disable=SC2016 # jq's variables
    local allowed='["nvidia.com/gpu", "amd.com/gpu", "intel.com/gpu"] as $usual
        | (.spec.settings.gpuDevicePlugin.allowedPlugins // $usual) as $allowed
        | ($allowed | map("^" + (gsub("[.]"; "[.]") | gsub("[*]"; ".*")) + "$")) as $patterns
        | $allowed + $usual | unique[] | select(. as $name | any($patterns[]; . as $pattern | $name | test($pattern)))'
    GPU=$(jq --raw-output "$allowed" <<<"$POLICY_JSON" | while read -r name; do if served "$name"; then echo "$name"; fi; done | tail -1)
    SERVER=$(jq --raw-output '.spec.policyServer // "default"' <<<"$POLICY_JSON")
    SERVER_NAMESPACE=$(kubectl get deployments --all-namespaces --field-selector "metadata.name=policy-server-$SERVER" \
        --output jsonpath='{.items[0].metadata.namespace}')
    export GPU SERVER SERVER_NAMESPACE
}

# Whether a feature gate of KubeVirt is on.
gate() {
    jq --exit-status --arg gate "$1" '.spec.configuration.developerConfiguration.featureGates // [] | index($gate)' <<<"$KUBEVIRT_JSON" >/dev/null
}

# Whether KubeVirt serves a resource as a device.
served() {
    jq --exit-status --arg name "$1" '[.spec.configuration.permittedHostDevices // {} | (.pciHostDevices // [])[], (.mediatedDevices // [])[]]
        | any(.resourceName == $name)' <<<"$KUBEVIRT_JSON" >/dev/null
}

needs_harvester() {
    [ -n "${HARVESTER-}" ] || skip "no Harvester: the policy looks for no PCI devices, or the cluster has no PCIDevices"
}

# PCI and USB devices that have names, and that KubeVirt gives to virtual machines.
needs_devices() {
    needs_harvester
    needs_gate HostDevices
}

needs_no_harvester() {
    [ -z "${HARVESTER-}" ] || skip "this is for KubeVirt without Harvester"
}

needs_gate() {
    local gate
    for gate; do
        gate "$gate" || skip "KubeVirt's feature gate $gate is off"
    done
}

# KubeVirt before 1.4 has a feature gate for NUMA.
needs_numa() {
    jq --exit-status '.status.observedKubeVirtVersion // "" | test("^v?1\\.[0-3]\\.")' <<<"$KUBEVIRT_JSON" >/dev/null || return 0
    needs_gate NUMA
}

needs_igpu() {
    served amd.com/CEZANNE || skip "KubeVirt's permittedHostDevices does not list amd.com/CEZANNE for 1002:1638"
}

needs_gpu() {
    [ -n "$GPU" ] || skip "KubeVirt's permittedHostDevices lists no GPU resource that the policy allows"
}

# --- Objects ---

# The objects of a manifest, with the names of the run's nodes and devices: file, jq program.
manifest() {
    kubectl create --dry-run=client --validate=false --output json --filename "$1" |
        sed --regexp-extended "$RENAMES" |
        jq --arg namespace "$NAMESPACE" "if .metadata.namespace then .metadata.namespace = \$namespace else . end | ${2:-.}"
}

# jq: a claim of its own for each volume, because Harvester 1.4 to 1.6 refuse a second virtual machine with the same claim.
export own_volumes=".metadata.name as \$vm | .spec.template.spec.volumes[]? |= if .persistentVolumeClaim
    then .persistentVolumeClaim.claimName = \"\(\$vm)-\(.name)\" else . end"

# The virtual machine of an example: name, example, jq program that changes it. The template of the volume's claim is removed because it
# would need the example's storage class. The MAC address is fixed because Harvester would choose another one each time.
vm() {
    local mac
    mac=02$(md5sum <<<"$NAMESPACE/$1" | sed 's/\(..\)/:\1/g' | cut -c 1-15)
    manifest "examples/$2/vm.yaml" | jq --arg name "$1" --arg mac "$mac" "
        .metadata.name = \$name
        | $own_volumes
        | del(.metadata.annotations[\"harvesterhci.io/volumeClaimTemplates\"])
        | .spec.template.spec.domain.devices.interfaces[]?.macAddress = \$mac
        | ${3:-.}"
}

# jq: no directive.
export plain="del(.metadata.annotations[]?)"

# jq: a directive or option: name, value.
with() {
    jq --null-input --raw-output --arg key "$ours/$1" --arg value "$2" '".metadata.annotations[\($key | tojson)] = \($value | tojson)"'
}

# jq: the directive pci-passthrough for addresses.
with_pci() {
    with pci-passthrough "$(jq --null-input --compact-output '{devices: $ARGS.positional}' --args "$@")"
}

# jq: the directive usb-passthrough for devices.
with_usb() {
    with usb-passthrough "$(jq --null-input --compact-output '{devices: $ARGS.positional}' --args "$@")"
}

# Creates the virtual machine: name, example, jq program.
create() {
    vm "$@" | k create --filename -
}

# Creates a virtual machine with the directive pci-passthrough: name, addresses.
create_with_pci() {
    create "$1" pci-passthrough "$(with_pci "${@:2}")"
}

# Creates it in a dry run: name, example, jq program.
try() {
    vm "$@" | k create --dry-run=server --output json --filename -
}

# Sets annotations of the policy: virtual machine, name=value or name- ...
annotate() {
    local name=$1
    shift
    k annotate --overwrite virtualmachines.kubevirt.io "$name" "${@/#/$ours/}"
}

# Changes a virtual machine with a merge patch: name, patch.
change() {
    k patch virtualmachines.kubevirt.io "$1" --type merge --patch "$2"
}

remove() {
    k delete virtualmachines.kubevirt.io "$@" --timeout 60s
}

# The object as it is stored.
stored() {
    k get virtualmachines.kubevirt.io "$1" --output json
}

# The parts of an object that the policy may change, one per line. Reads the object.
summary() {
    jq --raw-output --arg ours "$ours/" '
        (.metadata.annotations // {}) as $notes
        | .spec.template as $template
        | $template.spec.domain as $domain
        | [
            ["CPUs", ($domain.cpu // {} | [if .dedicatedCpuPlacement then "dedicated" else empty end,
                if .isolateEmulatorThread then "isolated" else empty end, if .numa.guestMappingPassthrough then "NUMA" else empty end])],
            ["pages", [$domain.memory.hugepages.pageSize // empty]],
            ["features", ($domain.cpu.features // [] | map("\(.name)=\(.policy)"))],
            ["host devices", ($domain.devices.hostDevices // [] | map("\(.name)=\(.deviceName)"))],
            ["gpus", ($domain.devices.gpus // [] | map("\(.name)=\(.deviceName)"))],
            ["limits", ($domain.resources.limits // {} | to_entries | map(select(.key | contains("/")) | "\(.key)=\(.value)"))],
            ["node", [$template.spec.nodeSelector["kubernetes.io/hostname"] // empty]],
            ["ROMs", ($template.metadata.annotations["hooks.kubevirt.io/hookSidecars"] // "[]" | fromjson | map(.configMap.name))],
            ["applied", ($notes | to_entries | map(select((.key | startswith($ours)) and (.key | endswith("-applied"))) | "\(.key[($ours | length):-8])=\(.value)"))]
        ][] | select(.[1] != []) | "\(.[0]): \(.[1] | join(" "))"'
}

# The whole template and the policy's annotations, for comparisons. It leaves out what KubeVirt adds to a new virtual machine and
# `kubectl replace` removes. Of the hook's program, it contains only the length.
everything() {
    stored "$1" | jq --sort-keys --arg ours "$ours/" '{
        notes: (.metadata.annotations // {} | with_entries(select(.key | startswith($ours)))),
        template: .spec.template
    }
    | del(.template.metadata.creationTimestamp, .template.metadata.annotations["kubevirt.io/pci-topology-version"], .template.spec.domain.firmware)
    | if .template.metadata.annotations then .template.metadata.annotations |= with_entries(
        if .key == "hooks.kubevirt.io/hookSidecars" then .value |= (fromjson | .[].command[2] |= length) else . end) else . end
    | walk(if type == "object" then with_entries(select(.value != {} and .value != null)) else . end)'
}

# Creates what the tests need in addition to virtual machines.
make_world() {
    kubectl create namespace "$NAMESPACE"
    # Nodes without machines. They have no label for an operating system, so no DaemonSet starts a pod on them.
    local node vendor feature
    while read -r node vendor feature; do
        kubectl create --filename - <<NODE
apiVersion: v1
kind: Node
metadata:
  name: $node
  labels:
    kubernetes.io/arch: amd64
    kubernetes.io/hostname: $node
    cpu-vendor.node.kubevirt.io/$vendor: "true"
    cpu-feature.node.kubevirt.io/$feature: "true"
    vm-feature-manager-tests: $RUN
spec: {unschedulable: true}
NODE
    done <<<"$INTEL Intel vmx"$'\n'"$AMD AMD svm"
    k create configmap igpu-rom --from-literal=comment=none --dry-run=client --output json |
        jq --slurpfile rom <(manifest examples/vbios/cluster/rom.yaml) 'del(.data) | .binaryData = $rom[0].binaryData' |
        k create --filename -
    [ -n "${HARVESTER-}" ] || return 0
    local example
    for example in harvester sriov vbios vgpu; do
        manifest "examples/$example/cluster/cluster.yaml" 'select(.kind | startswith("PCI"))'
    done >"$BATS_FILE_TMPDIR/devices.json"
    manifest examples/usb-passthrough/cluster/cluster.yaml 'select(.kind | startswith("USB"))' >>"$BATS_FILE_TMPDIR/devices.json"
    # A card for the GPU resource.
    if [ -n "$GPU" ]; then
        jq 'select(.metadata.name | endswith("03001")) | .metadata.name |= sub("3001$"; "9000")
            | if .kind == "PCIDevice" then .status += {address: "\($ENV.DOMAIN):09:00.0", iommuGroup: "90", resourceName: $gpu}
              else .spec.address = "\($ENV.DOMAIN):09:00.0" | .status.passthroughEnabled = true end' --arg gpu "$GPU" \
            "$BATS_FILE_TMPDIR/devices.json" >"$BATS_FILE_TMPDIR/gpu.json"
        cat "$BATS_FILE_TMPDIR/gpu.json" >>"$BATS_FILE_TMPDIR/devices.json"
    fi
    # A card with four functions in one IOMMU group, and three equal disks.
    # shellcheck disable=SC2016 # jq's variables
    many "$INTEL-${DOMAIN}01000" '["0e000", "0e001", "0e002", "0e003"]' '{iommuGroup: "40", resourceName: "nvidia.com/TU102_FUNCTION_\($place[4:])"}'
    # shellcheck disable=SC2016
    many "$AMD-${DOMAIN}03000" '["41000", "81000", "c1000"]' '{iommuGroup: $place, resourceName: "samsung.com/NVME_SSD_PM9A1"}'
    put PCIDevice
    put PCIDeviceClaim
    put USBDevice
    put USBDeviceClaim
}

# Adds PCI devices like another one, with their claims: its name, a list of the last five digits of their names, jq: status.
many() {
    # shellcheck disable=SC2016 # jq's variables
    jq --arg like "$1" "select(.metadata.name == \$like) | $2[] as \$place
        | (\$place | \"\(\$ENV.DOMAIN):\(.[0:2]):\(.[2:4]).\(.[4:])\") as \$address
        | .metadata.name = (\$like | .[:-5]) + \$place
        | if .kind == \"PCIDevice\" then .status += {address: \$address} + $3
          else .spec.address = \$address | .status.passthroughEnabled = true end" "$BATS_FILE_TMPDIR/devices.json" >"$BATS_FILE_TMPDIR/many.json"
    cat "$BATS_FILE_TMPDIR/many.json" >>"$BATS_FILE_TMPDIR/devices.json"
}

# Creates the devices or the claims, and their status: kind.
put() {
    local object name
    while read -r object; do
        name=$(jq --raw-output .metadata.name <<<"$object")
        # One of Harvester's webhooks looks for a claim's device in its cache.
        eventually 20 kubectl create --filename - <<<"$object"
        patch_status "${1,,}s" "$name" "$(jq --compact-output .status <<<"$object")"
    done < <(jq --compact-output "select(.kind == \"$1\")" "$BATS_FILE_TMPDIR/devices.json")
}

# Changes the status of one of Harvester's devices or claims: plural of its kind, name, status.
patch_status() {
    kubectl patch "$1.$pci" "$2" --subresource status --type merge --patch "{\"status\": $3}"
}

# Removes everything that the run created and that still exists.
unmake_world() {
    [ -n "${RUN-}" ] || return 0
    local kind
    for kind in virtualmachines.kubevirt.io configmaps rolebindings roles; do
        k delete "$kind" --all --ignore-not-found --timeout 120s
    done
    if [ -n "${HARVESTER-}" ]; then
        for kind in pcideviceclaims pcidevices usbdeviceclaims usbdevices; do
            kubectl get "$kind.$pci" --output json |
                jq --raw-output '.items[] | select((.spec.nodeName? // .status.nodeName) | IN($ARGS.positional[])) | .metadata.name' --args "$INTEL" "$AMD" \
                    >"$BATS_FILE_TMPDIR/gone"
            # Harvester does not delete a USB device that is enabled.
            [ "$kind" != usbdevices ] || xargs --no-run-if-empty "${KUBECTL:-kubectl}" patch "$kind.$pci" --subresource status \
                --type merge --patch '{"status": {"enabled": false}}' <"$BATS_FILE_TMPDIR/gone"
            xargs --no-run-if-empty "${KUBECTL:-kubectl}" delete "$kind.$pci" <"$BATS_FILE_TMPDIR/gone"
        done
    fi
    kubectl delete nodes --selector "vm-feature-manager-tests=$RUN"
    kubectl delete namespace "$NAMESPACE" --ignore-not-found --wait=false
}

# --- Permissions, and policy-server ---

# The ClusterRoleBindings that grant the policy's permissions, one per line.
bindings() {
    kubectl get clusterrolebindings --output json | jq --compact-output --arg role "$POLICY" '.items[] | select(.roleRef.name == $role)
        | {apiVersion, kind, metadata: (.metadata | {name, labels, annotations}), roleRef, subjects}'
}

take_rights() {
    bindings >"$BATS_FILE_TMPDIR/bindings"
    kubectl delete --filename "$BATS_FILE_TMPDIR/bindings"
}

give_rights_back() {
    [ -s "$BATS_FILE_TMPDIR/bindings" ] || return 0
    kubectl apply --server-side --filename "$BATS_FILE_TMPDIR/bindings"
    if [ -s "$BATS_FILE_TMPDIR/granted" ]; then
        xargs "${KUBECTL:-kubectl}" delete clusterrolebindings --ignore-not-found <"$BATS_FILE_TMPDIR/granted"
    fi
    rm -f "$BATS_FILE_TMPDIR/bindings" "$BATS_FILE_TMPDIR/granted"
}

# policy-server's pods that run on a kubelet.
server_pods() {
    kubectl get pods --namespace "$SERVER_NAMESPACE" --selector "kubewarden/policy-server=policy-server-$SERVER" --output json |
        jq --raw-output '.items[] | select(.status.containerStatuses) | .metadata.name'
}

can_stop_server() {
    if [ -z "${POLICY_SERVER_STOP-}" ] || [ -z "${POLICY_SERVER_START-}" ]; then
        [ -n "$(server_pods)" ]
    fi
}

no_server_pods() {
    [ -z "$(server_pods)" ]
}

# Runs a command that the user supplied. Processes that it starts must not keep the file descriptors that bats waits for.
hook() {
    bash -c "$1" >&2 3>&- 4>&-
}

# The Deployments of Kubewarden's controller, which would start policy-server again, and of policy-server, with their replicas.
deployments() {
    kubectl get deployments --namespace "$SERVER_NAMESPACE" --output json | jq --raw-output --arg server "policy-server-$SERVER" '
        .items | sort_by(.metadata.name == $server)[]
        | select(.metadata.name == $server or any(.spec.template.spec.containers[]; .name == "controller"))
        | "\(.metadata.name) \(.spec.replicas)"'
}

stop_server() {
    local name
    deployments >"$BATS_FILE_TMPDIR/stopped"
    if [ -n "${POLICY_SERVER_STOP-}" ]; then
        hook "$POLICY_SERVER_STOP"
        return
    fi
    while read -r name _; do
        kubectl scale deployment "$name" --namespace "$SERVER_NAMESPACE" --replicas 0
    done <"$BATS_FILE_TMPDIR/stopped"
    eventually 120 no_server_pods
}

start_server() {
    local name replicas
    if [ -n "${POLICY_SERVER_START-}" ]; then
        hook "$POLICY_SERVER_START"
    else
        while read -r name replicas; do
            kubectl scale deployment "$name" --namespace "$SERVER_NAMESPACE" --replicas "$replicas"
        done <"$BATS_FILE_TMPDIR/stopped"
        while read -r name _; do
            kubectl rollout status deployment "$name" --namespace "$SERVER_NAMESPACE" --timeout 3m
        done <"$BATS_FILE_TMPDIR/stopped"
    fi
    rm "$BATS_FILE_TMPDIR/stopped"
}
