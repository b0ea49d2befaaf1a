//! What an earlier directive had added: its record, and the host devices and the node that are its.

use super::directive::Devices;
use super::{Added, Before, Context, Earlier, PREFIX, host_device, made_number};
use crate::cluster::{LookupError, PciDevice};
use crate::json::{Json, Shape};
use crate::pci::PciAddress;
use crate::text;
use crate::vm::{Device, Edit, ShapeError};

/// The record of a directive: its addresses, as a JSON array.
pub(super) fn record(devices: &Devices) -> String {
    let addresses = devices.addresses.iter();
    Json::Array(addresses.map(|address| address.to_string().into()).collect()).to_text()
}

/// Host devices by the names that the policy gives them, or else by their resource, as Harvester's controller names
/// them anew after the devices that the VirtualMachine was really given; and the node selector of a node that the
/// directive named.
pub(super) fn added(before: &Before<'_>, context: &Context<'_>) -> Result<Added, ShapeError> {
    let mut added = Added::default();
    let Some(addresses) = asked_for(before.earlier) else {
        added.doubts.push(
            "the host devices stay, as the annotation vm-feature-manager.io/pci-passthrough-applied cannot be read"
                .to_owned(),
        );
        return Ok(added);
    };
    let node = directive(before.earlier).and_then(|directive| directive.node);
    let mut entries = context.vm.host_devices()?;
    let old_entries = before.old.and_then(|old| old.host_devices().ok()).unwrap_or_default();
    let mut renamed = Vec::new();
    for address in addresses {
        let device_name = address.device_name();
        if let Some(index) = entries.iter().position(|entry| is_named_after(entry, address)) {
            added.claim(before, host_device(&entries.remove(index)));
        } else if entries.iter().any(|entry| entry.device_name == device_name) {
            added.doubts.push(format!(
                "the host device of the resource {device_name} stays, as the directive would have named it otherwise"
            ));
        } else if before.directive.is_some()
            || !old_entries.iter().any(|entry| is_named_after(entry, address))
        {
            renamed.push(address);
        }
    }
    // One that was there under its name before this update can only be one that was not.
    let was_named =
        |address: &PciAddress| old_entries.iter().any(|entry| is_named_after(entry, *address));
    let is_new = |entry: &Device<'_>| !old_entries.contains(entry);
    entries.retain(|entry| {
        before.is_ours(&host_device(entry)) && (is_new(entry) || !renamed.iter().all(was_named))
    });
    if !renamed.is_empty() && !entries.is_empty() {
        claim_renamed(&renamed, &entries, before, context, &mut added);
    }
    let pin = |hostname: String| Edit::SelectNode { hostname };
    let pin = match before.earlier.record {
        // The directive that was there before names it, or nobody knows.
        None => node.map(pin),
        // What is not listed as the user's is the policy's.
        Some(_) => context.vm.placement()?.selected_hostname().map(str::to_owned).map(pin),
    };
    added.edits.extend(pin.filter(|pin| before.is_old(pin) || before.names(pin)));
    Ok(added)
}

/// The addresses that an earlier directive asked for; `None` where its record cannot be read.
pub(super) fn asked_for(earlier: &Earlier<'_>) -> Option<Vec<PciAddress>> {
    match earlier.record {
        Some(record) => read_record(record),
        None => Some(directive(earlier).map(|devices| devices.addresses).unwrap_or_default()),
    }
}

fn directive(earlier: &Earlier<'_>) -> Option<Devices> {
    Devices::parse(earlier.directive?, usize::MAX).ok()
}

impl Before<'_> {
    /// Whether the directive names the node by now, so that an earlier call for the same request may have selected it.
    fn names(&self, pin: &Edit) -> bool {
        let devices = self.directive.and_then(|value| Devices::parse(value, usize::MAX).ok());
        let hostname = devices.and_then(|devices| devices.node);
        hostname.is_some_and(|hostname| *pin == Edit::SelectNode { hostname }) && self.is_ours(pin)
    }
}

/// Whether an entry is named as the policy names the device at the address.
pub(super) fn is_named_after(entry: &Device<'_>, address: PciAddress) -> bool {
    match PciAddress::of_pci_device(entry.name) {
        Some((_, place)) => place == address,
        None => {
            entry.device_name == address.device_name() && made_number(PREFIX, entry.name).is_some()
        }
    }
}

/// Takes the entries whose resource is that of a device at one of the addresses, if these are not more than the addresses.
fn claim_renamed(
    addresses: &[PciAddress],
    entries: &[Device<'_>],
    before: &Before<'_>,
    context: &Context<'_>,
    added: &mut Added,
) {
    let devices = match context.lookups.pci_devices() {
        Ok(devices) => devices,
        // Without Harvester, nobody gives host devices another name.
        Err(LookupError::KindNotServed(_)) => return,
        Err(error) => {
            let names = text::list(entries.iter().map(|entry| entry.name));
            added.doubts.push(format!(
                "the host devices {names} stay, as it cannot be told which of them are those of the directive: {error}"
            ));
            return;
        }
    };
    let is_wanted = |address: Option<PciAddress>| address.is_some_and(|a| addresses.contains(&a));
    let wanted: Vec<&PciDevice> = devices.iter().filter(|d| is_wanted(d.address)).collect();
    let serves = |entry: &&Device<'_>| wanted.iter().any(|d| d.resource_name == entry.device_name);
    let found: Vec<&Device<'_>> = entries.iter().filter(serves).collect();
    let is_kept = |entry: &&Device<'_>| {
        before
            .earlier
            .kept
            .iter()
            .any(|kept| kept.rsplit_once(' ').map(|k| k.1) == Some(entry.device_name))
    };
    if found.len() > addresses.len() || found.iter().any(is_kept) {
        let names = text::list(found.iter().map(|entry| entry.name));
        added.doubts.push(format!(
            "the host devices {names} stay, as it cannot be told which of them are those of the directive"
        ));
        return;
    }
    added.edits.extend(found.into_iter().map(host_device));
}

/// The addresses of a record.
fn read_record(record: &str) -> Option<Vec<PciAddress>> {
    match Json::parse(record, &Shape::Tree).ok()? {
        Json::Array(items) => items.iter().map(|item| item.as_str()?.parse().ok()).collect(),
        _ => None,
    }
}
