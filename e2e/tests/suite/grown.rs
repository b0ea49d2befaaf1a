//! Large requests that are made at random. The cost of each is linear in its size.

use std::env;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vm_feature_manager_fuzz::grown::{Random, grown};
use vm_feature_manager_fuzz::{objects, seeds};
use vm_feature_manager_testkit::{annotate, features};
use vmfm::cluster::Cluster;

use super::harness::{HOST, request, vm};

/// What a request costs at most without its size: the lookups in the small cluster of the fuzz targets.
const OF_A_REQUEST: u64 = 40_000_000;

/// What a byte costs at most.
const OF_A_BYTE: u64 = 1500;

/// How many requests are made, unless `COST_SECONDS` says how long to make them.
const REQUESTS: usize = 60;

/// How large they are at most, in bytes. The API server accepts 3 MiB.
const SIZES: [usize; 4] = [20_000, 100_000, 400_000, 3_000_000];

/// Most features ask for the node that a directive names, which they cannot be if it is as long as this one.
#[test]
fn a_directive_that_is_read_many_times_costs_no_more() {
    let keys: Vec<_> = (0..5000).map(|n| format!(r#""devices{n}": ["node2/0000:05:00.0"]"#)).collect();
    let directive = format!("{{{}}}", keys.join(","));
    let mut vm = vm(&features::directives_but(&[]));
    annotate(&mut vm, &[("pci-passthrough", &directive)]);
    let payload = json!({"request": request(vm, None), "settings": {}}).to_string();
    let fuel = HOST.measure("validate", payload.as_bytes()).unwrap().fuel;
    let most = OF_A_REQUEST + OF_A_BYTE * payload.len() as u64;
    assert!(fuel <= most, "{} bytes cost {fuel} units of fuel, but at most {most}", payload.len());
}

#[test]
fn a_byte_more_costs_at_most_so_much() {
    let seconds = env::var("COST_SECONDS").ok().map(|seconds| seconds.parse().expect("a number of seconds"));
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut random = Random(end.map_or(1, |_| u64::from(std::process::id())));
    let mut cluster = Cluster::default();
    objects().into_iter().for_each(|object: Value| cluster.add(object));
    let host = HOST.with_cluster(cluster);
    let seeds = seeds::of("validate");
    // Without a time, requests are smaller, because the test's engine is not optimized.
    let sizes = if end.is_some() { &SIZES[..] } else { &SIZES[..2] };
    let (mut worst, mut count) = ((0.0, 0), 0);
    while end.map_or(count < REQUESTS, |end| Instant::now() < end) {
        count += 1;
        let (seed, size) = (&seeds[random.below(seeds.len())], sizes[random.below(sizes.len())]);
        let payload = grown(seed, &mut random, size);
        let start = Instant::now();
        let fuel = host.measure("validate", &payload).unwrap().fuel;
        let (time, bytes) = (start.elapsed(), payload.len() as u64);
        let share = fuel as f64 / (OF_A_REQUEST + OF_A_BYTE * bytes) as f64;
        if end.is_some() && (share > worst.0 || fuel > worst.1) {
            println!(
                "request {count}: {bytes} bytes, {fuel} units of fuel, {} ms, {share:.2} of the bound",
                time.as_millis()
            );
        }
        let is_too_much = share > 1.0;
        if is_too_much || end.is_some() && share > worst.0 {
            let file = env::temp_dir().join(format!("vmfm-cost-{}.json", std::process::id()));
            std::fs::write(&file, &payload).unwrap();
            assert!(!is_too_much, "{bytes} bytes cost {fuel} units of fuel: {}", file.display());
        }
        worst = (share.max(worst.0), fuel.max(worst.1));
    }
}
