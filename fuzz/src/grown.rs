//! Large requests, made of the seeds: parts of a virtual machine, of its record and of the user are repeated. The test of
//! the cost evaluates them in the module, because only there the cost can be counted.

use serde_json::{Map, Value};

/// Random numbers, the same for the same start. Source: splitmix64.
pub struct Random(pub u64);

impl Random {
    /// A number below the limit, which must not be zero.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 33).expect("31 bits") % limit
    }

    fn one<'i, T>(&mut self, items: &'i [T]) -> Option<&'i T> {
        (!items.is_empty()).then(|| &items[self.below(items.len())])
    }
}

/// How often something is repeated: below and above the policy's limits.
const TIMES: [usize; 8] = [2, 8, 60, 250, 290, 1000, 5000, 40_000];

/// Makes a payload larger, to at most about this many bytes.
pub fn grown(payload: &[u8], random: &mut Random, bytes: usize) -> Vec<u8> {
    let Ok(mut payload) = serde_json::from_slice::<Value>(payload) else { return payload.to_vec() };
    for _ in 0..=random.below(4) {
        let size = payload.to_string().len();
        let Some(left) = bytes.checked_sub(size) else { break };
        let parts = parts(&payload["request"]["object"]);
        let part = random.one(&parts).cloned().unwrap_or_default();
        let (times, are_equal) = (*random.one(&TIMES).unwrap_or(&2), random.below(2) == 0);
        let is_in_both = payload["request"]["oldObject"].is_object() && random.below(3) > 0;
        for object in if is_in_both { &["object", "oldObject"][..] } else { &["object"] } {
            let Some(value) = payload["request"][object].pointer_mut(&part) else { continue };
            repeat(value, random, times, left / 2, are_equal);
        }
    }
    payload.to_string().into_bytes()
}

/// The JSON pointers to all lists, objects and texts. Those of the policy's own keys come several times.
fn parts(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut add = |key: String, value: &Value| {
        let times = if key.contains("vm-feature-manager.io") { 8 } else { 1 };
        let pointer = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
        for part in parts(value) {
            (0..times).for_each(|_| found.push(format!("{pointer}{part}")));
        }
    };
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(index, item)| add(index.to_string(), item)),
        Value::Object(members) => members.iter().for_each(|(key, member)| add(key.clone(), member)),
        Value::String(_) => {}
        _ => return found,
    }
    found.push(String::new());
    found
}

/// Repeats the items of a list, the members of an object, or a text. A text that is JSON is repeated as JSON.
fn repeat(value: &mut Value, random: &mut Random, times: usize, bytes: usize, are_equal: bool) {
    let times = times.min(bytes / (value.to_string().len() + 8)).max(1);
    let numbered = |value: &Value, number: usize| if are_equal { value.clone() } else { with_number(value, number) };
    match value {
        Value::Array(items) => {
            let all = (0..times).flat_map(|number| items.iter().map(move |item| numbered(item, number)));
            *items = all.collect();
        }
        Value::Object(members) => {
            let all = (0..times).flat_map(|number| members.iter().map(move |(key, it)| (key, number, it)));
            let key = |key: &str, number| if number == 0 { key.to_owned() } else { format!("{key}{number}") };
            let all = all.map(|(name, number, it)| (key(name, number), numbered(it, number)));
            *members = all.collect::<Map<String, Value>>();
        }
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(mut json) if json.is_array() || json.is_object() => {
                let parts = parts(&json);
                let part = random.one(&parts).and_then(|part| json.pointer_mut(part));
                part.into_iter().for_each(|part| repeat(part, random, times, bytes / 2, are_equal));
                *text = json.to_string();
            }
            _ => *text = text.repeat(times),
        },
        _ => {}
    }
}

/// The value with a number at the end of its texts.
fn with_number(value: &Value, number: usize) -> Value {
    match value {
        Value::String(text) => Value::String(format!("{text}{number}")),
        Value::Array(items) => items.iter().map(|item| with_number(item, number)).collect(),
        Value::Object(members) => {
            let members = members.iter().map(|(key, member)| (key.clone(), with_number(member, number)));
            Value::Object(members.collect())
        }
        other => other.clone(),
    }
}
