//! What the program can do.

pub mod cluster;
pub mod doctor;
pub mod evaluate;
mod fix;
mod table;

use std::io::{self, IsTerminal};

use anyhow::Result;
use vmfm::cluster::Cluster;
use vmfm::host::Host;

use crate::arguments::{Color, Common};

/// The module, compiled.
fn load(common: &Common, cluster: Cluster) -> Result<Host> {
    let cache = common.cache.as_deref();
    #[cfg(feature = "embedded")]
    if common.module.is_none() {
        const MODULE: &[u8] = include_bytes!("../../../policy.wasm");
        return Ok(Host::from_bytes(MODULE, cache, cluster)?);
    }
    let module = anyhow::Context::context(common.module.as_deref(), "no --module")?;
    Ok(Host::load(module, cache, cluster)?)
}

impl Color {
    fn is_on(self) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
                let is_dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
                io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb
            }
        }
    }
}
