{{/*
Whether the new or the old object concerns the policy. The old one counts, too, because the policy removes what a removed directive
added. The policy's record is an annotation of the template, where a directive may be, too. The expression must not read a field that
does not exist, or the condition fails. The template's metadata and its annotations may also be null. Above 500 entries, the policy
looks itself: the time that the API server takes for exists grows with the square of their number, to seconds for 40,000.
*/}}
{{- define "vm-feature-manager.concerns" -}}
{{- $many := "size() > 500" -}}
{{- $ours := "exists(k, k.startsWith('vm-feature-manager.io/'))" -}}
[object, oldObject].exists(o, o != null && (
  (has(o.metadata.annotations) && (o.metadata.annotations.{{ $many }} || o.metadata.annotations.{{ $ours }}))
  || (has(o.spec) && has(o.spec.template) && has(o.spec.template.metadata) && o.spec.template.metadata != null
      && has(o.spec.template.metadata.annotations) && o.spec.template.metadata.annotations != null
      && (o.spec.template.metadata.annotations.{{ $many }} || o.spec.template.metadata.annotations.{{ $ours }}))
{{- if eq .configSource "labels" }}
  || (has(o.metadata.labels) && (o.metadata.labels.{{ $many }} || o.metadata.labels.{{ $ours }}))
{{- end }}
{{- if .userData.enabled }}
  || (has(o.spec) && has(o.spec.template) && has(o.spec.template.spec) && has(o.spec.template.spec.volumes)
      && (o.spec.template.spec.volumes.{{ $many }}
          || o.spec.template.spec.volumes.exists(v, has(v.cloudInitNoCloud) || has(v.cloudInitConfigDrive))))
{{- end }}
))
{{- end }}
