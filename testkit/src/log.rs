//! Collects the log lines of a request.

use std::fmt::Arguments;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};
use slog::{Drain, KV, Key, Never, OwnedKVList, Record, Serializer};

/// Collects log lines. Each is the level, the message, then the fields in the order of their keys.
#[derive(Debug, Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// The lines that were logged so far.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drain for Lines {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let mut fields = Fields(Map::new());
        let written = record.kv().serialize(record, &mut fields);
        written.and_then(|()| values.serialize(record, &mut fields)).expect("written to memory");
        let line = format!("{} {} {}", record.level(), record.msg(), Value::Object(fields.0));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        Ok(())
    }
}

struct Fields(Map<String, Value>);

impl Serializer for Fields {
    fn emit_arguments(&mut self, key: Key, value: &Arguments<'_>) -> slog::Result {
        self.0.insert(key.to_string(), json!(value.to_string()));
        Ok(())
    }
}
