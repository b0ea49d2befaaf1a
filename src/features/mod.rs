//! The features: each turns its directive into a plan, or an error, and finds what an earlier directive had added.
//! None knows another, or the response.

mod gpu_device_plugin;
mod nested_virt;
mod pci_passthrough;
mod vbios_injection;

use crate::cluster::Lookups;
use crate::directives::Directives;
use crate::settings::{FeatureSettings, Settings};
use crate::vm::{Edit, ShapeError, VirtualMachine};

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

/// Names for new devices of the VirtualMachine, `<prefix>-<n>`, which none of its devices has, nor any that the feature had
/// added before. KubeVirt makes the alias of a device of the name, and Harvester turns GPUs into host devices, so the name
/// is free among both.
fn free_names<'v>(
    prefix: &'static str,
    context: &'v Context<'_>,
) -> Result<impl Iterator<Item = String> + 'v, ShapeError> {
    let mut taken: Vec<&str> = Vec::new();
    taken.extend(context.vm.host_devices()?.iter().map(|device| device.name));
    taken.extend(context.vm.gpus()?.iter().map(|device| device.name));
    taken.extend(context.ours.iter().filter_map(|edit| match edit {
        Edit::AddHostDevice { name, .. } | Edit::AddGpu { name, .. } => Some(name.as_str()),
        _ => None,
    }));
    let names = (0..).map(move |n: usize| format!("{prefix}-{n}"));
    Ok(names.filter(move |name| !taken.contains(&name.as_str())))
}

/// Whether the name is one that [`free_names`] makes.
fn is_made_name(prefix: &str, name: &str) -> bool {
    let number = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-'));
    number.is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()))
}

/// What a feature plans with.
pub(crate) struct Context<'c> {
    /// The VirtualMachine with what the features before have changed, and without what this one had added.
    pub(crate) vm: &'c VirtualMachine<'c>,
    /// What the feature had added before. What a plan has too stays as it is; the rest goes.
    pub(crate) ours: &'c [Edit],
    /// What was there before the directive, as [`Earlier::kept`].
    pub(crate) kept: &'c [String],
    /// The record of what the directive asked for before.
    pub(crate) record: Option<&'c str>,
    /// The VirtualMachine's namespace.
    pub(crate) namespace: &'c str,
    /// The options beside the directive.
    pub(crate) directives: &'c Directives<'c, 'c>,
    pub(crate) settings: &'c Settings,
    pub(crate) lookups: &'c Lookups<'c>,
    /// Whether the VirtualMachine was there before.
    pub(crate) is_update: bool,
}

/// What is known of an earlier directive for a feature, which was applied.
#[derive(Debug)]
pub(crate) struct Earlier<'e> {
    /// The annotation `-applied`.
    pub(crate) record: Option<&'e str>,
    /// The directive's value at that time, if that is known.
    pub(crate) directive: Option<&'e str>,
    /// What was there before the directive, as the annotation `-kept` lists it.
    pub(crate) kept: Vec<String>,
    /// Whether the record is not in the old object: the policy is called again for a request, or for a copy.
    pub(crate) is_of_request: bool,
    /// Whether the old object has a record, this or another.
    pub(crate) was_applied: bool,
}

impl Earlier<'_> {
    /// Whether it asked for the same as a directive of the value, of which the record would be `applied`.
    pub(crate) fn is_for(&self, value: Option<&str>, applied: &str) -> bool {
        match self.record {
            Some(record) => record == applied,
            None => self.directive == value,
        }
    }
}

/// What tells who wrote a part of the VirtualMachine.
pub(crate) struct Before<'b> {
    pub(crate) earlier: &'b Earlier<'b>,
    pub(crate) vm: &'b VirtualMachine<'b>,
    /// The VirtualMachine before this update.
    pub(crate) old: Option<&'b VirtualMachine<'b>>,
    /// What `kubectl apply` was given.
    pub(crate) declared: Option<&'b VirtualMachine<'b>>,
    /// The directive that is there now.
    pub(crate) directive: Option<&'b str>,
}

impl Before<'_> {
    /// Whether the VirtualMachine has what the edit writes, and nobody else can have written it: the user does not declare
    /// it, and it was not there before the directive, nor is it new.
    pub(crate) fn is_ours(&self, edit: &Edit) -> bool {
        let can_be_old = match self.old {
            None => true,
            Some(old) if self.earlier.is_of_request => self.earlier.was_applied || !old.has(edit),
            // With its directive still there, it may be of an earlier call for the same request.
            Some(old) => self.directive.is_some() || old.has(edit),
        };
        can_be_old
            && self.vm.has(edit)
            && !self.declared.is_some_and(|declared| declared.has(edit))
            && !self.earlier.kept.contains(&edit.to_string())
    }

    /// Whether it is ours, and was there before this update as far as that is known.
    fn is_old(&self, edit: &Edit) -> bool {
        self.is_ours(edit) && self.old.is_none_or(|old| old.has(edit))
    }
}

/// What an earlier directive had added, as far as the VirtualMachine still has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Added {
    /// What is taken back unless it is planned again.
    pub(crate) edits: Vec<Edit>,
    /// What is done where nothing is planned again.
    pub(crate) closing: Vec<Edit>,
    /// What stays as it cannot be told who wrote it, in words for the user.
    pub(crate) doubts: Vec<String>,
}

impl Added {
    /// Takes an entry that the VirtualMachine has under the name that the policy gives it.
    fn claim(&mut self, before: &Before<'_>, edit: Edit) {
        if before.is_ours(&edit) {
            self.edits.push(edit);
        } else if !before.vm.has(&edit) {
            self.doubts.push(format!(
                "the VirtualMachine has something else in the place of the {edit}, which stays"
            ));
        }
    }
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
