//! The log lines of a request, to look at.

use std::fmt::{Arguments, Write};
use std::sync::{Arc, Mutex, PoisonError};

use slog::{Drain, KV, Key, Never, OwnedKVList, Record, Serializer};

/// Keeps each line with its fields.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<String>>);

impl Lines {
    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drain for Lines {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let mut fields = Fields(format!("{} {}", record.level(), record.msg()));
        let written = record.kv().serialize(record, &mut fields);
        written.and_then(|()| values.serialize(record, &mut fields)).expect("written to memory");
        fields.0.push('\n');
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(&fields.0);
        Ok(())
    }
}

struct Fields(String);

impl Serializer for Fields {
    fn emit_arguments(&mut self, key: Key, value: &Arguments<'_>) -> slog::Result {
        Ok(write!(self.0, " {key}={value}")?)
    }
}
