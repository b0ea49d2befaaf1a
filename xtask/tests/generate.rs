//! The generated files are what the declarations say. A test, and not a command of its own, so that nothing is built twice for it.

use std::process::Command;

#[test]
fn what_is_generated_is_current() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["generate", "--check"]).current_dir(root).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
