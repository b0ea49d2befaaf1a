//! Talks to a cluster by running kubectl, so that every way to log in works that kubectl knows.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// How many objects a request for a list asks for. A program that starts for each page costs more than a large answer.
const PAGE: usize = 2000;

/// How long kubectl waits for the API server.
const TIMEOUT: &str = "--request-timeout=60s";

/// The kubectl to run, and the cluster to run it for.
#[derive(Debug)]
pub struct Kubectl {
    program: OsString,
    arguments: Vec<OsString>,
    requests: AtomicUsize,
}

/// Why the cluster gives no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// kubectl cannot be started.
    #[error("{program} cannot be started: {error}; install kubectl, or name it in the environment variable KUBECTL")]
    NoKubectl {
        /// The program.
        program: String,
        /// The operating system's error.
        error: String,
    },
    /// There is no such object, or the cluster does not serve the kind.
    #[error("{0}")]
    NotFound(String),
    /// The user of the kubeconfig lacks a permission.
    #[error("{0}; use an account that may, for instance with --context")]
    Forbidden(String),
    /// The object was changed since it was read.
    #[error("{0}")]
    Conflict(String),
    /// A list took so long that its next page is gone.
    #[error("{0}")]
    Expired(String),
    /// Any other error of the API server, or of kubectl.
    #[error("{0}")]
    Other(String),
}

impl Kubectl {
    /// The kubectl in the environment variable `KUBECTL`, or the one in the `PATH`, for a context and a kubeconfig.
    pub fn new(context: Option<&str>, kubeconfig: Option<&PathBuf>) -> Self {
        let named = std::env::var_os("KUBECTL").filter(|program| !program.is_empty());
        let mut arguments = Vec::new();
        if let Some(context) = context {
            arguments.extend(["--context".into(), context.into()]);
        }
        if let Some(kubeconfig) = kubeconfig {
            arguments.extend(["--kubeconfig".into(), kubeconfig.into()]);
        }
        Self { program: named.unwrap_or_else(|| "kubectl".into()), arguments, requests: AtomicUsize::new(0) }
    }

    /// How many requests were sent.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// The namespace of the context.
    ///
    /// # Errors
    /// [`ApiError`] if kubectl does not say.
    pub fn namespace(&self) -> Result<String, ApiError> {
        let output = self.run(&["config", "view", "--minify", "--output=jsonpath={..namespace}"], None)?;
        let namespace = String::from_utf8_lossy(&checked(output)?.0).trim().to_owned();
        Ok(if namespace.is_empty() { "default".to_owned() } else { namespace })
    }

    /// The object at a path of the API.
    ///
    /// # Errors
    /// Any [`ApiError`].
    pub fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.send(&["get", TIMEOUT, "--raw", path], None).map(|(answer, _)| answer)
    }

    /// All objects at a path, page by page. The query is what belongs behind the question mark, or empty. The objects get the
    /// API version and kind of the list, because objects in a list have none.
    ///
    /// # Errors
    /// Any [`ApiError`].
    pub fn list(&self, path: &str, query: &str) -> Result<Vec<Value>, ApiError> {
        match self.pages(path, query) {
            Err(ApiError::Expired(_)) => self.pages(path, query),
            result => result,
        }
    }

    fn pages(&self, path: &str, query: &str) -> Result<Vec<Value>, ApiError> {
        let mut objects = Vec::new();
        let mut page = String::new();
        loop {
            let and = if query.is_empty() { "" } else { "&" };
            let mut list = self.get(&format!("{path}?{query}{and}limit={PAGE}{page}"))?;
            let (version, kind) = (list["apiVersion"].take(), list["kind"].take());
            let Value::Array(items) = list["items"].take() else {
                return Err(ApiError::Other(format!("the API server's answer to {path} is no list")));
            };
            let kind = kind.as_str().map(|kind| Value::from(kind.strip_suffix("List").unwrap_or(kind)));
            objects.extend(items.into_iter().map(|mut object| {
                if object["kind"].is_null() {
                    object["apiVersion"] = version.clone();
                    object["kind"] = kind.clone().unwrap_or_default();
                }
                object
            }));
            match list["metadata"]["continue"].as_str().filter(|next| !next.is_empty()) {
                Some(next) => page = format!("&continue={}", encoded(next)),
                None => return Ok(objects),
            }
        }
    }

    /// Creates an object at a path of the API, and returns the answer.
    ///
    /// # Errors
    /// Any [`ApiError`].
    pub fn create(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.send(&["create", TIMEOUT, "--raw", path, "--filename", "-"], Some(object)).map(|(answer, _)| answer)
    }

    /// Replaces an object with a changed one, if nobody has changed it since it was read: its `resourceVersion` says when
    /// that was. Returns the object as it is stored, and the warnings. With a dry run, the API server and its webhooks do
    /// everything except to store it.
    ///
    /// # Errors
    /// Any [`ApiError`].
    pub fn replace(&self, object: &Value, is_dry_run: bool) -> Result<(Value, Vec<String>), ApiError> {
        let mut arguments = vec!["replace", TIMEOUT, "--output=json", "--filename", "-"];
        arguments.extend(is_dry_run.then_some("--dry-run=server"));
        self.send(&arguments, Some(object))
    }

    fn send(&self, arguments: &[&str], input: Option<&Value>) -> Result<(Value, Vec<String>), ApiError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let (answer, messages) = checked(self.run(arguments, input)?)?;
        let answer = serde_json::from_slice(&answer)
            .map_err(|error| ApiError::Other(format!("the API server's answer is not JSON: {error}")))?;
        let warnings = messages.lines().filter_map(|line| line.strip_prefix("Warning: "));
        Ok((answer, warnings.map(str::to_owned).collect()))
    }

    fn run(&self, arguments: &[&str], input: Option<&Value>) -> Result<Output, ApiError> {
        let failed = |error: std::io::Error| ApiError::NoKubectl {
            program: self.program.to_string_lossy().into_owned(),
            error: error.to_string(),
        };
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn().map_err(failed)?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            // If kubectl ends before it has read everything, its message says why.
            let _ = stdin.write_all(input.to_string().as_bytes());
        }
        child.wait_with_output().map_err(failed)
    }
}

/// A text as part of a query.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// What kubectl printed, and its messages, if it succeeded.
fn checked(output: Output) -> Result<(Vec<u8>, String), ApiError> {
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok((output.stdout, messages)) } else { Err(ApiError::read(&messages)) }
}

impl ApiError {
    /// Reads kubectl's messages. The last line is the one that matters: before it, kubectl may log each attempt.
    fn read(messages: &str) -> Self {
        const OF_SERVER: &str = "Error from server";
        let of_server = messages.find(OF_SERVER).map(|start| messages[start + OF_SERVER.len()..].trim());
        let Some(rest) = of_server else {
            let mut lines = messages.lines().rev().map(str::trim).filter(|line| !line.is_empty());
            let line = lines.next().unwrap_or("kubectl failed without a message");
            return Self::Other(line.strip_prefix("error: ").unwrap_or(line).to_owned());
        };
        let (reason, message) = match rest.strip_prefix(" (").or(rest.strip_prefix('(')) {
            Some(rest) => rest.split_once("): ").unwrap_or(("", rest)),
            None => ("", rest.trim_start_matches(':').trim()),
        };
        let message = message.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        match reason {
            "NotFound" => Self::NotFound(message),
            "Forbidden" => Self::Forbidden(message),
            "Conflict" => Self::Conflict(message),
            "Expired" | "Gone" => Self::Expired(message),
            _ => Self::Other(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::object("Error from server (NotFound): nodes \"x\" not found\n", ApiError::NotFound("nodes \"x\" not found".into()))]
    #[case::two_lines(
        "W1 a warning\nError from server (Forbidden): nodes is forbidden: User \"alice\"\ncannot list it",
        ApiError::Forbidden("nodes is forbidden: User \"alice\" cannot list it".into())
    )]
    #[case::conflict("Error from server (Conflict): it has been modified", ApiError::Conflict("it has been modified".into()))]
    #[case::page_is_gone("Error from server (Expired): too old", ApiError::Expired("too old".into()))]
    #[case::other_reason("Error from server (InternalError): no", ApiError::Other("no".into()))]
    #[case::no_reason("Error from server: no", ApiError::Other("no".into()))]
    #[case::of_kubectl("E1 memcache.go\nerror: context \"x\" does not exist\n\n", ApiError::Other("context \"x\" does not exist".into()))]
    #[case::no_message("", ApiError::Other("kubectl failed without a message".into()))]
    fn messages_of_kubectl(#[case] messages: &str, #[case] error: ApiError) {
        assert_eq!(ApiError::read(messages), error);
    }
}
