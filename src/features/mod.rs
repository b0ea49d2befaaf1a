//! The features: each turns its directive into a plan, or an error, and finds what an earlier directive had added.
//! None knows another, or the response.

mod evidence;
mod gpu_device_plugin;
mod nested_virt;
mod pci_passthrough;
mod vbios_injection;

use crate::cluster::Lookups;
use crate::directives::Directives;
use crate::settings::{FeatureSettings, Settings};
use crate::vm::{Edit, ShapeError, VirtualMachine};
pub(crate) use evidence::{Added, Before, Earlier, Past};

/// The features, in the order in which they are planned and applied.
pub(crate) static FEATURES: [&dyn Feature; 4] = [
    &nested_virt::NestedVirt,
    &pci_passthrough::PciPassthrough,
    &gpu_device_plugin::GpuDevicePlugin,
    &vbios_injection::VbiosInjection,
];

/// One feature.
pub(crate) trait Feature: Sync {
    /// Its name, as it stands in the directive's key.
    fn name(&self) -> &'static str;

    /// Its part of the settings that every feature has.
    fn settings(&self, settings: &Settings) -> FeatureSettings;

    /// The options that go with its directive.
    fn options(&self) -> &'static [&'static str] {
        &[]
    }

    /// What the directive's value asks for; `None` where it says that the feature is off.
    ///
    /// # Errors
    /// Whatever stands in the way, in words for the user: what it is, and what to do.
    fn plan(&self, value: &str, context: &Context<'_>) -> Result<Option<Plan>, Failure>;

    /// What of the VirtualMachine the feature had added for an earlier directive.
    fn added(&self, before: &Before<'_>, context: &Context<'_>) -> Result<Added, ShapeError>;
}

/// Why a feature cannot be applied, in words for the user. Each feature has an enum of its own for its reasons;
/// beyond the feature only the words matter.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(error.to_string())
    }
}

/// `count` names for new devices of the VirtualMachine, `<prefix>-<n>`, which none of its devices has, nor any that the
/// feature had added before. KubeVirt makes the alias of a device of the name, and Harvester turns GPUs into host devices,
/// so the name is free among both.
fn free_names(
    prefix: &'static str,
    count: usize,
    context: &Context<'_>,
) -> Result<impl Iterator<Item = String>, ShapeError> {
    let (host_devices, gpus) = (context.vm.host_devices()?, context.vm.gpus()?);
    let ours = context.ours.iter().filter_map(|edit| match edit {
        Edit::AddHostDevice { name, .. } | Edit::AddGpu { name, .. } => Some(name.as_str()),
        _ => None,
    });
    let names = host_devices.iter().chain(&gpus).map(|device| device.name).chain(ours);
    // Among so many numbers, at least as many are free as are wanted.
    let mut taken = vec![false; host_devices.len() + gpus.len() + context.ours.len() + count];
    for number in names.filter_map(|name| made_number(prefix, name)) {
        if let Some(is_taken) = taken.get_mut(number) {
            *is_taken = true;
        }
    }
    let free = taken.into_iter().enumerate().filter(|(_, is_taken)| !is_taken).take(count);
    Ok(free.map(move |(number, _)| format!("{prefix}-{number}")))
}

/// The number in a name that [`free_names`] makes.
fn made_number(prefix: &str, name: &str) -> Option<usize> {
    let digits = name.strip_prefix(prefix)?.strip_prefix('-')?;
    // A sign or a zero in front would be read as well.
    let is_written_so = digits == "0" || digits.starts_with(|c: char| ('1'..='9').contains(&c));
    digits.parse().ok().filter(|_| is_written_so)
}

/// What a feature plans with.
pub(crate) struct Context<'c> {
    /// The VirtualMachine with what the features before have changed, and without what this one had added.
    pub(crate) vm: &'c VirtualMachine<'c>,
    /// What the feature had added before. What a plan has too stays as it is; the rest goes.
    pub(crate) ours: &'c [Edit],
    /// The directive that was there before.
    pub(crate) earlier: Option<&'c Earlier<'c>>,
    /// The VirtualMachine's namespace.
    pub(crate) namespace: &'c str,
    /// The options beside the directive.
    pub(crate) directives: &'c Directives<'c, 'c>,
    pub(crate) settings: &'c Settings,
    pub(crate) lookups: &'c Lookups<'c>,
    /// Whether the VirtualMachine was there before.
    pub(crate) is_update: bool,
}

/// What a feature will change, checked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// All that the directive stands for, in place or not; and what the VirtualMachine has that would be taken for that
    /// later. What is in place is recorded as the user's.
    pub(crate) edits: Vec<Edit>,
    /// The value of the `-applied` annotation.
    pub(crate) applied: String,
    /// What the user should know, true also where the changes are dropped.
    pub(crate) warnings: Vec<String>,
}
