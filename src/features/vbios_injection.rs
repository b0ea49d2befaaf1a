//! vBIOS injection: a ROM for a passed-through device. Its directive is known, its work is yet to come.

use super::{Context, Failure, Feature, Plan};
use crate::settings::{FeatureSettings, Settings};

pub(super) struct VbiosInjection;

#[derive(Debug, thiserror::Error)]
#[error(
    "not available yet in this version of the policy; remove the directive, or have the administrator set \
     vbiosInjection.enabled to false, which ignores it"
)]
struct NotAvailableYet;

impl Feature for VbiosInjection {
    fn name(&self) -> &'static str {
        "vbios-injection"
    }

    fn settings(&self, settings: &Settings) -> FeatureSettings {
        settings.vbios_injection.feature
    }

    fn plan(&self, _value: &str, _context: &Context<'_>) -> Result<Option<Plan>, Failure> {
        Err(NotAvailableYet.into())
    }
}
