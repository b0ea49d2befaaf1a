//! The dashboard, the alerts and the columns use only what docs/observability.md lists, and that page lists all that exists.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use vmfm::yaml;

use crate::harness::root;

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The cells of the rows of the page's tables, without the header rows.
fn rows() -> Vec<Vec<String>> {
    let page = text("docs/observability.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The row about this item.
fn row(name: &str) -> Option<Vec<String>> {
    rows().into_iter().find(|row| row[0] == format!("`{name}`"))
}

fn dashboard() -> Value {
    serde_json::from_str(&text("deploy/observability/grafana-dashboard.json")).unwrap()
}

fn panels() -> Vec<Value> {
    let panels = dashboard()["panels"].as_array().unwrap().clone();
    panels.into_iter().filter(|panel| panel["type"] != "row").collect()
}

fn alerts() -> Vec<Value> {
    let rule = yaml::read(&root().join("deploy/observability/prometheus-rules.yaml")).unwrap().remove(0);
    assert_eq!([&rule["apiVersion"], &rule["kind"]], ["monitoring.coreos.com/v1", "PrometheusRule"]);
    rule["spec"]["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap().clone()).collect()
}

fn expressions() -> Vec<String> {
    let of_panels = panels().into_iter().flat_map(|panel| panel["targets"].as_array().unwrap().clone());
    let expressions = of_panels.chain(alerts()).map(|query| query["expr"].as_str().unwrap().to_owned());
    expressions.collect()
}

/// The metrics in an expression, each with the labels that select it.
fn selectors(expression: &str) -> Vec<(&str, Vec<&str>)> {
    let mut found = Vec::new();
    for (start, _) in expression.match_indices('{') {
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let metric = &expression[expression[..start].trim_end_matches(is_of_name).len()..start];
        // Grafana's variables contain a dollar sign there.
        if !metric.is_empty() {
            let inside = &expression[start + 1..start + expression[start..].find("\"}").unwrap()];
            let labels = inside.split(", ").map(|label| label.split(['=', '!']).next().unwrap());
            found.push((metric, labels.collect()));
        }
    }
    found
}

#[test]
fn every_metric_and_label_is_in_the_table() {
    let mut metrics = 0;
    for expression in expressions() {
        let selectors = selectors(&expression);
        assert!(!selectors.is_empty(), "{expression}");
        for (metric, labels) in selectors {
            metrics += 1;
            let Some(row) = row(metric).or_else(|| row(metric.strip_suffix("_bucket")?)) else {
                panic!("{metric} is not in docs/observability.md: {expression}");
            };
            for label in labels {
                assert!(row[1].contains(&format!("`{label}`")), "{metric} has no label {label}: {expression}");
            }
        }
    }
    assert!(metrics > 30, "{metrics}");
}

#[test]
fn the_dashboard_works_with_any_data_source_and_policy() {
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&Value> = variables.iter().map(|variable| &variable["name"]).collect();
    assert_eq!(names, ["datasource", "policy"]);
    assert_eq!(variables[1]["definition"], "label_values(kubewarden_policy_evaluations_total, policy_name)");
    let mut ids = BTreeSet::new();
    for panel in panels() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64()), "{title}");
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title}");
        for query in panel["targets"].as_array().unwrap() {
            assert_eq!(query["datasource"]["uid"], "${datasource}", "{title}");
            let expression = query["expr"].as_str().unwrap();
            for (metric, labels) in selectors(expression) {
                let name = if metric.starts_with("apiserver") { "name" } else { "policy_name" };
                assert!(labels.contains(&name), "{title}: {metric}");
            }
            assert!(expression.contains("$policy") || expression.contains("${policy}"), "{title}");
        }
    }
}

#[test]
fn every_alert_says_what_to_do_and_is_tested() {
    let tests = text("deploy/observability/prometheus-rules_test.yaml");
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        for key in ["summary", "description", "action", "runbook_url"] {
            assert!(alert["annotations"][key].is_string(), "{name} has no {key}");
        }
        let row = row(name).unwrap_or_else(|| panic!("{name} is not in docs/observability.md"));
        assert_eq!(alert["labels"]["severity"], row[1].as_str(), "{name}");
        assert!(tests.contains(&format!("alertname: {name}}}")), "no test says when {name} is quiet");
        let fires = tests.contains(&format!("alertname=\"{name}\"")) || tests.contains(&format!("alertname: {name}\n"));
        assert!(fires, "no test says when {name} fires");
    }
    let listed = rows().into_iter().filter(|row| row[0].starts_with("`VMFeatureManager")).count();
    assert_eq!(listed, alerts().len());
}

/// The directives in the list of docs/usage.md.
#[test]
fn the_columns_show_every_directive() {
    let file = text("deploy/observability/vms.columns");
    let lines: Vec<Vec<&str>> = file.lines().map(|line| line.split_whitespace().collect()).collect();
    let [heads, columns] = &lines[..] else {
        panic!("a line of heads and one of columns: {file}");
    };
    assert_eq!(heads.len(), columns.len());
    let usage = text("docs/usage.md");
    let directives: Vec<&str> = usage.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let mut expected = vec![".metadata.namespace".to_owned(), ".metadata.name".to_owned()];
    for directive in &directives {
        let key = |end: &str| format!(r".metadata.annotations.vm-feature-manager\.io/{directive}{end}");
        expected.extend(["", "-applied", "-error"].map(key));
    }
    assert_eq!(*columns, expected, "deploy/observability/vms.columns and the directives in docs/usage.md");
    assert!(directives.len() >= 4);
}

#[test]
fn every_line_of_the_log_is_on_the_page() {
    let mut messages = BTreeSet::new();
    for file in ["src/policy.rs", "src/evaluation/mod.rs"] {
        let source = text(file);
        let calls = source.lines().filter(|line| ["info!(", "warn!("].iter().any(|call| line.contains(call)));
        messages.extend(calls.map(|line| line.split('"').nth(1).unwrap().to_owned()));
    }
    assert!(messages.len() >= 7, "{messages:?}");
    for message in messages {
        assert!(row(&message).is_some(), "{message:?} is not in docs/observability.md");
    }
}
