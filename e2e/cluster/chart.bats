#!/usr/bin/env bats
# shellcheck disable=SC2154 # the names that lib.bash exports
# Installs the chart next to the installed policy, under another name, upgrades it with other settings, and uninstalls it. During
# this time, the chart's policy applies only to the tests' namespace, and the installed policy ignores that namespace.

setup_file() {
    load lib
    command -v helm >/dev/null || return 0
    discover
    make_world >&2
    # The registry, the repository and the tag of the installed policy.
    local module
    module=$(jq --raw-output .spec.module <<<"$POLICY_JSON")
    module=${module#registry://}
    jq --null-input --arg name "$RUN" --arg url "$module" --arg server "$SERVER" --argjson policy "$POLICY_JSON" '{
        name: $name,
        global: {cattle: {systemDefaultRegistry: ($url | split("/")[0])}},
        module: ($url | sub("^[^/]*/"; "") | capture("^(?<repository>.*):(?<tag>[^:]*)$")),
        policyServer: $server,
        namespaceSelector: {matchExpressions: [{key: "kubernetes.io/metadata.name", operator: "In", values: [$name]}]},
        settings: ({nestedVirtualization: {cpuVendor: "amd"}} + ($policy.spec.settings | {kubevirt, policyServer} | del(.[] | nulls)))
    }' >"$BATS_FILE_TMPDIR/values.json"
    sees_not "$RUN"
}

teardown_file() {
    load lib
    command -v helm >/dev/null || return 0
    if helm status "$RUN" --namespace "$NAMESPACE" >/dev/null 2>&1; then
        helm uninstall "$RUN" --namespace "$NAMESPACE" >&2 || echo "# helm could not uninstall $RUN; remove it by hand" >&3
    fi
    [ -n "${POLICY_JSON-}" ] || return 0
    kubectl patch clusteradmissionpolicies "$POLICY" --type merge --patch "$(jq '{spec: {namespaceSelector: (.spec.namespaceSelector // null)}}' <<<"$POLICY_JSON")"
    eventually_reloaded
    unmake_world
}

setup() {
    load lib
    cd "$BATS_TEST_DIRNAME/../.." || return
    command -v helm >/dev/null || skip "helm is missing"
    [ -n "${POLICY_SERVER_RELOAD-}" ] || [ -n "$(server_pods)" ] ||
        skip "policy-server is not a pod here; name a command that gives it its policies anew in POLICY_SERVER_RELOAD"
}

# Excludes a namespace from the installed policy.
sees_not() {
    kubectl patch clusteradmissionpolicies "$POLICY" --type merge --patch "$(jq --arg namespace "$1" '{spec: {namespaceSelector: {matchExpressions: (
        (.spec.namespaceSelector.matchExpressions // []) + [{key: "kubernetes.io/metadata.name", operator: "NotIn", values: [$namespace]}])}}}' <<<"$POLICY_JSON")"
    eventually 60 webhook_has "$1"
}

webhook_has() {
    has "$(kubectl get mutatingwebhookconfigurations "clusterwide-$POLICY" --output json)" "$1"
}

# Does what Kubewarden itself does if policy-server is a pod.
eventually_reloaded() {
    [ -z "${POLICY_SERVER_RELOAD-}" ] || hook "$POLICY_SERVER_RELOAD"
}

# A virtual machine whose CPU vendor is only in the settings.
asks() {
    try asks nested-virt "$plain | $(with nested-virt enabled)" | summary
}

makes() {
    same "$(asks)" "$1"
}

# The chart's objects in the cluster.
objects() {
    kubectl get clusteradmissionpolicies,clusterroles,clusterrolebindings,mutatingwebhookconfigurations --output name | grep "$RUN"
    k get roles,rolebindings --output name | grep "$RUN"
}

@test "the chart is installed under another name" {
    makes "" # The installed policy does not look here.
    helm install "$RUN" charts/vm-feature-manager-policy --namespace "$NAMESPACE" --values "$BATS_FILE_TMPDIR/values.json"
    eventually_reloaded
    kubectl wait --for=condition=PolicyActive clusteradmissionpolicies "$RUN" --timeout 3m
    eventually 180 makes $'features: svm=require\napplied: nested-virt=true'
    same "$(objects | sort)" "\
clusteradmissionpolicy.policies.kubewarden.io/$RUN
clusterrole.rbac.authorization.k8s.io/$RUN
clusterrolebinding.rbac.authorization.k8s.io/$RUN
mutatingwebhookconfiguration.admissionregistration.k8s.io/clusterwide-$RUN"
    create kept nested-virt "$plain | $(with nested-virt enabled) | .spec.runStrategy = \"Halted\""
}

@test "an upgrade brings other settings and other rights" {
    helm upgrade "$RUN" charts/vm-feature-manager-policy --namespace "$NAMESPACE" --values "$BATS_FILE_TMPDIR/values.json" \
        --set settings.nestedVirtualization.cpuVendor=intel --set settings.cpuPinning.enabled=false --set settings.hugepages.enabled=false \
        --set "rbac.configMapNamespaces={$NAMESPACE}"
    eventually_reloaded
    eventually 180 makes $'features: vmx=require\napplied: nested-virt=true'
    has "$(objects)" "role.rbac.authorization.k8s.io/$RUN-configmaps"
    same "$(kubectl get clusterroles "$RUN" --output json | jq --compact-output '[.rules[].resources[]] | sort')" \
        '["kubevirts","nodes","pcideviceclaims","pcidevices","subjectaccessreviews","usbdeviceclaims","usbdevices"]'
    # Stored virtual machines do not change until their directives or their template change.
    same "$(stored kept | summary)" $'features: svm=require\napplied: nested-virt=true'
    change kept '{"spec": {"template": {"spec": {"domain": {"cpu": {"cores": 2}}}}}}'
    same "$(stored kept | summary)" $'features: vmx=require\napplied: nested-virt=true'
}

@test "default directives are for virtual machines that nobody annotates" {
    helm upgrade "$RUN" charts/vm-feature-manager-policy --namespace "$NAMESPACE" --values "$BATS_FILE_TMPDIR/values.json" \
        --set settings.nestedVirtualization.cpuVendor=intel --set-json "settings.defaultDirectives={\"$NAMESPACE\": {\"nested-virt\": \"enabled\"}}"
    eventually_reloaded
    same "$(kubectl get clusteradmissionpolicies "$RUN" --output json | jq '.spec.matchConditions')" null
    eventually 180 gets_defaults
}

gets_defaults() {
    has "$(try plain nested-virt "$plain" | summary)" "features: vmx=require"
}

@test "uninstalled, it leaves nothing, and virtual machines stay as they are" {
    helm uninstall "$RUN" --namespace "$NAMESPACE"
    eventually_reloaded
    eventually 120 no_objects
    same "$(helm list --namespace "$NAMESPACE" --short)" ""
    makes ""
    change kept '{"spec": {"template": {"spec": {"domain": {"cpu": {"cores": 3}}}}}}'
    same "$(stored kept | summary)" $'features: vmx=require\napplied: nested-virt=true'
    remove kept
    kubectl wait --for=condition=PolicyActive clusteradmissionpolicies "$POLICY" --timeout 1m
}

no_objects() {
    [ -z "$(objects)" ]
}
