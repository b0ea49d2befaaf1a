//! JSONPath in kubectl's notation, `{.spec.template.spec.nodeSelector}`, with the semantics of RFC 9535.

use serde_json::Value;
use serde_json_path::JsonPath;

/// An expression that is valid.
#[derive(Debug, Clone)]
pub struct Expression(JsonPath);

impl Expression {
    /// Reads an expression. The braces around it and the `$` before it are optional, and `\.` is a dot in a key, as in
    /// `.metadata.annotations.vm-feature-manager\.io/feature`.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let invalid = || {
            format!(
                "{text}: this is no expression; write one such as {{.spec.template.spec.nodeSelector}}, with every brace, bracket \
                 and quotation mark closed"
            )
        };
        if text.starts_with('{') != text.ends_with('}') || ["", "{}"].contains(&text) {
            return Err(invalid());
        }
        let bare = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text).trim();
        if bare.contains("}{") || bare.starts_with("range ") {
            return Err(format!("{text}: only one expression is taken, without text around it and without range"));
        }
        let standard = to_standard(bare);
        let path = JsonPath::parse(&standard).map_err(|_| invalid())?;
        Ok(Self(path))
    }

    /// The values at the path, separated by spaces: strings as they are, anything else as JSON. Empty if there are none.
    pub fn evaluate(&self, object: &Value) -> String {
        let values = self.0.query(object).all().into_iter();
        let texts = values.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        texts.collect::<Vec<_>>().join(" ")
    }
}

/// The expression with `$` before it and all keys in brackets, because RFC 9535 allows fewer characters in a key after a dot.
fn to_standard(text: &str) -> String {
    let mut standard = "$".to_owned();
    let mut rest = text.strip_prefix('$').unwrap_or(text);
    if !rest.is_empty() && !rest.starts_with(['.', '[']) {
        rest = text;
        standard.push('.');
    }
    while let Some(first) = rest.chars().next() {
        if first == '[' {
            let end = end_of_bracket(rest);
            standard.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        if let Some(after) = rest.strip_prefix("..") {
            standard.push_str("..");
            rest = after;
            if rest.starts_with('[') {
                continue;
            }
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
        }
        let (key, after) = split_key(rest);
        if key.is_empty() && standard != "$" {
            // A dot without a key is not valid in RFC 9535, either.
            standard.push_str("[]");
            break;
        }
        if standard.ends_with("$.") {
            standard.pop();
        }
        match key.as_str() {
            "*" => standard.push_str("[*]"),
            key => standard.push_str(&format!("['{}']", key.replace('\\', "\\\\").replace('\'', "\\'"))),
        }
        if after.len() == rest.len() {
            break;
        }
        rest = after;
    }
    standard
}

/// The key up to the next dot or bracket, with `\.` as a dot, and the rest of the text.
fn split_key(text: &str) -> (String, &str) {
    let mut key = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if chars.peek().is_some_and(|(_, next)| *next == '.') => {
                chars.next();
                key.push('.');
            }
            '.' | '[' => return (key, &text[at..]),
            c => key.push(c),
        }
    }
    (key, "")
}

/// The position at which the bracket at the start of the text is closed. Brackets in quotes and nested brackets do not count.
fn end_of_bracket(text: &str) -> usize {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::as_kubectl("{.spec.cpu.cores}", "2")]
    #[case::without_braces(".spec.cpu.cores", "2")]
    #[case::without_a_dot("spec.cpu.cores", "2")]
    #[case::of_the_standard("$.spec.cpu.cores", "2")]
    #[case::text("{.metadata.name}", "vm")]
    #[case::object("{.spec.cpu}", r#"{"cores":2}"#)]
    #[case::dot_in_a_key(r"{.metadata.annotations.vm-feature-manager\.io/feature}", "enabled")]
    #[case::brackets("{.metadata.annotations['vm-feature-manager.io/feature']}", "enabled")]
    #[case::index("{.spec.devices[0].name}", "a")]
    #[case::all("{.spec.devices[*].name}", "a b]")]
    #[case::star("{.spec.devices.*.name}", "a b]")]
    #[case::filter(r#"{.spec.devices[?(@.name=="b]")].resource}"#, "r")]
    #[case::anywhere("{..cores}", "2")]
    #[case::nothing("{.spec.nodeSelector}", "")]
    #[case::quote("{.spec.o'clock}", "1")]
    fn what_is_at_a_path(#[case] expression: &str, #[case] value: &str) {
        let object = json!({
            "metadata": {"name": "vm", "annotations": {"vm-feature-manager.io/feature": "enabled"}},
            "spec": {"cpu": {"cores": 2}, "devices": [{"name": "a"}, {"name": "b]", "resource": "r"}], "o'clock": 1},
        });
        assert_eq!(Expression::parse(expression).map(|e| e.evaluate(&object)), Ok(value.to_owned()));
    }

    #[rstest]
    #[case::bracket("{.spec.devices[}", "every brace, bracket and quotation mark closed")]
    #[case::filter("{.spec.devices[?(]}", "this is no expression")]
    #[case::open_brace("{.spec", "{.spec: this is no expression")]
    #[case::closing_brace(".spec}", "this is no expression")]
    #[case::filter_and_brace("{.a[?(@.b==1)", "this is no expression")]
    #[case::quote("{.a['b]}", "this is no expression")]
    #[case::empty("{}", "this is no expression")]
    #[case::no_key("{.a..}", "this is no expression")]
    #[case::range("{range .items[*]}{.name}{end}", "only one expression")]
    fn what_is_not_an_expression(#[case] expression: &str, #[case] part: &str) {
        let error = Expression::parse(expression).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}
