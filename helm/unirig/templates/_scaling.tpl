{{/* How parts scale. */}}

{{/* A HorizontalPodAutoscaler on CPU. */}}
{{- define "unirig.cpuAutoscaler" -}}
{{- $scaling := (index .root.Values .name).autoscaling -}}
{{- if gt (int $scaling.min) (int $scaling.max) }}{{ fail (printf "%s.autoscaling.min is above max" .name) }}{{ end -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "unirig.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "unirig.name" . }}
  minReplicas: {{ max 1 $scaling.min }}
  maxReplicas: {{ $scaling.max }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ $scaling.targetCpuPercent }}
  behavior:
    scaleDown:
      stabilizationWindowSeconds: 300
{{- end }}

{{/* The head of a ScaledObject's spec. */}}
{{- define "unirig.scaledObjectSpec" -}}
{{- $scaling := (index .root.Values .name).autoscaling -}}
{{- if gt (int $scaling.min) (int $scaling.max) }}{{ fail (printf "%s.autoscaling.min is above max" .name) }}{{ end -}}
scaleTargetRef:
  name: {{ include "unirig.name" . }}
pollingInterval: {{ $scaling.pollingSeconds }}
cooldownPeriod: {{ $scaling.cooldownSeconds }}
minReplicaCount: {{ $scaling.min }}
maxReplicaCount: {{ $scaling.max }}
advanced:
  horizontalPodAutoscalerConfig:
    behavior:
      scaleDown:
        stabilizationWindowSeconds: 300
{{- end }}

{{/* KEDA's trigger on jobs, waiting or with a worker. The stream and consumer: services/common/subjects.py. */}}
{{- define "unirig.jobsTrigger" -}}
- type: nats-jetstream
  metadata:
    natsServerMonitoringEndpoint: {{ include "unirig.natsMonitoring" .root | quote }}
    account: "$G"
    stream: JOBS
    consumer: workers
    lagThreshold: {{ (index .root.Values .name).autoscaling.jobsPerPod | quote }}
    activationLagThreshold: "0"
{{- end }}
