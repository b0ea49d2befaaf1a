# The directives of VMs that the policy has not evaluated, or not since they were changed. It records what it applied, and the value of
# the directive, in the template. See docs/operate.md.
["", "disabled", "false", "no", "off", "0"] as $off
| .items[]
| .metadata as $vm
| ((.spec.template.metadata.annotations // {}) + ($vm.annotations // {})) as $all
| ($all["vm-feature-manager.io/record"] // "{}" | fromjson) as $record
| ("pci-passthrough", "usb-passthrough", "gpu-device-plugin", "vbios-injection", "nested-virt", "cpu-pinning", "hugepages", "numa") as $name
| $all["vm-feature-manager.io/\($name)"]
| select(. != null and (ascii_downcase | IN($off[]) | not))
| select($record[$name].value != . and $all["vm-feature-manager.io/\($name)-error"] == null)
| "\($vm.namespace)/\($vm.name): \($name)=\(.)"
