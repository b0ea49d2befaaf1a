"""Gives one passed-through device its ROM, as a hook sidecar of KubeVirt's. Python 3.9, standard library only."""
import base64, os, shutil, sys, tempfile
from xml.parsers import expat

ROM = "/run/vbios/rom"
SHARED = "/var/run/kubevirt-hooks"
VOLUME = "/var/run/kubevirt-private/config-map/vbios-rom/rom"
SHIMS = "/sidecar-shim", "/usr/bin/sidecar-shim"


# At start: become the sidecar-shim, with this program as its hook. The arguments are the shim's, after --guest-address.
def install(delivery, on_failure, devices, *arguments):
    shim = next((s for s in SHIMS if os.access(s, os.X_OK)), None)
    if not shim:
        sys.exit("vbios: no sidecar-shim in this image, neither of " + ", ".join(SHIMS))
    with open("/proc/self/cmdline") as file:
        program = file.read().split("\0")[2]
    folder = tempfile.mkdtemp(prefix="vbios-")
    hook = os.path.join(folder, "onDefineDomain")
    with open(hook, "w") as file:
        file.write("#!%s\n%s" % (sys.executable or "/usr/bin/env python3", program))
    os.chmod(hook, 0o755)
    place = arguments[0].partition("--guest-address=")[2]
    os.environ.update(VBIOS_DELIVERY=delivery, VBIOS_ON_FAILURE=on_failure, VBIOS_DEVICES=devices)
    os.environ["VBIOS_GUEST_ADDRESS"] = place
    os.environ["PATH"] = folder + os.pathsep + os.environ.get("PATH", os.defpath)
    os.execv(shim, [shim, *arguments[bool(place):]])


# The PCI host devices of a domain, with the places of what is to change in its text. The address in the guest is a child
# of the device, that on the host a child of its source.
def parse(text):
    path, devices, parser = [], [], expat.ParserCreate()

    def start(name, attributes):
        path.append(name)
        if path == ["domain", "devices", "hostdev"]:
            devices.append({"type": attributes.get("type"), "children": []})
        elif path[:3] == ["domain", "devices", "hostdev"]:
            devices[-1].setdefault("/".join(path[3:]), attributes)
            if path[3:] in (["rom"], ["address"]):
                devices[-1]["children"].append([name, parser.CurrentByteIndex])

    def end(name):
        if path == ["domain", "devices", "hostdev"]:
            devices[-1]["end"] = parser.CurrentByteIndex
        elif path in (["domain", "devices", "hostdev", "rom"], ["domain", "devices", "hostdev", "address"]):
            after = parser.CurrentByteIndex
            if text.startswith(b"</%s" % name.encode(), after):
                after = text.index(b">", after) + 1
            devices[-1]["children"][-1].append(after)
        path.pop()

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.Parse(text, True)
    return [d for d in devices if d["type"] == "pci"]


def alias(hostdev):
    return hostdev.get("alias", {}).get("name", "")


def address(hostdev):
    parts = [hostdev.get("source/address", {}).get(n) for n in ("domain", "bus", "slot", "function")]
    return "%04x:%02x:%02x.%x" % tuple(int(p, 16) for p in parts) if all(parts) else ""


def find(hostdevs, devices):
    for device in devices.split():
        if device in "*?":
            found = [h for h in hostdevs if not alias(h).startswith("ua-sriov-")]
        else:
            # Harvester encodes names that libvirt would not take as an alias.
            names = device, base64.b32encode(device.encode()).decode().rstrip("=")
            kinds = "gpu", "hostdevice", "dra-gpu", "dra-hostdevice"
            known = ["ua-%s-%s" % (kind, name) for kind in kinds for name in names]
            found = [h for h in hostdevs if alias(h) in known or address(h) == device.lower()]
        if len(found) == 1:
            return found[0]
        if not found and device == "?":
            return None
    seen = ["%s at %s" % (alias(h) or "no alias", address(h)) for h in hostdevs]
    raise LookupError("no single PCI device for %r among %s" % (devices, ", ".join(seen) or "none"))


def deliver():
    if os.environ["VBIOS_DELIVERY"] == "volume":
        return VOLUME
    folder = os.path.join(SHARED, "vbios")
    os.makedirs(folder, exist_ok=True)
    os.chmod(folder, 0o755)
    if not os.path.getsize(ROM):
        raise ValueError("the ROM is empty")
    shutil.copyfile(ROM, folder + "/rom.new")
    os.chmod(folder + "/rom.new", 0o644)
    os.replace(folder + "/rom.new", folder + "/rom")
    # From KubeVirt 1.6 on, QEMU's container has this sidecar's folder under the sidecar's name.
    return os.path.join(SHARED, os.environ.get("CONTAINER_NAME", ""), "vbios/rom")


# As hook, several times a boot: the domain with the ROM, and otherwise to the byte as it was.
def define(domain):
    text = domain.encode()
    hostdev = find(parse(text), os.environ["VBIOS_DEVICES"])
    if hostdev:
        new = {"rom": '<rom file="%s"/>' % deliver()}
        place = os.environ.get("VBIOS_GUEST_ADDRESS")
        if place:
            parts = tuple(place.replace(".", ":").split(":"))
            new["address"] = '<address type="pci" domain="0x%s" bus="0x%s" slot="0x%s" function="0x%s"/>' % parts
        end = hostdev["end"]
        text = text[:end] + "".join(new.values()).encode() + text[end:]
        for name, start, end in reversed(hostdev["children"]):
            if name in new:
                text = text[:start] + text[end:]
    return text.decode()


def main():
    if os.path.basename(sys.argv[0]) != "onDefineDomain":
        install(*sys.argv[2:])
    domain = sys.argv[sys.argv.index("--domain") + 1]
    try:
        domain = define(domain)
    except Exception as error:
        print("vbios: %s: %s" % (type(error).__name__, error), file=sys.stderr)
        if os.environ["VBIOS_ON_FAILURE"] != "continue":
            sys.exit(1)
    sys.stdout.buffer.write(domain.encode())


main()
