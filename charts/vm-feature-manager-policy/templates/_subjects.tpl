{{/*
The namespace of the account that policy-server runs as: exactly the one that is set, except if that is the default, and the chart
finds the account in the namespace into which Rancher installs Kubewarden. Without a cluster to ask, as in helm template and Argo CD,
it finds nothing. A tenant may have made the account in one of these namespaces. Kubewarden's is the one with a service that webhook
configurations name, because only administrators can write these.
*/}}
{{- define "vm-feature-manager.namespace" -}}
{{- $name := .serviceAccount | default "policy-server" }}
{{- $set := .namespace | default "kubewarden" }}
{{- $rancher := "cattle-kubewarden-system" }}
{{- $namespace := $set }}
{{- if and (eq $set "kubewarden") (lookup "v1" "ServiceAccount" $rancher $name) }}
{{- $named := list }}
{{- range list "ValidatingWebhookConfiguration" "MutatingWebhookConfiguration" }}
{{- range (lookup "admissionregistration.k8s.io/v1" . "" "").items }}
{{- range .webhooks }}
{{- with .clientConfig.service }}
{{- $named = append $named .namespace }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $isOfRancher := has $rancher $named }}
{{- $isOfSet := has $set $named }}
{{- $isOnly := not (lookup "v1" "ServiceAccount" $set $name) }}
{{- if ternary $isOnly $isOfRancher (eq $isOfRancher $isOfSet) }}
{{- $namespace = $rancher }}
{{- end }}
{{- end }}
{{- $namespace }}
{{- end }}

{{/* The account that gets the permissions. Only one, and only where policy-server runs. */}}
{{- define "vm-feature-manager.subjects" -}}
- {kind: ServiceAccount, name: {{ .serviceAccount | default "policy-server" }}, namespace: {{ include "vm-feature-manager.namespace" . }}}
{{- end }}
