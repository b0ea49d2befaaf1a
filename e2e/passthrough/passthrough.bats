#!/usr/bin/env bats
# shellcheck disable=SC2030,SC2031 # each test has its own variables
# The hook, libvirt, QEMU and a guest with devices that are really passed through. `run` starts an emulated machine, and
# this suite in it. The guest writes to its serial port which ROM it sees at each device.
#
# The domains are KubeVirt's; vm.yaml says how they were made. They have two devices of the machine:
display=node1-000000020 # at 00:02.0, 1234:1111, a display that has no ROM
gpu=node1-000001000     # at 01:00.0, 1002:5046, a graphics card with a ROM

suite=/suite
shared=/var/run/kubevirt-hooks
private=/var/run/kubevirt-private
volume=$private/config-map/vbios-rom/rom
serial=$private/6a1f0000-0000-4000-8000-000000000001/virt-serial0-log

setup() {
    domain=$suite/domain.xml
    # The ConfigMap, as it is mounted: the file is a link into a folder of this version.
    rm -rf /run/vbios $shared $private
    mkdir -p /run/vbios/..version $shared/hook-sidecar-0 $private/config-map "${serial%/*}"
    ln -s ..version /run/vbios/..data
    ln -s ..data/rom /run/vbios/rom
    # With romDelivery: volume, QEMU's container has it, too.
    ln -s /run/vbios $private/config-map/vbios-rom
    chmod -R a+rwX $private
    rom=/run/vbios/..version/rom
    # The shim calls the hook with the domain.
    printf '%s\n' '#!/bin/sh' "exec onDefineDomain --vmi '{}' --domain \"\$(cat)\"" >/usr/bin/sidecar-shim
    chmod +x /usr/bin/sidecar-shim
}

teardown() {
    virsh destroy default_guest || true
    virsh undefine default_guest || true
} >/dev/null 2>&1

# Makes the ROM in the ConfigMap: name, size, vendor and device that it is for.
make_rom() {
    $suite/rom "$@" "$rom"
}

# The sidecar, as the policy starts it: delivery, what it does on failure, devices, further arguments. It reads the domain, and
# writes the changed one. It has only its own part of the folder that QEMU's container has.
hook() {
    # shellcheck disable=SC2016 # the inner shell expands it
    CONTAINER_NAME=hook-sidecar-0 unshare --mount sh -c 'mount --bind "$0/hook-sidecar-0" "$0" && exec "$@"' $shared \
        python3 -c "$(cat $suite/hook.py)" vm-feature-manager.io/vbios-injection "$@" --version v1alpha3
}

# Defines the domain, starts the guest, and waits until it powers itself off.
start() {
    local pid
    rm -f $serial
    sed -n '/<hostdev/,/<\/hostdev/p' "$1"
    virsh define "$1" || return
    virsh start default_guest || return
    pid=$(cat /run/libvirt/qemu/default_guest.pid) || return
    timeout 600 tail --follow --pid="$pid" /dev/null ||
        echo "the guest did not power itself off in 600 seconds; what it wrote until then:"
    tr -d '\r' <$serial | tee /tmp/serial
    grep -q '^guest: end' /tmp/serial
}

# The same with the domain that the hook makes. The arguments are the hook's.
start_hooked() {
    hook "$@" <"$domain" >/tmp/hooked.xml || return
    start /tmp/hooked.xml
}

# Whether the guest saw this: the ids of a device, the size and hash of its ROM, or none, and its address in the guest.
sees() {
    grep -qx "guest: ${3:-.*} $1 $2" /tmp/serial
}

# The size and hash of a file.
sum() {
    echo "$(wc -c <"$1") $(sha256sum <"$1" | cut -c 1-64)"
}

# Whether a command fails and says this: words, command.
fails() {
    if "${@:2}" >/tmp/output 2>&1; then
        echo "this succeeds: ${*:2}"
        return 1
    fi
    cat /tmp/output
    grep -qF -- "$1" /tmp/output
}

# Whether the hook fails with these words: words, the hook's arguments.
hook_fails() {
    fails "$1" hook "${@:2}" <$domain
}

is_executed() {
    grep -qa "ROM $1 is executed" /tmp/serial
}

has_kvm() {
    grep -qx "guest: kvm svm" /tmp/serial
}

@test "without the directives, a device has its own ROM, or none, and the guest has no KVM" {
    sed '/<feature name="svm"/d' "$domain" >/tmp/plain.xml
    start /tmp/plain.xml
    sees 1234:1111 none
    sees 1002:5046 "$(sum $suite/own.rom)"
    ! has_kvm || return 1
}

@test "the guest sees the ROM at the device that is named, and only there, and has KVM" {
    make_rom first 65536 1234:1111
    start_hooked sidecar fail "$display *"
    sees 1234:1111 "$(sum "$rom")"
    sees 1002:5046 "$(sum $suite/own.rom)"
    has_kvm
}

@test "the ROM replaces a graphics card's own, but SeaBIOS does not execute it beside KubeVirt's graphics" {
    make_rom other 60416 1002:5046
    start_hooked sidecar fail "$gpu *"
    sees 1234:1111 none
    sees 1002:5046 "$(sum "$rom")"
    ! is_executed other || return 1
}

@test "QEMU reads the ROM from a volume, and it may be as large as a ConfigMap" {
    make_rom volume 1044480 1234:1111
    start_hooked volume fail "$display *"
    grep -q "<rom file=\"$volume\"/>" /tmp/hooked.xml
    sees 1234:1111 "$(sum "$rom")"
    sees 1002:5046 "$(sum $suite/own.rom)"
}

@test "the device is at guest-address, with its ROM" {
    make_rom first 65536 1234:1111
    start_hooked sidecar fail "$display *" --guest-address=0000:00:02.0
    sees 1234:1111 "$(sum "$rom")" 0000:00:02.0
}

@test "libvirt refuses a guest-address that another device has" {
    make_rom first 65536 1002:5046
    domain=$suite/domain-on-root-complex.xml
    fails "Attempted double use of PCI Address 0000:00:02.0" start_hooked sidecar fail "$gpu *" --guest-address=0000:00:02.0
}

@test "KubeVirt puts the first host device at 00:02.0, with placePCIDevicesOnRootComplex" {
    make_rom first 65536 1234:1111
    domain=$suite/domain-on-root-complex.xml
    start_hooked sidecar fail "$display *"
    sees 1234:1111 "$(sum "$rom")" 0000:00:02.0
}

@test "SeaBIOS executes a graphics card's ROM if there is no other graphics" {
    make_rom first 65024 1002:5046
    domain=$suite/domain-without-graphics.xml
    start_hooked sidecar fail "$gpu *"
    is_executed first
}

# If the card is the only graphics, the guest reads its ROM from where the BIOS would have copied it.
@test "SeaBIOS does not execute a ROM that is for another device" {
    make_rom strange 65024 1002:1638
    domain=$suite/domain-without-graphics.xml
    start_hooked sidecar fail "$gpu *"
    ! is_executed strange || return 1
}

@test "the guest's kernel rejects a file that is no ROM" {
    head -c 65536 /dev/zero >"$rom"
    start_hooked sidecar fail "$display *"
    grep -q "Invalid PCI ROM header signature" /tmp/serial
}

@test "without a ROM, the hook fails; with a volume, libvirt" {
    hook_fails "vbios: FileNotFoundError: [Errno 2] No such file or directory: '/run/vbios/rom'" sidecar fail "$display *"
    fails "failed to find romfile \"$volume\"" start_hooked volume fail "$display *"
}

@test "if the ROM is empty, the hook fails; with a volume, libvirt" {
    : >"$rom"
    hook_fails "vbios: ValueError: the ROM is empty" sidecar fail "$display *"
    fails "romfile \"$volume\" is empty" start_hooked volume fail "$display *"
}

@test "if the ROM is a folder, the hook fails; with a volume, libvirt" {
    mkdir "$rom"
    hook_fails "vbios: IsADirectoryError: [Errno 21] Is a directory: '/run/vbios/rom'" sidecar fail "$display *"
    fails "failed to find romfile \"$volume\"" start_hooked volume fail "$display *"
}

@test "if only root may read the ROM, the hook makes a copy that QEMU can read; with a volume, libvirt fails" {
    make_rom first 65536 1234:1111
    chmod 600 "$rom"
    hook sidecar fail "$display *" <$domain >/tmp/hooked.xml
    [ "$(stat --format %a $shared/hook-sidecar-0/vbios/rom)" = 644 ]
    fails "failed to find romfile \"$volume\"" start_hooked volume fail "$display *"
}

@test "if the device is missing, the hook fails, or leaves the domain as it was" {
    make_rom first 65536 1234:1111
    hook_fails "vbios: LookupError: no single PCI device for 'node9-000000020' among ua-hostdevice-$display at 0000:00:02.0" \
        sidecar fail node9-000000020
    hook sidecar continue node9-000000020 <$domain >/tmp/hooked.xml
    diff <(printf '%s' "$(cat $domain)") /tmp/hooked.xml
}
