//! A cluster for a test: the objects that `kubectl.py` serves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The objects in a file of the repository.
pub fn file(path: &str) -> Vec<Value> {
    vmfm::yaml::read(&root().join(path)).unwrap()
}

/// The program behind `python3`.
static PYTHON: LazyLock<String> = LazyLock::new(|| {
    let output = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
});

/// A cluster in a folder of the test's own. The folder has the name of the thread, which is that of the test and its case.
pub struct World {
    folder: PathBuf,
    pub objects: Vec<Value>,
    /// How the API server behaves.
    pub fake: Value,
    /// Arguments that every call gets.
    pub arguments: Vec<String>,
}

/// What the program printed.
pub struct Printed {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl World {
    /// Harvester with two nodes, and the policy as the manifests install it.
    pub fn harvester() -> Self {
        let test = std::thread::current().name().unwrap().replace("::", ".");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("live").join(test);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let mut objects = file("examples/harvester/cluster/cluster.yaml");
        let mut policy = file("deploy/base/policy.yaml").remove(0);
        policy["status"] = json!({"policyStatus": "active"});
        objects.push(policy);
        objects.push(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "policy-server-default", "namespace": "kubewarden"},
            "spec": {"replicas": 2, "template": {"spec": {"serviceAccountName": "policy-server"}}},
            "status": {"readyReplicas": 2},
        }));
        objects.push(json!({
            "apiVersion": "policies.kubewarden.io/v1", "kind": "PolicyServer", "metadata": {"name": "default"},
            "spec": {"image": "ghcr.io/kubewarden/policy-server:v1.36.0", "replicas": 2},
        }));
        for namespace in ["default", "team-a", "harvester-system"] {
            objects.push(json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": namespace, "labels": {"kubernetes.io/metadata.name": namespace}},
            }));
        }
        Self { folder, objects, fake: json!({}), arguments: Vec::new() }
    }

    /// The only object of a kind, or the first one.
    pub fn first(&mut self, kind: &str) -> &mut Value {
        self.objects.iter_mut().find(|object| object["kind"] == kind).unwrap()
    }

    /// Removes all objects of a kind.
    pub fn remove(&mut self, kind: &str) {
        self.objects.retain(|object| object["kind"] != kind);
    }

    /// Adds a VirtualMachine with directives: the names and values.
    pub fn vm(&mut self, namespace: &str, name: &str, directives: &[(&str, &str)]) -> &mut Value {
        let annotations = directives.iter().map(|(key, value)| (format!("vm-feature-manager.io/{key}"), json!(value)));
        self.objects.push(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {
                "name": name, "namespace": namespace, "resourceVersion": "1", "labels": {"tier": name},
                "annotations": annotations.collect::<serde_json::Map<_, _>>(),
            },
            "spec": {"template": {"spec": {"domain": {"devices": {}}}}},
        }));
        self.objects.last_mut().unwrap()
    }

    /// Adds a VirtualMachine as the policy stores it.
    pub fn applied_vm(&mut self, namespace: &str, name: &str, directives: &[(&str, &str)]) -> &mut Value {
        let vm = self.vm(namespace, name, directives).clone();
        fs::write(self.folder.join("vm.json"), vm.to_string()).unwrap();
        let vm = self.folder.join("vm.json").display().to_string();
        let cluster = ["--cluster", "examples/harvester/cluster", "--output", "jsonpath={$}"];
        let printed = run(&[&cluster[..], &[&vm]].concat(), &[]);
        assert_eq!(printed.code, 0, "{}", printed.stderr);
        let vm = self.objects.last_mut().unwrap();
        *vm = serde_json::from_str(&printed.stdout).unwrap();
        vm
    }

    /// Runs the program with this cluster.
    pub fn run(&self, arguments: &[&str]) -> Printed {
        fs::write(self.folder.join("objects.json"), json!(self.objects).to_string()).unwrap();
        fs::write(self.folder.join("fake.json"), self.fake.to_string()).unwrap();
        fs::write(self.folder.join("calls"), "").unwrap();
        let kubectl = root().join("vmfm/tests/live/kubectl.py").canonicalize().unwrap();
        let more = self.arguments.iter().map(String::as_str).collect::<Vec<_>>();
        let environment = [
            ("KUBECTL", kubectl.as_os_str()),
            ("FAKE_CLUSTER", self.folder.as_os_str()),
            ("FAKE_PYTHON", PYTHON.as_ref()),
        ];
        run(&[arguments, &more].concat(), &environment)
    }

    /// The calls of kubectl in the last run.
    pub fn calls(&self) -> Vec<String> {
        fs::read_to_string(self.folder.join("calls")).unwrap().lines().map(str::to_owned).collect()
    }

    /// A VirtualMachine as it is stored after the last run.
    pub fn stored(&self, name: &str) -> Value {
        let objects: Vec<Value> = serde_json::from_slice(&fs::read(self.folder.join("objects.json")).unwrap()).unwrap();
        let is_it = |object: &Value| object["kind"] == "VirtualMachine" && object["metadata"]["name"] == name;
        objects.into_iter().find(is_it).unwrap()
    }
}

/// Runs the program.
pub fn run(arguments: &[&str], environment: &[(&str, &std::ffi::OsStr)]) -> Printed {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmfm"));
    command.args(arguments).current_dir(root()).env_remove("NO_COLOR").stdin(Stdio::null());
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Printed { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Printed {
    /// The line of the table that starts with a name, with single spaces.
    pub fn row(&self, name: &str) -> String {
        let line = self.stdout.lines().find(|line| line.split_whitespace().any(|word| word == name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {}{}", self.stdout, self.stderr));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}
