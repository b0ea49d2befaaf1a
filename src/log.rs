//! The policy's log: what users wrote is shortened in it, and cannot hide there.

use std::fmt::Arguments;

use slog::{BorrowedKV, Drain, KV, Key, Logger, Never, OwnedKVList, Record, RecordStatic, Serializer};

use crate::text;

/// Passes log lines on to a logger, with every field escaped and shortened.
pub(crate) struct Visible(pub(crate) Logger);

impl Drain for Visible {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let of_line = RecordStatic { location: record.location(), tag: record.tag(), level: record.level() };
        let fields = Fields(record);
        Drain::log(&self.0, &Record::new(&of_line, record.msg(), BorrowedKV(&fields)), values)
    }
}

/// The fields of a log line.
struct Fields<'r>(&'r Record<'r>);

impl KV for Fields<'_> {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        self.0.kv().serialize(self.0, &mut Escaped(serializer))
    }
}

/// Writes each field as text: the policy logs nothing else.
struct Escaped<'s>(&'s mut dyn Serializer);

impl Serializer for Escaped<'_> {
    fn emit_arguments(&mut self, key: Key, value: &Arguments<'_>) -> slog::Result {
        let value = value.to_string();
        // The fields of the request are names; the others may be sentences.
        let is_name = ["request_uid", "namespace", "name"].contains(&key);
        let value = if is_name { text::name(&value) } else { text::line(&value) };
        self.0.emit_str(key, &value)
    }
}
