{{/*
Names, labels and the port: what objects are called. Nothing here knows what is in them.
*/}}

{{- define "plainmed.name" -}}
{{- $name := .Values.fullnameOverride | default (contains "plainmed" .Release.Name | ternary .Release.Name (printf "%s-plainmed" .Release.Name)) -}}
{{- if gt (len $name) 47 -}}
{{- fail (printf "the name %q has %d characters; KubeRay takes at most 47. Choose a shorter release name or set fullnameOverride." $name (len $name)) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "the name %q is no DNS-1035 label, as Kubernetes demands of a Service: lower-case letters, digits and hyphens, beginning with a letter. Choose another release name or set fullnameOverride." $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* Labels that pods and selectors share; they must not change between versions of the chart. */}}
{{- define "plainmed.selectorLabels" -}}
app.kubernetes.io/name: plainmed
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "plainmed.labels" -}}
{{ include "plainmed.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The earlier system's ports: the metrics alone on 8001, the generator on 8000. */}}
{{- define "plainmed.port" -}}
{{- if .Values.serve.port -}}
{{- .Values.serve.port -}}
{{- else if has "generator" .Values.services -}}
8000
{{- else -}}
8001
{{- end -}}
{{- end -}}

{{- define "plainmed.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "plainmed.name" .) "default") -}}
{{- end -}}

{{- define "plainmed.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- $variant := .Values.image.variant | empty | ternary "" (printf "-%s" .Values.image.variant) -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default (printf "%s%s" .Chart.AppVersion $variant)) -}}
{{- end -}}
{{- end -}}

{{/* The worker groups of this release, as a JSON list of names: enabled, and of a service that is built. */}}
{{- define "plainmed.groups" -}}
{{- $groups := list -}}
{{- range $name := list "metrics" "generator" -}}
{{- if and (has $name $.Values.services) (index $.Values.workers $name).enabled -}}
{{- $groups = append $groups $name -}}
{{- end -}}
{{- end -}}
{{- $groups | toJson -}}
{{- end -}}
