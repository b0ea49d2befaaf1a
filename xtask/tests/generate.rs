//! Checks that the generated files are up to date. This is a test and not a separate command, so that nothing is
//! compiled twice.

use std::process::Command;

#[test]
fn what_is_generated_is_current() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["generate", "--check"]).current_dir(root).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
