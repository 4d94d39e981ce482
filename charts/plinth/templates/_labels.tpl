{{/* Labels of every object. */}}
{{- define "plinth.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: plinth
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* What finds the pods of one part: (list $ "gateway"). All that pods are labelled with, so that a new version of the
     chart alone restarts nothing; and it never changes, for a Deployment's selector cannot. */}}
{{- define "plinth.selector" -}}
app.kubernetes.io/name: plinth
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of an object that belongs to one part: (list $ "gateway"). */}}
{{- define "plinth.partLabels" -}}
{{ include "plinth.labels" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}
