#!/usr/bin/env bats
# Commands that the documents show, run on made objects. kubectl is a function that prints or prints back.

setup() {
    bats_require_minimum_version 1.5.0
    cd "$BATS_TEST_DIRNAME/.." || return
}

# The code of a document that contains a text: file, text. The indent of a list is removed.
code() {
    awk -v wanted="$2" '
        !inside && match($0, /^ *```[a-z]+$/) { inside = 1; block = ""; indent = match($0, /`/) - 1; next }
        inside && /^ *```$/ { inside = 0; if (index(block, wanted)) { printf "%s", block; found = 1 }; next }
        inside { block = block substr($0, indent + 1) "\n" }
        END { exit !found }
    ' "docs/$1"
}

# Runs the code with these virtual machines, or what else kubectl should print, in the file objects.json.
shell() {
    run --separate-stderr bash -euo pipefail -c 'kubectl() {
        case " $* " in
            *" get "*) cat "$BATS_TEST_TMPDIR/objects.json" ;;
            *) printf "%s\n" "kubectl $*" ;;
        esac
    }
    export -f kubectl
    '"$1"
    echo "$output"
    echo "$stderr"
}

# Virtual machines: those that the jq program makes of `vm(namespace; name; annotations; annotations of the template)`.
virtual_machines() {
    jq --null-input --slurp '
        def vm($namespace; $name; $own; $template): {
            metadata: {$namespace, $name, annotations: ($own | with_entries(.key |= "vm-feature-manager.io/\(.)"))},
            spec: {template: {metadata: {annotations: ($template | with_entries(.key |= "vm-feature-manager.io/\(.)"))}}}
        };
        def record($name; $value): {record: ({($name): {value: $value, added: []}} | tojson)};
        {items: ['"$1"', {metadata: {namespace: "default", name: "plain"}, spec: {}}]}' >"$BATS_TEST_TMPDIR/objects.json"
}

@test "the ROMs of a table VFCT are written to files" {
    cd "$BATS_TEST_TMPDIR"
    python3 - <<'EOF'
import struct

def image(device, product, content):
    return struct.pack("<IIIHHHHII", 5, 0, device, 0x1002, product, 0, 0, 0, len(content)) + content

images = image(0, 0x1638, b"\x55\xaa" + bytes(510)) + image(1, 0x1637, b"\x55\xaa" + bytes(1022))
head = b"VFCT" + struct.pack("<I", 76 + len(images)) + bytes(0x34 - 8) + struct.pack("<I", 76)
open("vfct", "wb").write(head.ljust(76, b"\0") + images)
EOF
    code=$(cd "$OLDPWD" && code vbios.md '"vfct"')
    run python3 -c "$code"
    echo "$output"
    [ "$status" -eq 0 ]
    [ "${lines[0]}" = "rom-1002-1638: 512 bytes, for 05:00.0" ]
    [ "${lines[1]}" = "rom-1002-1637: 1024 bytes, for 05:00.1" ]
    [ "$(stat --format %s rom-1002-1638 rom-1002-1637 | xargs)" = "512 1024" ]
    [ "$(head --bytes 2 rom-1002-1638 | od --format x1 --address-radix n | xargs)" = "55 aa" ]
}

@test "directives that were missed or changed are listed" {
    virtual_machines '
        vm("default"; "missed"; {"nested-virt": "enabled", "cpu-vendor": "amd"}; {}),
        vm("default"; "applied"; {"nested-virt": "enabled"}; record("nested-virt"; "enabled")),
        vm("default"; "changed"; {hugepages: "1Gi"}; record("hugepages"; "2Mi")),
        vm("default"; "off"; {numa: "Off"}; {}),
        vm("default"; "failed"; {numa: "all", "numa-error": "..."}; {}),
        vm("team-a"; "in-template"; {}; {"gpu-device-plugin": "nvidia.com/gpu"})'
    shell 'kubectl get virtualmachines -A -o json | jq -rf deploy/observability/missed.jq'
    [ "$output" = "default/missed: nested-virt=enabled
default/changed: hugepages=1Gi
team-a/in-template: gpu-device-plugin=nvidia.com/gpu" ]
    code operate.md 'jq -rf deploy/observability/missed.jq'
    # It knows every directive.
    for name in $(sed -n 's/^| \[`\([a-z-]*\)`\].*/\1/p' README.md); do
        grep --quiet "\"$name\"" deploy/observability/missed.jq || { echo "missed.jq does not know $name"; return 1; }
    done
}

@test "all directives are removed before the policy is" {
    virtual_machines '
        vm("default"; "a"; {"nested-virt": "enabled", "cpu-vendor": "amd", "nested-virt-applied": "true"}; record("nested-virt"; "enabled")),
        vm("team-a"; "b"; {"numa-error": "...", numa: "all"}; {})'
    shell "$(code operate.md 'kubectl annotate virtualmachine --namespace \(')"
    [ "$output" = "kubectl annotate virtualmachine --namespace default a vm-feature-manager.io/cpu-vendor- vm-feature-manager.io/nested-virt-
kubectl annotate virtualmachine --namespace team-a b vm-feature-manager.io/numa-" ]
    shell "$(code operate.md 'select(tostring | contains("vm-feature-manager.io/"))')"
    [ "$output" = "default/a
team-a/b" ]
}

@test "VMs that cannot migrate are listed with the reason" {
    jq --null-input '{items: [
        {metadata: {namespace: "default", name: "gpu"}, status: {nodeName: "node1", conditions: [
            {type: "Ready", status: "True"}, {type: "LiveMigratable", status: "False", message: "VMI uses a PCI host device"}]}},
        {metadata: {namespace: "default", name: "free"}, status: {nodeName: "node1", conditions: [{type: "LiveMigratable", status: "True"}]}},
        {metadata: {namespace: "default", name: "pending"}, status: {}}]}' >"$BATS_TEST_TMPDIR/objects.json"
    shell "$(code operate.md 'LiveMigratable')"
    [ "$output" = "default/gpu on node1: VMI uses a PCI host device" ]
}

@test "the gate Sidecar is taken out, and the others stay" {
    jq --null-input '{spec: {configuration: {developerConfiguration: {featureGates: ["HostDevices", "Sidecar", "CPUManager"]}}}}' \
        >"$BATS_TEST_TMPDIR/objects.json"
    # xargs does not know functions.
    mkdir "$BATS_TEST_TMPDIR/bin"
    printf '#!/bin/bash\nprintf "%%s\\n" "$@"\n' >"$BATS_TEST_TMPDIR/bin/kubectl"
    chmod +x "$BATS_TEST_TMPDIR/bin/kubectl"
    PATH=$BATS_TEST_TMPDIR/bin:$PATH shell "$(code vbios.md '- ["Sidecar"]')"
    [[ $output == *'"featureGates":["HostDevices","CPUManager"]'* ]]
}
