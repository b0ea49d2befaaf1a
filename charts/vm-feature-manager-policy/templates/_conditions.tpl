{{/*
Whether an object is one that the policy may have to do with: of the new and the old object, as a directive that is gone is
taken back. What is not there must not be asked for, or the condition fails.
*/}}
{{- define "vm-feature-manager.concerns" -}}
{{- $ours := "exists(k, k.startsWith('vm-feature-manager.io/'))" -}}
[object, oldObject].exists(o, o != null && (
  (has(o.metadata.annotations) && o.metadata.annotations.{{ $ours }})
{{- if eq .configSource "labels" }}
  || (has(o.metadata.labels) && o.metadata.labels.{{ $ours }})
{{- end }}
{{- if .userData.enabled }}
  || (has(o.spec) && has(o.spec.template) && has(o.spec.template.spec) && has(o.spec.template.spec.volumes)
      && o.spec.template.spec.volumes.exists(v, has(v.cloudInitNoCloud) || has(v.cloudInitConfigDrive)))
{{- end }}
))
{{- end }}
