//! How settings are declared and read, and those that belong to no feature. Knows neither feature nor VM nor cluster; the tree
//! stands with the features.

mod describe;
mod general;
mod reader;
mod value;

pub use describe::{Content, Description};
pub(crate) use general::{ConfigSource, ErrorHandling, FeatureSettings, GeneralSettings, reads_user_data};
pub use reader::SettingsError;
pub(crate) use reader::{Choice, Section, Setting, SettingValue, choice, default_settings, read_settings, section};
pub(crate) use value::Count;
