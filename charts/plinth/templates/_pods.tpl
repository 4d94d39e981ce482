{{/* What every pod of ours has: who it runs as, where its image may come from. */}}
{{- define "plinth.pod" -}}
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where one part may run: (list $ .Values.gateway "gateway"). Its replicas avoid each other's machines. */}}
{{- define "plinth.placement" -}}
{{- $part := index . 1 -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "plinth.selector" (list (index . 0) (index . 2)) | nindent 8 }}
{{- with $part.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "plinth.image" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{/* No container of ours may write to its image, gain privileges or hold a capability. */}}
{{- define "plinth.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Environment of our Python processes. /tmp is the only place that all of them may write to. */}}
{{- define "plinth.env" -}}
{{- $given := list }}
{{- range .Values.extraEnv }}{{ $given = append $given .name }}{{ end }}
{{- if not (has "HOME" $given) -}}
- {name: HOME, value: /tmp}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "plinth.volumes" -}}
- name: tmp
  emptyDir: {}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* /tmp, unless a volume of one's own is mounted there; and what else is given. */}}
{{- define "plinth.volumeMounts" -}}
{{- $given := list }}
{{- range .Values.extraVolumeMounts }}{{ $given = append $given .mountPath }}{{ end }}
{{- if not (has "/tmp" $given) -}}
- {name: tmp, mountPath: /tmp}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}
