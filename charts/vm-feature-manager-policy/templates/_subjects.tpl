{{/*
The accounts that policy-server may run as. Rancher and Kubewarden's own instructions install Kubewarden into different namespaces.
The namespaces that have the account get the permissions, or both if neither has it yet. Any other namespace is used as it is set.
*/}}
{{- define "vm-feature-manager.subjects" -}}
{{- $account := . }}
{{- $known := list "cattle-kubewarden-system" "kubewarden" }}
{{- $namespaces := list $account.namespace }}
{{- if has ($account.namespace | default "kubewarden") $known }}
{{- $namespaces = list }}
{{- range $known }}
{{- if lookup "v1" "ServiceAccount" . $account.serviceAccount }}
{{- $namespaces = append $namespaces . }}
{{- end }}
{{- end }}
{{- $namespaces = $namespaces | default $known }}
{{- end }}
{{- range $namespaces }}
- {kind: ServiceAccount, name: {{ $account.serviceAccount }}, namespace: {{ . }}}
{{- end }}
{{- end }}
