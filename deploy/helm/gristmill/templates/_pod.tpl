{{/* What all pods share. Each caller gives: root, name, pools (of a worker; empty: none), key (of the database URL). */}}
{{- define "gristmill.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "gristmill.labels" -}}
app.kubernetes.io/name: gristmill
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- define "gristmill.settings" -}}
{{ .Values.settings | trim }}
home = "/data"
log_format = "json"
shutdown = {{ sub (int .Values.grace) 10 }}
{{- end }}

{{- define "gristmill.container" -}}
image: {{ include "gristmill.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
workingDir: /etc/gristmill
env:
  - name: GRISTMILL_DATABASE_URL
    valueFrom: { secretKeyRef: { name: {{ .root.Values.database.secret }}, key: {{ .key }} } }
{{- with .root.Values.secrets }}
envFrom:
  {{- range . }}
  - secretRef: { name: {{ . }} }
  {{- end }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
volumeMounts:
  - { name: settings, mountPath: /etc/gristmill, readOnly: true }
  - { name: data, mountPath: /data }
  - { name: tmp, mountPath: /tmp }
{{- end }}

{{- define "gristmill.pod" -}}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: { type: RuntimeDefault }
volumes:
  - name: settings
    configMap: { name: {{ .root.Release.Name }}-{{ .settings }} }
  - { name: data, emptyDir: {} }
  - { name: tmp, emptyDir: {} }
{{- end }}
