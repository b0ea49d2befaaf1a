//! The Kubewarden host's capability `kubernetes`: how the policy calls it, and what its errors mean.

use kubewarden_policy_sdk::host_capabilities::kubernetes::{CanIRequest, GetResourceRequest, ListAllResourcesRequest};
use serde::Serialize;

use super::Cluster;
use super::error::{Account, ClusterError};

/// The cluster behind the Kubewarden host's capability `kubernetes`.
///
/// The requests are the SDK's types. The SDK's own functions are not used, because each parses its answer immediately.
/// Here, the answer is kept as bytes until a caller parses it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HostCluster;

impl Cluster for HostCluster {
    fn get(&self, request: &GetResourceRequest) -> Result<Vec<u8>, ClusterError> {
        call("get_resource", request)
    }

    fn list(&self, request: &ListAllResourcesRequest) -> Result<Vec<u8>, ClusterError> {
        call("list_resources_all", request)
    }

    fn can_i(&self, request: &CanIRequest) -> Result<Vec<u8>, ClusterError> {
        call("can_i", request)
    }
}

/// Calls the host.
fn call(operation: &str, request: &impl Serialize) -> Result<Vec<u8>, ClusterError> {
    let request = serde_json::to_vec(request).map_err(|_| ClusterError::Unavailable)?;
    let answer = wapc_guest::host_call("kubewarden", "kubernetes", operation, &request);
    answer.map_err(|error| of_host(&error.to_string()))
}

/// Turns the host's error text into a [`ClusterError`]. Only the first line counts, because a stack trace may follow.
///
/// The texts come from Kubewarden's `policy-evaluator`: `callback_handler` and `runtimes/callback.rs`.
fn of_host(text: &str) -> ClusterError {
    let line = text.lines().next().unwrap_or_default();
    let has = |part: &str| line.contains(part);
    if has("unknown operation") || has("unknown namespace") || has("host capability. ") {
        ClusterError::NotOffered
    } else if has("not been granted") {
        ClusterError::NotDeclared
    } else if has("Cannot find resource ") || (has("error finding resource") && has("404")) {
        ClusterError::KindNotServed
    } else if has("Cannot find ") && has(" named '") {
        ClusterError::NotFound
    } else if has("is forbidden") || has("code: 403") {
        ClusterError::Forbidden(named_account(line))
    } else if has("MethodNotAllowed") || has("code: 405") {
        ClusterError::Unsupported
    } else {
        ClusterError::Unavailable
    }
}

/// The account that the API server's refusal names: `User "system:serviceaccount:kubewarden:policy-server" cannot get ...`.
fn named_account(line: &str) -> Option<Account> {
    let (_, rest) = line.split_once("User \"")?;
    let (name, _) = rest.split_once("\" cannot ")?;
    Account::of_user(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const SERVICE_ERROR: &str = "Host error: Callback evaluation failure: ServiceError: client error (Connect)\n\n\
        Caused by:\n    0: client error (Connect)\n    1: tcp connect error\n    2: Connection refused (os error 111)";

    const BACKTRACE: &str = "Host error: Callback evaluation failure: Cannot find v1/ConfigMap named 'missing' inside of \
        namespace 'Some(\"ns1\")'\n\nStack backtrace:\n   0: is forbidden::code: 403\n   1: has not been granted access";

    #[rstest]
    #[case::object(
        "Host error: Callback evaluation failure: Cannot find v1/ConfigMap named 'missing' inside of namespace \
         'Some(\"ns1\")'",
        ClusterError::NotFound
    )]
    #[case::object_of_cluster_scope(
        "Host error: Callback evaluation failure: Cannot find v1/Node named 'missing' inside of namespace 'None'",
        ClusterError::NotFound
    )]
    #[case::object_with_backtrace(BACKTRACE, ClusterError::NotFound)]
    #[case::kind_of_a_group(
        "Host error: Callback evaluation failure: Cannot find resource kubevirt.io/v1/Nope",
        ClusterError::KindNotServed
    )]
    #[case::group(
        "Host error: Callback evaluation failure: error finding resource kubevirt.io/v1 / KubeVirt: ApiError: 404 page \
         not found\n: Failed to parse error data (Status { status: Some(Failure), code: 404, message: \"404 page not \
         found\\n\" })",
        ClusterError::KindNotServed
    )]
    #[case::discovery_forbidden(
        "Host error: Callback evaluation failure: error finding resource kubevirt.io/v1 / KubeVirt: ApiError: is \
         forbidden: Forbidden (Status { code: 403 })",
        ClusterError::Forbidden(None)
    )]
    #[case::allow_list(
        "Host error: Policy has not been granted access to Kubernetes v1/Secret resources. The violation has been \
         reported.",
        ClusterError::NotDeclared
    )]
    #[case::host_capability(
        "Host error: Policy has not been granted access to the 'kubernetes/get_resource' host capability. The violation \
         has been reported.",
        ClusterError::NotOffered
    )]
    #[case::rbac(
        "Host error: Callback evaluation failure: ApiError: configmaps \"x\" is forbidden: User \
         \"system:serviceaccount:kubewarden:policy-server\" cannot get resource \"configmaps\" in API group \"\" in the \
         namespace \"ns1\": Forbidden (Status { status: Some(Failure), code: 403 })\n\nCaused by:\n    configmaps \"x\" \
         is forbidden",
        ClusterError::Forbidden(Account::of_user("system:serviceaccount:kubewarden:policy-server"))
    )]
    #[case::unreachable(SERVICE_ERROR, ClusterError::Unavailable)]
    #[case::no_namespace(
        "Host error: Callback evaluation failure: Resource v1/ConfigMap is namespaced, but no namespace was provided",
        ClusterError::Unavailable
    )]
    #[case::no_client(
        "Host error: Callback evaluation failure: kube::Client was not initialized properly",
        ClusterError::Unavailable
    )]
    #[case::old_host("Host error: unknown operation: can_i", ClusterError::NotOffered)]
    #[case::older_host("Host error: unknown namespace: kubernetes", ClusterError::NotOffered)]
    #[case::something_else_that_is_not_found(
        "Host error: Callback evaluation failure: Cannot find the kubeconfig",
        ClusterError::Unavailable
    )]
    #[case::something_else_that_has_a_name(
        "Host error: Callback evaluation failure: the worker named 'w' is gone",
        ClusterError::Unavailable
    )]
    #[case::overload("Host error: Error sending request over callback channel: Full(..)", ClusterError::Unavailable)]
    #[case::replay(
        "Host error: Callback evaluation failure: the list of recorded responses is empty",
        ClusterError::Unavailable
    )]
    #[case::other_replay(
        "Host error: Callback evaluation failure: Replay error: unexpected request. Was expecting A, got B instead",
        ClusterError::Unavailable
    )]
    #[case::nothing("", ClusterError::Unavailable)]
    fn texts_of_the_host(#[case] text: &str, #[case] error: ClusterError) {
        assert_eq!(of_host(text), error);
        let wrapped = format!("error invoking host capability kubernetes.get_resource: {text}");
        assert_eq!(of_host(&wrapped), error, "as the SDK wraps it");
    }
}
