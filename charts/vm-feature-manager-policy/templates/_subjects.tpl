{{/*
The accounts that policy-server may run as. Rancher installs Kubewarden into one namespace and Kubewarden's own instructions into
another: whichever has the account gets the rights, and both where neither has it yet. Any other namespace is taken as it is set.
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
