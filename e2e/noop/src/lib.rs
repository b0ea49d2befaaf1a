//! A Kubewarden policy that accepts every request without a look at it.

use wapc_guest::{CallResult, register_function};

/// Registers the function that the Kubewarden host calls.
#[unsafe(no_mangle)]
pub extern "C" fn wapc_init() {
    register_function("validate", validate);
}

fn validate(_payload: &[u8]) -> CallResult {
    Ok(br#"{"accepted":true}"#.to_vec())
}
