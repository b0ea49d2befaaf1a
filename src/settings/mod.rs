//! How settings are declared and read, and the settings that do not belong to a single feature. This module does not
//! know features, VMs or the cluster; `features/mod.rs` combines all settings.

mod defaults;
mod describe;
mod general;
mod reader;
mod value;

pub use describe::{Content, Description};
pub(crate) use general::{
    ConfigSource, ErrorHandling, FeatureSettings, GeneralSettings, has_default_directives, reads_user_data,
};
pub use reader::SettingsError;
pub(crate) use reader::{Choice, Section, Setting, SettingValue, choice, default_settings, read_settings, section};
pub(crate) use value::Count;
