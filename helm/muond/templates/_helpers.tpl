{{- define "muond.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "muond.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "muond.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "muond.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "muond.selectorLabels" -}}
app.kubernetes.io/name: {{ include "muond.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "muond.labels" -}}
{{- with .Values.commonLabels }}{{ toYaml . }}
{{ end -}}
{{ include "muond.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "muond.podMetadata" -}}
labels:
  {{- with .Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- include "muond.labels" . | nindent 2 }}
annotations:
  {{- with .Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  muond/config-sha256: {{ include "muond.config" . | sha256sum }}
  {{- if and .Values.metrics.enabled (eq .Values.metrics.discovery "annotations") }}
  prometheus.io/scrape: "true"
  prometheus.io/port: {{ int64 .Values.metrics.port | quote }}
  prometheus.io/path: /metrics
  {{- end }}
{{- end -}}

{{- define "muond.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "muond.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "muond.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{/* In a sidecar's pod the volume is the cluster's, so the daemon makes a directory of its own in it. */}}
{{- define "muond.socketDirectory" -}}
{{ eq .Values.mode "sidecar" | ternary "/run/muond/daemon" "/run/muond" }}
{{- end -}}

{{- define "muond.endpoint" -}}
unix:{{ include "muond.socketDirectory" . }}/grpc.sock
{{- end -}}

{{- define "muond.config" -}}
socket_dir: {{ include "muond.socketDirectory" . }}
metrics_listen: {{ .Values.metrics.enabled | ternary (printf "0.0.0.0:%d" (int64 .Values.metrics.port)) "off" | quote }}
{{- if eq .Values.mode "daemonset" }}
state_dir: /var/lib/muond
{{- end }}
{{- with include "muond.coordinators" . }}
coordinator: {{ . | quote }}
{{- include "muond.tlsConfig" $ }}
{{- end }}
{{- range $key, $value := .Values.config }}
{{ $key }}: {{ $value | toString | quote }}
{{- end }}
{{- end -}}

{{- define "muond.coordinatorName" -}}
{{ include "muond.fullname" . }}-coordinator
{{- end -}}

{{/* Not the daemons' labels: their DaemonSet, Service and policies must not find coordinators. */}}
{{- define "muond.coordinatorSelector" -}}
app.kubernetes.io/name: {{ include "muond.name" . }}-coordinator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "muond.coordinatorLabels" -}}
{{- with .Values.commonLabels }}{{ toYaml . }}
{{ end -}}
{{ include "muond.coordinatorSelector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The coordinators that daemons name, with commas between; empty: the embedded one. */}}
{{- define "muond.coordinators" -}}
{{- if .Values.coordinator.enabled -}}
{{- $list := list -}}
{{- range $i := until (int .Values.coordinator.replicas) -}}
{{- $list = append $list (printf "%s-%d.%s.%s.svc:%d" (include "muond.coordinatorName" $) $i (include "muond.coordinatorName" $) $.Release.Namespace (int64 $.Values.coordinator.port)) -}}
{{- end -}}
{{ join "," $list }}
{{- else -}}
{{ join "," .Values.coordinator.endpoints }}
{{- end -}}
{{- end -}}

{{- define "muond.coordinatorConfig" -}}
listen: "0.0.0.0:{{ int64 .Values.coordinator.port }}"
metrics_listen: {{ .Values.metrics.enabled | ternary (printf "0.0.0.0:%d" (int64 .Values.metrics.port)) "off" | quote }}
etcd: {{ join "," .Values.coordinator.etcd.endpoints | quote }}
etcd_prefix: {{ .Values.coordinator.etcd.prefix | quote }}
{{- if .Values.coordinator.etcd.tlsSecret }}
etcd_tls_ca: /etc/muond-etcd/ca.crt
etcd_tls_cert: /etc/muond-etcd/tls.crt
etcd_tls_key: /etc/muond-etcd/tls.key
{{- end }}
leader_ttl_s: {{ int64 .Values.coordinator.leaderTtlSeconds | quote }}
lease_ms: {{ int64 .Values.coordinator.leaseMs | quote }}
log_level: {{ .Values.config.log_level }}
log_format: {{ .Values.config.log_format }}
{{- include "muond.tlsConfig" . }}
{{- end -}}

{{- define "muond.tlsSecret" -}}
{{ .Values.tls.certManager.enabled | ternary (printf "%s-tls" (include "muond.fullname" .)) .Values.tls.secret }}
{{- end -}}

{{- define "muond.tlsConfig" -}}
{{- if include "muond.tlsSecret" . }}
tls_cert: /etc/muond-tls/tls.crt
tls_key: /etc/muond-tls/tls.key
tls_ca: /etc/muond-tls/ca.crt
{{- end }}
{{- if .Values.tls.plainTcp }}
plain_tcp: "true"
{{- end }}
{{- end -}}

{{/* Where coordinators are named; not with subPath, which is never renewed. */}}
{{- define "muond.tlsMount" -}}
{{- if and (include "muond.coordinators" .) (include "muond.tlsSecret" .) }}
- {name: tls, mountPath: /etc/muond-tls, readOnly: true}
{{- end }}
{{- end -}}

{{- define "muond.tlsVolume" -}}
{{- if and (include "muond.coordinators" .) (include "muond.tlsSecret" .) }}
- name: tls
  secret: {secretName: {{ include "muond.tlsSecret" . }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* What both containers of a pod may do: nothing beyond their own user. */}}
{{- define "muond.securityContext" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: {{ int64 .Values.user }}
runAsGroup: {{ int64 .Values.group }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "muond.probe" -}}
{{- if .root.Values.metrics.enabled -}}
httpGet: {path: {{ .path }}, port: metrics}
{{- else -}}
exec: {command: [muonctl, status, --endpoint, "{{ include "muond.endpoint" .root }}", --timeout, "5"]}
{{- end }}
timeoutSeconds: 6
{{- end -}}

{{/* The daemon's container, the same in both modes. */}}
{{- define "muond.daemon" -}}
name: muond
image: {{ include "muond.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [muond]
args: [--config, /etc/muond/muond.yaml]
{{- if eq .Values.gpu.access "runtimeClass" }}
env:
  - {name: NVIDIA_VISIBLE_DEVICES, value: all}
  - {name: NVIDIA_DRIVER_CAPABILITIES, value: "compute,utility"}
{{- end }}
{{- if .Values.metrics.enabled }}
ports:
  - {name: metrics, containerPort: {{ int64 .Values.metrics.port }}, protocol: TCP}
{{- end }}
startupProbe:
  {{- include "muond.probe" (dict "root" . "path" "/healthz") | nindent 2 }}
  periodSeconds: 1
  failureThreshold: 120
livenessProbe:
  {{- include "muond.probe" (dict "root" . "path" "/healthz") | nindent 2 }}
  periodSeconds: 20
  failureThreshold: 6
readinessProbe:
  {{- include "muond.probe" (dict "root" . "path" "/readyz") | nindent 2 }}
  periodSeconds: 10
resources:
  {{- toYaml .Values.resources | nindent 2 }}
  {{- if eq .Values.gpu.access "dra" }}
  claims:
    - {name: gpus, request: gpu}
  {{- end }}
securityContext:
  {{- include "muond.securityContext" . | nindent 2 }}
volumeMounts:
  - {name: config, mountPath: /etc/muond, readOnly: true}
  - {name: sockets, mountPath: /run/muond}
  - {name: scratch, mountPath: /tmp}
  {{- if eq .Values.mode "daemonset" }}
  - {name: state, mountPath: /var/lib/muond}
  {{- end }}
  {{- include "muond.tlsMount" . | nindent 2 }}
{{- end -}}

{{/* What the pods of both modes have in common. */}}
{{- define "muond.podSpec" -}}
serviceAccountName: {{ include "muond.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false   # a Service called muond would put MUOND_... variables into the daemon's environment
terminationGracePeriodSeconds: {{ add 30 (ceil .Values.config.drain_timeout_s) }}
{{- if eq .Values.gpu.access "runtimeClass" }}
runtimeClassName: {{ .Values.gpu.runtimeClassName }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Values that do not go together. Each sentence says what to change. */}}
{{- define "muond.validate" -}}
{{- if and (eq .Values.mode "sidecar") (not .Values.job.image) -}}
{{- fail "job.image is empty: mode sidecar runs a training Job, so it needs the trainer's image (or set mode: daemonset)" -}}
{{- end -}}
{{- if and (eq .Values.mode "daemonset") .Values.job.image -}}
{{- fail "job.image is set, but mode daemonset runs no Job: apply the Jobs by themselves (helm/muond/examples), or set mode: sidecar" -}}
{{- end -}}
{{- if and (eq .Values.mode "daemonset") (eq .Values.gpu.access "dra") -}}
{{- fail "gpu.access dra with mode daemonset: the node's daemon would claim the GPUs that the Jobs need; use runtimeClass" -}}
{{- end -}}
{{- if and (eq .Values.gpu.access "dra") (semverCompare "<1.32-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "gpu.access dra needs Kubernetes 1.32 or newer (resource.k8s.io/v1beta1), this one is %s; use runtimeClass" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if and (eq .Values.gpu.access "none") (eq .Values.config.backend "cuda") -}}
{{- fail "config.backend cuda with gpu.access none: the daemon would see no GPU; set gpu.access to runtimeClass or dra" -}}
{{- end -}}
{{- if and (ne .Values.gpu.access "none") (eq .Values.config.backend "cpu") -}}
{{- fail (printf "gpu.access %s with config.backend cpu: GPUs would be taken and not used; set config.backend to auto or cuda" .Values.gpu.access) -}}
{{- end -}}
{{- range .Values.job.env -}}
{{- if eq .name "MUOND_ENDPOINT" -}}
{{- fail "job.env names MUOND_ENDPOINT: the chart sets it to the daemon of the pod" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.coordinator.enabled (eq .Values.mode "sidecar") -}}
{{- fail "coordinator.enabled with mode sidecar: a Job ends, coordinators serve; install them with mode daemonset and name them by coordinator.endpoints" -}}
{{- end -}}
{{- if and .Values.coordinator.enabled .Values.coordinator.endpoints -}}
{{- fail "coordinator.enabled and coordinator.endpoints: the daemons would have two catalogues; choose one" -}}
{{- end -}}
{{- if and .Values.coordinator.enabled (not .Values.coordinator.etcd.endpoints) -}}
{{- fail "coordinator.enabled needs coordinator.etcd.endpoints: coordinators in pods keep their catalogue there" -}}
{{- end -}}
{{- if and .Values.coordinator.enabled (not .Values.coordinator.etcd.tlsSecret) (not .Values.tls.plainTcp) -}}
{{- fail "coordinator.etcd.tlsSecret is empty: etcd would be asked in plain text; give it, or allow that by tls.plainTcp" -}}
{{- end -}}
{{- if and .Values.tls.secret .Values.tls.certManager.enabled -}}
{{- fail "tls.secret and tls.certManager.enabled: both name the certificate; choose one" -}}
{{- end -}}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerName) -}}
{{- fail "tls.certManager.enabled needs tls.certManager.issuerName" -}}
{{- end -}}
{{- if and (include "muond.coordinators" .) (not (include "muond.tlsSecret" .)) (not .Values.tls.plainTcp) -}}
{{- fail "coordinators are reached over TCP: give tls.secret or tls.certManager, or allow plain text by tls.plainTcp" -}}
{{- end -}}
{{- if and (not .Values.metrics.enabled) (ne .Values.metrics.discovery "none") -}}
{{- fail (printf "metrics.discovery %s, but metrics.enabled is false: there would be nothing to find" .Values.metrics.discovery) -}}
{{- end -}}
{{- end -}}
