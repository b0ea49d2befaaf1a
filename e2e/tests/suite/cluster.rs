//! The cluster made of files answers like Kubewarden's `kubernetes` host capability.

use serde_json::{Value, json};
use vmfm::cluster::Cluster;

fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    for (name, namespace) in [("a", "one"), ("b", "one"), ("a", "two")] {
        cluster.add(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace},
            "data": {"of": format!("{namespace}/{name}")},
        }));
    }
    cluster
}

fn ask(operation: &str, request: Value) -> Result<Value, String> {
    let answer = cluster().answer(operation, request.to_string().as_bytes());
    answer.map(|bytes| serde_json::from_slice(&bytes).unwrap()).map_err(|e| e.to_string())
}

fn get(api_version: &str, kind: &str, name: &str, namespace: Option<&str>) -> Result<Value, String> {
    let request = json!({
        "api_version": api_version,
        "kind": kind,
        "name": name,
        "namespace": namespace,
        "disable_cache": false,
    });
    ask("get_resource", request)
}

#[test]
fn an_object_is_found_by_kind_name_and_namespace() {
    let object = get("v1", "ConfigMap", "a", Some("two")).unwrap();
    assert_eq!(object["data"]["of"], "two/a");
}

#[test]
fn what_is_not_there_has_kubewardens_words() {
    assert_eq!(
        get("v1", "ConfigMap", "b", Some("two")).unwrap_err(),
        "Callback evaluation failure: Cannot find v1/ConfigMap named 'b' inside of namespace 'Some(\"two\")'"
    );
    let error = get("kubevirt.io/v1", "KubeVirt", "kubevirt", Some("kubevirt")).unwrap_err();
    assert!(
        error.starts_with(
            "Callback evaluation failure: error finding resource kubevirt.io/v1 / KubeVirt: ApiError: 404"
        )
    );
    assert_eq!(ask("get_nothing", json!({})).unwrap_err(), "unknown operation: get_nothing");
}

#[test]
fn field_masks_cut_all_but_type_and_metadata() {
    let request = json!({
        "api_version": "v1", "kind": "ConfigMap", "name": "a", "namespace": "one", "disable_cache": false,
        "field_masks": ["data.other", "spec.items.name"],
    });
    let object = ask("get_resource", request).unwrap();
    assert_eq!(object["metadata"]["name"], "a");
    assert_eq!(object["data"], json!({}));

    let mut cluster = Cluster::default();
    let items = json!([{"name": "x", "more": 1}, {"more": 2}]);
    let object = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {"items": items},
    });
    cluster.add(object);
    let request = json!({"api_version": "v1", "kind": "Node", "field_masks": ["spec.items.name"]});
    let answer = cluster.answer("list_resources_all", request.to_string().as_bytes()).unwrap();
    let list: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(list["items"][0]["spec"], json!({"items": [{"name": "x"}, {}]}));
}

#[test]
fn a_list_has_items_without_their_type() {
    let request = json!({"api_version": "v1", "kind": "ConfigMap", "namespace": "one"});
    let list = ask("list_resources_by_namespace", request).unwrap();
    assert_eq!(list["kind"], "ConfigMapList");
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 2);
    assert!(items.iter().all(|item| item.get("kind").is_none() && item["data"].is_object()));
    let all = ask("list_resources_all", json!({"api_version": "v1", "kind": "ConfigMap"})).unwrap();
    assert_eq!(all["items"].as_array().unwrap().len(), 3);
}

#[test]
fn a_request_that_lacks_a_key_is_refused() {
    assert!(ask("get_resource", json!({"api_version": "v1", "kind": "ConfigMap"})).is_err());
}
