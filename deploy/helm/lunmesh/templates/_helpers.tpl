{{/* What names of all objects begin with. */}}
{{- define "lunmesh.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name -}}
{{- end -}}
{{- end -}}

{{/* Labels that never change, by which pods are found: (list $ "worker") */}}
{{- define "lunmesh.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "lunmesh.labels" -}}
{{ include "lunmesh.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
{{- end -}}

{{- define "lunmesh.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* The name of a secret: (list $ "nodeTls" "node-tls") */}}
{{- define "lunmesh.secret" -}}
{{- $root := index . 0 -}}
{{- index $root.Values.secrets (index . 1) | default (printf "%s-%s" (include "lunmesh.fullname" $root) (index . 2)) -}}
{{- end -}}

{{/* Of every pod: the "restricted" Pod Security Standard.  (list $ 3260) is the user. */}}
{{- define "lunmesh.pod" -}}
automountServiceAccountToken: false
{{- with (index . 0).Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ index . 1 }}
  runAsGroup: {{ index . 1 }}
  fsGroup: {{ index . 1 }}
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "lunmesh.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Nodes and workers tell how they are at a Unix socket, whatever else they are told. */}}
{{- define "lunmesh.probes" -}}
startupProbe:
  exec: {command: [python3, /usr/local/lib/lunmesh/healthcheck.py]}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  exec: {command: [python3, /usr/local/lib/lunmesh/healthcheck.py]}
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  exec: {command: [python3, /usr/local/lib/lunmesh/healthcheck.py, /readyz]}
  timeoutSeconds: 5
{{- end -}}

{{/* A volume of each pod's own: (list storage storageClass) */}}
{{- define "lunmesh.claim" -}}
volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOnce]
      {{- with index . 1 }}
      storageClassName: {{ . }}
      {{- end }}
      resources: {requests: {storage: {{ index . 0 }}}}
{{- end -}}

{{/* What all nodes are told.  A worker's name in its certificate is the one here. */}}
{{- define "lunmesh.node.toml" -}}
{{- $worker := printf "%s-worker" (include "lunmesh.fullname" .) -}}
{{- $addresses := list -}}
{{- range until (int .Values.worker.count) -}}
{{- $addresses = append $addresses (printf "%s-%d.%s:3270" $worker . $worker) -}}
{{- end -}}
data-dir = "/data"
portal = "0.0.0.0:3260"
metrics = "0.0.0.0:9280"
chap-file = "/etc/lunmesh/chap/chap"
volume = {{ toJson .Values.node.volumes }}
worker = {{ toJson $addresses }}
worker-ca = "/etc/lunmesh/tls/ca.pem"
worker-cert = "/etc/lunmesh/tls/node.pem"
worker-key = "/etc/lunmesh/tls/node.key"
worker-wait = 60
log-format = "json"
{{- range $name, $value := .Values.node.options }}
{{ $name }} = {{ toJson $value }}
{{- end }}
{{- end -}}
