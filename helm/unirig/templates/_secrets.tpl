{{/* Secrets: made once and kept, or from outside. */}}

{{/* The value of a key in a Secret of this release, or a new one of 48 letters and digits. */}}
{{- define "unirig.keptOrNew" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace (include "unirig.name" .) -}}
{{- $kept := dig "data" .key "" (default dict $found) -}}
{{- if $kept }}{{ $kept | b64dec }}{{ else }}{{ randAlphaNum 48 }}{{ end -}}
{{- end }}

{{- define "unirig.natsSecret" -}}
{{- $nats := .Values.nats -}}
{{- $outside := ternary $nats.existingSecret $nats.external.existingSecret $nats.enabled -}}
{{- default (include "unirig.name" (dict "root" . "name" "nats")) $outside -}}
{{- end }}

{{- define "unirig.redisSecret" -}}
{{- $redis := .Values.redis -}}
{{- $outside := ternary $redis.existingSecret $redis.external.existingSecret $redis.enabled -}}
{{- default (include "unirig.name" (dict "root" . "name" "redis")) $outside -}}
{{- end }}

{{/* An environment variable from a Secret: "variable", "secret", "key". */}}
{{- define "unirig.secretVariable" -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end }}

{{- define "unirig.natsUrl" -}}
{{ include "unirig.secretVariable" (dict "variable" "NATS_URL" "secret" (include "unirig.natsSecret" .) "key" "url") }}
{{- end }}

{{- define "unirig.redisUrl" -}}
{{ include "unirig.secretVariable" (dict "variable" "REDIS_URL" "secret" (include "unirig.redisSecret" .) "key" "url") }}
{{- end }}

{{/* How many copies NATS keeps of every stream. */}}
{{- define "unirig.streamReplicas" -}}
{{- if .Values.nats.enabled -}}
{{ min 3 .Values.nats.replicas }}
{{- else -}}
{{ .Values.nats.external.streamReplicas }}
{{- end -}}
{{- end }}

{{/* Where KEDA asks for the queue's length. It puts a server's name before the host, hence the headless Service. */}}
{{- define "unirig.natsMonitoring" -}}
{{- if .Values.nats.enabled -}}
{{ include "unirig.prefix" . }}-nats-headless.{{ .Release.Namespace }}.svc:8222
{{- else -}}
{{ required "nats.external.monitoring is needed by keda: the monitoring address of your NATS, \"host:8222\"" .Values.nats.external.monitoring }}
{{- end -}}
{{- end }}

{{- define "unirig.signingKeysSecret" -}}
{{- default (include "unirig.name" (dict "root" . "name" "signing-keys")) .Values.sessions.signingKeys.existingSecret -}}
{{- end }}

{{/* The Secret with the S3 credentials; nothing where the pod's own role is used. */}}
{{- define "unirig.s3Secret" -}}
{{- with .Values.storage -}}
{{- if eq .backend "s3" -}}
{{- if .s3.existingSecret -}}
{{ .s3.existingSecret }}
{{- else if .s3.accessKeyId -}}
{{ include "unirig.name" (dict "root" $ "name" "s3") }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The Secret with the hub's token; nothing where none is needed. */}}
{{- define "unirig.hubSecret" -}}
{{- with .Values.triton.models -}}
{{- if .existingSecret -}}
{{ .existingSecret }}
{{- else if .token -}}
{{ include "unirig.name" (dict "root" $ "name" "hub") }}
{{- end -}}
{{- end -}}
{{- end }}
