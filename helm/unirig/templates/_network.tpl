{{/* Peers and rules of NetworkPolicies. */}}

{{- define "unirig.policyHead" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "unirig.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "unirig.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
{{- end }}

{{/* The pods of one part. */}}
{{- define "unirig.peer" -}}
- podSelector:
    matchLabels:
      {{- include "unirig.selector" . | nindent 6 }}
{{- end }}

{{/* Ingress to "port" from the parts "from". */}}
{{- define "unirig.fromParts" -}}
- from:
    {{- range .from }}
    {{- include "unirig.peer" (dict "root" $.root "name" .) | nindent 4 }}
    {{- end }}
  ports:
    - {protocol: TCP, port: {{ .port }}}
{{- end }}

{{- define "unirig.fromMonitoring" -}}
- from:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .root.Values.networkPolicy.monitoringNamespace }}
  ports:
    - {protocol: TCP, port: {{ .port }}}
{{- end }}

{{/* Egress to "port" of the part "to". */}}
{{- define "unirig.toPart" -}}
- to:
    {{- include "unirig.peer" (dict "root" .root "name" .to) | nindent 4 }}
  ports:
    - {protocol: TCP, port: {{ .port }}}
{{- end }}

{{- define "unirig.toOutside" -}}
- to:
    - ipBlock:
        cidr: {{ .cidr }}
  ports:
    - {protocol: TCP, port: {{ .port }}}
{{- end }}

{{- define "unirig.toNames" -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end }}

{{- define "unirig.toNats" -}}
{{- if .Values.nats.enabled -}}
{{ include "unirig.toPart" (dict "root" . "to" "nats" "port" 4222) }}
{{- else -}}
{{ include "unirig.toOutside" .Values.nats.external }}
{{- end -}}
{{- end }}

{{- define "unirig.toRedis" -}}
{{- if .Values.redis.enabled -}}
{{ include "unirig.toPart" (dict "root" . "to" "redis" "port" 6379) }}
{{- else -}}
{{ include "unirig.toOutside" .Values.redis.external }}
{{- end -}}
{{- end }}

{{/* Egress to "port" of the collector of traces. */}}
{{- define "unirig.toCollector" -}}
{{- $tracing := .root.Values.tracing -}}
{{- if $tracing.namespace -}}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ $tracing.namespace }}
  ports:
    - {protocol: TCP, port: {{ .port }}}
{{- else -}}
{{ include "unirig.toOutside" (dict "cidr" $tracing.cidr "port" .port) }}
{{- end -}}
{{- end }}

{{/* Where a service sends its spans. */}}
{{- define "unirig.toTraces" -}}
{{- if .Values.tracing.endpoint -}}
{{ include "unirig.toCollector" (dict "root" . "port" .Values.tracing.port) }}
{{- end -}}
{{- end }}
