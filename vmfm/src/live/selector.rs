//! A label selector, as in the `namespaceSelector` of a policy.

use serde_json::Value;

/// Whether an object with these labels is selected. Kubewarden drops `matchLabels`, so only `matchExpressions` count.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    let matches = |expression: &Value| {
        let key = expression["key"].as_str().unwrap_or_default();
        let label = labels[key].as_str();
        let values = expression["values"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_listed = label.is_some_and(|label| values.iter().any(|value| value == label));
        match expression["operator"].as_str() {
            Some("In") => is_listed,
            Some("NotIn") => !is_listed,
            Some("Exists") => label.is_some(),
            Some("DoesNotExist") => label.is_none(),
            _ => true,
        }
    };
    selector["matchExpressions"].as_array().into_iter().flatten().all(matches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::none(json!({}), true)]
    #[case::is_in(json!([{"key": "a", "operator": "In", "values": ["1", "2"]}]), true)]
    #[case::is_not_in(json!([{"key": "a", "operator": "NotIn", "values": ["1"]}]), false)]
    #[case::without_the_label(json!([{"key": "b", "operator": "NotIn", "values": ["1"]}]), true)]
    #[case::exists(json!([{"key": "b", "operator": "Exists"}]), false)]
    #[case::does_not_exist(json!([{"key": "b", "operator": "DoesNotExist"}]), true)]
    #[case::all_count(json!([{"key": "a", "operator": "Exists"}, {"key": "a", "operator": "In", "values": ["3"]}]), false)]
    fn labels_are_selected(#[case] expressions: Value, #[case] expected: bool) {
        let selector = json!({"matchExpressions": expressions, "matchLabels": {"c": "dropped"}});
        assert_eq!(selects(&selector, &json!({"a": "1"})), expected);
    }
}
