{{/* What the pods of all parts have in common. */}}

{{/* The head of a pod's spec. "priority": serving or working. "uid": who runs it. "seconds": from SIGTERM to
     SIGKILL. */}}
{{- define "unirig.podSpec" -}}
{{- $own := index .root.Values .name -}}
serviceAccountName: {{ include "unirig.name" . }}
automountServiceAccountToken: false
# Variables for every Service of the namespace could shadow our settings.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .seconds }}
{{- with include "unirig.priorityClass" . }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .uid }}
  runAsGroup: {{ .uid }}
  fsGroup: {{ .uid }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with $own.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- range $key, $when := dict "kubernetes.io/hostname" .root.Values.topologySpread.nodes "topology.kubernetes.io/zone" .root.Values.topologySpread.zones }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: {{ $when }}
    labelSelector:
      matchLabels:
        {{- include "unirig.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}

{{- define "unirig.priorityClass" -}}
{{- if .root.Values.priorityClasses.create -}}
{{ include "unirig.prefix" .root }}-{{ .priority }}
{{- else -}}
{{ index .root.Values.priorityClasses .priority }}
{{- end -}}
{{- end }}

{{- define "unirig.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* The probes of our own services; all have them on the metrics port. */}}
{{- define "unirig.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
{{- end }}

{{/* Before SIGTERM, so that whoever balances has noticed that the pod is going. */}}
{{- define "unirig.preStop" -}}
lifecycle:
  preStop:
    sleep:
      seconds: 5
{{- end }}

{{/* From SIGTERM to SIGKILL: the pause above, the service's own grace, and some time to end. */}}
{{- define "unirig.graceSeconds" -}}
{{ add 5 (index .root.Values .name).shutdownGraceSeconds 10 }}
{{- end }}

{{/* Makes pods start anew when their ConfigMap changes. */}}
{{- define "unirig.podMetadata" -}}
{{- $own := index .root.Values .name -}}
labels:
  {{- include "unirig.labels" . | nindent 2 }}
annotations:
  checksum/config: {{ include (print .root.Template.BasePath "/" .name "/configmap.yaml") .root | sha256sum }}
  {{- with $own.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* A ConfigMap of a service's settings: "wiring", which the chart knows, and env from the values. */}}
{{- define "unirig.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  {{- include "unirig.metadata" . | nindent 2 }}
data:
  {{- range $key, $value := merge (dict) .wiring (index .root.Values .name).env }}
  {{ $key }}: {{ $value | toString | quote }}
  {{- end }}
{{- end }}

{{/* The settings that every service of ours has. */}}
{{- define "unirig.commonWiring" -}}
LOG_LEVEL: {{ .root.Values.logLevel }}
BIND_HOST: {{ .root.Values.bindHost | quote }}
METRICS_PORT: "9090"
NATS_REPLICAS: {{ include "unirig.streamReplicas" .root | quote }}
SHUTDOWN_GRACE_SECONDS: {{ (index .root.Values .name).shutdownGraceSeconds | quote }}
{{- with .root.Values.tracing.endpoint }}
OTEL_EXPORTER_OTLP_ENDPOINT: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "unirig.address" -}}
{{ include "unirig.name" . }}:50051
{{- end }}

{{- define "unirig.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "unirig.metadata" . | nindent 2 }}
  {{- with (index .root.Values .name).serviceAccount }}
  {{- with .annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}

{{- define "unirig.disruptionBudget" -}}
{{- if .root.Values.podDisruptionBudgets.enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "unirig.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "unirig.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{/* Headless, so that a gRPC client finds all replicas and balances over them. */}}
{{- define "unirig.grpcService" -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "unirig.metadata" . | nindent 2 }}
spec:
  clusterIP: None
  selector:
    {{- include "unirig.selector" . | nindent 4 }}
  ports:
    - {name: grpc, port: 50051, targetPort: grpc, appProtocol: kubernetes.io/h2c}
    - {name: metrics, port: 9090, targetPort: metrics}
{{- end }}

{{/* A claim that outlives the release. "volume": its values. */}}
{{- define "unirig.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  {{- include "unirig.metadata" . | nindent 2 }}
  annotations:
    helm.sh/resource-policy: keep
spec:
  {{- include "unirig.claimSpec" .volume | nindent 2 }}
{{- end }}

{{- define "unirig.claimSpec" -}}
accessModes: [{{ default "ReadWriteOnce" .accessMode }}]
{{- with .storageClass }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .size }}
{{- end }}
