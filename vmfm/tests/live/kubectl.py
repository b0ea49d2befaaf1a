#!/bin/sh
''':'
exec "${FAKE_PYTHON:-python3}" -IS "$0" "$@"
'''
"""A kubectl for the tests: it answers from the files in FAKE_CLUSTER, in kubectl's words.

objects.json  the objects of the cluster, in a list; `replace` changes them
fake.json     namespace: the context's namespace; page: most objects of an answer; unserved: API groups that are not served;
              forbidden: plurals that the user may not list; denied: what no account may, such as "list nodes";
              down: the message if the server does not answer; expires: the next page of a list is gone once;
              conflicts: names of objects that somebody changed meanwhile; refuses: the message of a webhook
calls         the arguments of every call, a line each

FAKE_PYTHON is the Python to run it with: a wrapper that chooses a Python can take half a second for each call.
"""

import json
import os
import sys

FOLDER = os.environ["FAKE_CLUSTER"]
KINDS = {
    "clusteradmissionpolicies": "ClusterAdmissionPolicy",
    "configmaps": "ConfigMap",
    "customresourcedefinitions": "CustomResourceDefinition",
    "deployments": "Deployment",
    "kubevirts": "KubeVirt",
    "namespaces": "Namespace",
    "nodes": "Node",
    "pcideviceclaims": "PCIDeviceClaim",
    "pcidevices": "PCIDevice",
    "policyservers": "PolicyServer",
    "secrets": "Secret",
    "usbdeviceclaims": "USBDeviceClaim",
    "usbdevices": "USBDevice",
    "virtualmachines": "VirtualMachine",
}


def read(name, default):
    try:
        with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return default


def write(name, value):
    with open(os.path.join(FOLDER, name), "w", encoding="utf-8") as file:
        json.dump(value, file)


def fail(reason, message):
    sys.exit(f"Error from server ({reason}): {message}")


def show(value):
    json.dump(value, sys.stdout)


def unquote(text):
    first, *others = text.split("%")
    return first + "".join(chr(int(other[:2], 16)) + other[2:] for other in others)


def get(path):
    path, _, query = path.partition("?")
    query = {key: unquote(value) for key, _, value in (part.partition("=") for part in query.split("&"))}
    _, root, *parts = path.split("/")
    version = parts.pop(0) if root == "api" else f"{parts.pop(0)}/{parts.pop(0)}"
    namespace = None
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace = parts[1]
        parts = parts[2:]
    plural, name = parts[0], "/".join(parts[1:])
    if version.split("/")[0] in fake.get("unserved", []) or plural not in KINDS:
        fail("NotFound", "the server could not find the requested resource")
    if plural in fake.get("forbidden", []):
        fail("Forbidden", f'{plural} is forbidden: User "alice" cannot list resource "{plural}" at the cluster scope')
    found = [o for o in objects if o["kind"] == KINDS[plural] and o["apiVersion"] == version]
    found = [o for o in found if namespace in (None, o["metadata"].get("namespace"))]
    if name:
        for one in found:
            if one["metadata"]["name"] == name:
                return show(one)
        fail("NotFound", f'{plural} "{name}" not found')
    if "fieldSelector" in query:
        wanted = query["fieldSelector"].removeprefix("metadata.name=")
        found = [o for o in found if o["metadata"]["name"] == wanted]
    if "labelSelector" in query:
        key, value = query["labelSelector"].split("=")
        found = [o for o in found if o["metadata"].get("labels", {}).get(key) == value]
    start = int(query.get("continue", 0))
    if start and fake.pop("expires", False):
        write("fake.json", fake)
        fail("Expired", "The provided continue parameter is too old")
    end = start + min(int(query["limit"]), fake.get("page", 1 << 30))
    metadata = {"continue": str(end)} if end < len(found) else {}
    items = [{key: value for key, value in o.items() if key not in ("apiVersion", "kind")} for o in found[start:end]]
    show({"apiVersion": version, "kind": KINDS[plural] + "List", "metadata": metadata, "items": items})


def create(path, body):
    assert path == "/apis/authorization.k8s.io/v1/subjectaccessreviews", path
    spec = body["spec"]
    assert spec["user"].startswith("system:serviceaccount:") and "system:authenticated" in spec["groups"], spec
    attributes = spec["resourceAttributes"]
    asked = f"{attributes['verb']} {attributes['resource']}"
    within = f"{asked} in {attributes['namespace']}"
    body["status"] = {"allowed": not {asked, within, "all"} & set(fake.get("denied", []))}
    show(body)


def replace(new, is_dry_run):
    metadata = new["metadata"]
    for index, old in enumerate(objects):
        if old["kind"] == new["kind"] and all(old["metadata"].get(k) == metadata.get(k) for k in ("name", "namespace")):
            break
    else:
        fail("NotFound", f'virtualmachines.kubevirt.io "{metadata["name"]}" not found')
    if "refuses" in fake:
        sys.exit(f"Error from server (BadRequest): admission webhook \"x\" denied the request: {fake['refuses']}")
    is_changed = metadata["name"] in fake.get("conflicts", []) and not is_dry_run
    if is_changed or metadata.get("resourceVersion") != old["metadata"].get("resourceVersion"):
        fail("Conflict", f'Operation cannot be fulfilled on virtualmachines.kubevirt.io "{metadata["name"]}": it changed')
    if not is_dry_run:
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
        objects[index] = new
        write("objects.json", objects)
    print("Warning: a webhook warns", file=sys.stderr)
    show(new)


arguments = sys.argv[1:]
with open(os.path.join(FOLDER, "calls"), "a", encoding="utf-8") as calls:
    calls.write(" ".join(arguments) + "\n")
fake, objects = read("fake.json", {}), read("objects.json", [])
while arguments[0] in ("--context", "--kubeconfig"):
    arguments = arguments[2:]
if "down" in fake:
    sys.exit("E1129 memcache.go:265] couldn't get current server API group list\n" + fake["down"])
if arguments[0] == "config":
    print(fake.get("namespace", ""), end="")
elif arguments[0] == "get":
    get(arguments[arguments.index("--raw") + 1])
elif arguments[0] == "create":
    create(arguments[arguments.index("--raw") + 1], json.load(sys.stdin))
elif arguments[0] == "replace":
    replace(json.load(sys.stdin), "--dry-run=server" in arguments)
else:
    sys.exit(f"error: unknown command {arguments[0]!r}")
