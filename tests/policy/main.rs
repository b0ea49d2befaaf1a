//! Requests in, responses out: the policy as a Kubewarden host calls it, but native, and with a cluster in memory.

mod copies;
mod cpu_pinning;
mod default_directives;
mod failing_before;
mod gates;
mod gpu_device_plugin;
use vm_feature_manager_testkit as harness;
mod harvester;
mod hugepages;
mod lookups;
mod nested_virt;
mod numa;
mod pci_passthrough;
mod pipeline;
mod properties;
mod settings;
mod taking_back;
mod usb_passthrough;
mod user_data;
mod vbios_injection;
mod words;
