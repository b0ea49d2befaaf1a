//! The policy knows which CPU models have svm, and which have vmx. libvirt lists all models, with their vendors.

use std::collections::BTreeMap;
use std::fs;

use vm_feature_manager_testkit::{Request, bare_vm};

/// Where libvirt has its CPU models: a file each.
const CPU_MAP: &str = "/usr/share/libvirt/cpu_map";

/// A CPU model, as libvirt describes it.
struct Model {
    vendor: Option<String>,
    /// The model that it is a version of, from which it has its vendor.
    base: Option<String>,
}

/// The CPU models of x86, by their names.
fn models() -> BTreeMap<String, Model> {
    let files = fs::read_dir(CPU_MAP).expect("libvirt's CPU models are installed (package libvirt-clients)");
    let paths = files.map(|file| file.unwrap().path());
    let of_x86 = paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("x86_"));
    let read = |path| {
        let xml = fs::read_to_string(path).unwrap();
        let names = |tag: &str| -> Vec<String> {
            let start = format!("<{tag} name='");
            xml.split(&start).skip(1).map(|rest| rest.split_once('\'').unwrap().0.to_owned()).collect()
        };
        let mut models = names("model").into_iter();
        // Two files list features and vendors.
        let name = models.next()?;
        Some((name, Model { vendor: names("vendor").into_iter().next(), base: models.next() }))
    };
    of_x86.filter_map(read).collect()
}

fn vendor<'m>(name: &str, models: &'m BTreeMap<String, Model>) -> Option<&'m str> {
    let model = &models[name];
    let of_base = || vendor(model.base.as_deref()?, models);
    model.vendor.as_deref().or_else(of_base)
}

/// The CPU feature that a VM with the CPU model gets, where nothing else tells the vendor.
fn extension(model: &str) -> Option<String> {
    let mut vm = bare_vm(&[("nested-virt", "enabled")]);
    vm["spec"]["template"]["spec"]["domain"]["cpu"]["model"] = model.into();
    let answer = Request::create(vm).evaluate();
    if !answer.is_accepted() {
        answer.assert_denied(&["the policy cannot determine whether to add svm (AMD) or vmx (Intel)"]);
    }
    answer.domain()["cpu"]["features"][0]["name"].as_str().map(str::to_owned)
}

#[test]
fn each_cpu_model_of_libvirt_gets_the_extension_of_its_vendor() {
    let models = models();
    assert!(models.len() > 50, "{CPU_MAP} has {} models", models.len());
    let expected = |name: &str| match vendor(name, &models) {
        Some("AMD" | "Hygon") => Some("svm"),
        Some("Intel" | "Zhaoxin CentaurHauls") => Some("vmx"),
        None => None,
        Some(other) => panic!("the vendor of {name} is {other}; add its models to src/features/cpu_vendor.rs"),
    };
    let wrong: Vec<_> = models.keys().filter(|name| extension(name).as_deref() != expected(name)).collect();
    assert!(wrong.is_empty(), "src/features/cpu_vendor.rs has another extension for {wrong:?}");
}
