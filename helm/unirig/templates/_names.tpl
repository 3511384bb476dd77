{{/* Names, labels and images. "part" is (dict "root" $ "name" "gateway"): one component of the chart. */}}

{{- define "unirig.prefix" -}}
{{- $name := default "unirig" .Values.nameOverride -}}
{{- $whole := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $whole .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "unirig.name" -}}
{{ include "unirig.prefix" .root }}-{{ .name }}
{{- end }}

{{/* Never change within a release: Deployments refuse it. */}}
{{- define "unirig.selector" -}}
app.kubernetes.io/name: unirig
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- define "unirig.labels" -}}
{{ include "unirig.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "unirig.metadata" -}}
name: {{ include "unirig.name" . }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "unirig.labels" . | nindent 2 }}
{{- end }}

{{/* An image of ours. */}}
{{- define "unirig.image" -}}
{{- $all := .root.Values.image -}}
{{- $own := (index .root.Values .name).image -}}
{{- with $all.registry }}{{ . }}/{{ end -}}
{{ $own.repository }}:{{ coalesce $own.tag $all.tag .root.Chart.AppVersion }}
{{- with $own.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* An image by others, named whole. */}}
{{- define "unirig.otherImage" -}}
{{ .repository }}:{{ .tag }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}
