//! A short, deterministic run of every fuzz target: the seeds, the inputs that longer runs have found, and small changes to both.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use rstest::rstest;
use vm_feature_manager_fuzz::{TARGETS, is_applied, keys, seeds};

const CASES: u32 = 5000;

/// Every target has a program, and a long run includes all of them.
#[test]
fn a_long_run_takes_the_same_targets() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
    let names = TARGETS.map(|(name, _)| name).join(" ");
    assert!(read("../scripts/fuzz").contains(&format!("targets=({names})")), "{names}");
    for (name, _) in TARGETS {
        let call = format!("vm_feature_manager_fuzz::{name}(");
        assert!(read(&format!("fuzz_targets/{name}.rs")).contains(&call), "{name}");
    }
}

/// Otherwise, fuzzing would only see denials for it.
#[test]
fn every_directive_and_option_has_a_value_that_is_applied() {
    for key in keys() {
        let values = seeds::values();
        let mut values = values.iter().filter(|(name, _)| *name == key);
        assert!(values.any(|(_, value)| is_applied(key, value)), "{key}: name a value in fuzz/src/seeds.rs");
    }
}

/// Inputs that failed before.
fn regressions(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(target);
    let Ok(files) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// A change to an input: the operation, its position, and its data.
fn change() -> impl Strategy<Value = (u8, Index, Index, Vec<u8>)> {
    let token = prop::sample::select(TOKENS).prop_map(|token| token.as_bytes().to_vec());
    let bytes = prop_oneof![3 => token, 1 => prop::collection::vec(any::<u8>(), 1..4)];
    (0..4u8, any::<Index>(), any::<Index>(), bytes)
}

const TOKENS: &[&str] = &[
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "true",
    "-1",
    "1e400",
    "0",
    "\\u0000",
    "\\",
    "\n",
    " ",
    "\t",
    "- ",
    ": ",
    "&a ",
    "*a",
    "|\n",
    "#",
    "enabled",
    "nvidia.com/gpu",
    "0000:01:00.0",
    "node1/",
    "=2",
    "\u{e9}",
    "vm-feature-manager.io/",
    "x_kubevirt_features:",
    "\"userData\":{\"enabled\":true}",
];

fn changed(mut input: Vec<u8>, changes: &[(u8, Index, Index, Vec<u8>)]) -> Vec<u8> {
    for (what, at, length, bytes) in changes {
        let at = at.index(input.len() + 1);
        let end = at + length.index((input.len() - at).min(32) + 1);
        match what {
            0 => drop(input.splice(at..at, bytes.iter().copied())),
            1 => drop(input.splice(at..end, bytes.iter().copied())),
            2 => drop(input.drain(at..end)),
            _ => {
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
        }
    }
    input
}

#[rstest]
#[case::validate("validate")]
#[case::validate_settings("validate_settings")]
#[case::directives("directives")]
#[case::user_data("user_data")]
fn a_short_run(#[case] target: &str) {
    let (_, check) = TARGETS.into_iter().find(|(name, _)| *name == target).unwrap();
    let mut inputs = seeds::of(target);
    assert!(inputs.len() > 3);
    inputs.extend(regressions(target));
    inputs.iter().for_each(|input| check(input));

    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let rng = proptest::test_runner::TestRng::deterministic_rng(config.rng_algorithm);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let input = (prop::sample::select(inputs), prop::collection::vec(change(), 1..5))
        .prop_map(|(input, changes)| changed(input, &changes));
    runner
        .run(&input, |input| {
            check(&input);
            Ok(())
        })
        .unwrap();
}
