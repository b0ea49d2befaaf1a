//! Log lines on their way to the Kubewarden host.
//!
//! The wire format is that of the SDK's `KubewardenDrain`, which puts each line into a JSON tree first; that alone is a
//! tenth of the module.

use std::fmt;

use slog::{Drain, Key, Level, Never, OwnedKVList, Record};

use crate::json::{Json, Members};

/// Sends log lines to the host; one that it does not take is lost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HostDrain;

impl Drain for HostDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        // A line that cannot be written or sent must not stop the request.
        if let Ok(line) = to_json(record, values) {
            let _ = wapc_guest::host_call("kubewarden", "tracing", "log", line.as_bytes());
        }
        Ok(())
    }
}

/// The line as the host reads it: the level, the message, and the fields beside them.
fn to_json(record: &Record<'_>, values: &OwnedKVList) -> Result<String, slog::Error> {
    use slog::KV as _;

    let mut fields = Fields(Vec::new());
    fields.text("level", level(record.level()).to_owned());
    fields.text("message", record.msg().to_string());
    record.kv().serialize(record, &mut fields)?;
    values.serialize(record, &mut fields)?;
    Ok(Json::Object(fields.0).to_text())
}

/// The host's word for a level.
fn level(level: Level) -> &'static str {
    match level {
        Level::Critical | Level::Error => "error",
        Level::Warning => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// The members of the line.
struct Fields(Members<'static>);

impl Fields {
    fn text(&mut self, key: &str, value: String) {
        self.0.push((key.to_owned().into(), value.into()));
    }
}

impl slog::Serializer for Fields {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.text(key.as_ref(), value.to_string());
        Ok(())
    }

    fn emit_str(&mut self, key: Key, value: &str) -> slog::Result {
        self.text(key.as_ref(), value.to_owned());
        Ok(())
    }

    // Nothing is logged as a structure, a floating-point number or one of 128 bits; the code that would write one is large.
    fn emit_serde(&mut self, _: Key, _: &dyn slog::SerdeValue) -> slog::Result {
        Ok(())
    }

    fn emit_u128(&mut self, _: Key, _: u128) -> slog::Result {
        Ok(())
    }

    fn emit_i128(&mut self, _: Key, _: i128) -> slog::Result {
        Ok(())
    }

    fn emit_f32(&mut self, _: Key, _: f32) -> slog::Result {
        Ok(())
    }

    fn emit_f64(&mut self, _: Key, _: f64) -> slog::Result {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slog::{Logger, info, o, warn};
    use std::sync::{Arc, Mutex};

    struct Lines(Arc<Mutex<Vec<String>>>);

    impl Drain for Lines {
        type Ok = ();
        type Err = Never;

        fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
            let line = to_json(record, values).unwrap();
            self.0.lock().unwrap().push(line);
            Ok(())
        }
    }

    #[test]
    fn a_line_is_json_as_the_host_reads_it() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let log = Logger::root(Lines(Arc::clone(&lines)), o!("common" => "c"));
        warn!(log, "a \"b\" {}", 1; "text" => "t\n", "shown" => %"s", "number" => 7);
        info!(log, "c");
        assert_eq!(
            *lines.lock().unwrap(),
            [
                r#"{"level":"warning","message":"a \"b\" 1","number":"7","shown":"s","text":"t\n","common":"c"}"#,
                r#"{"level":"info","message":"c","common":"c"}"#,
            ]
        );
    }
}
