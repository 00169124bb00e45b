{{/*
The Serve config: files/serve-config.yaml (a copy of the repository's serve_config.yaml, kept in step by a test)
with this release's services, port, settings and overrides in it.
*/}}

{{/* Which service each deployment belongs to; Gateway belongs to both. The tests hold it to serve_app.app. */}}
{{- define "plainmed.serviceOfDeployment" -}}
Loss: metrics
Readability: metrics
Relevance: metrics
Factuality: metrics
Generator: generator
{{- end -}}

{{- define "plainmed.serveConfig" -}}
{{- $config := .Files.Get "files/serve-config.yaml" | fromYaml -}}
{{- $groups := include "plainmed.groups" . | fromJsonArray -}}
{{- $serviceOf := include "plainmed.serviceOfDeployment" . | fromYaml -}}
{{- $_ := set $config "proxy_location" (empty $groups | ternary "HeadOnly" "EveryNode") -}}
{{- $_ := set $config.http_options "host" "0.0.0.0" -}}
{{- $_ := set $config.http_options "port" (include "plainmed.port" . | int) -}}
{{- $_ := set $config.logging_config "log_level" .Values.serve.logLevel -}}
{{- $application := first $config.applications -}}
{{- $_ := set $application.args "services" .Values.services -}}
{{- $_ := set $application.args "settings" (mergeOverwrite (deepCopy $application.args.settings) .Values.serve.settings) -}}
{{- $deployments := list -}}
{{- $known := list -}}
{{- range $deployment := $application.deployments -}}
  {{- $known = append $known $deployment.name -}}
  {{- $service := index $serviceOf $deployment.name | default "" -}}
  {{- if or (not $service) (has $service $.Values.services) -}}
    {{- $deployments = append $deployments (include "plainmed.deployment" (dict "root" $ "base" $deployment "group" ($service) "groups" $groups) | fromJson) -}}
  {{- end -}}
{{- end -}}
{{- range $name, $_ := .Values.serve.deployments -}}
  {{- if not (has $name $known) -}}
    {{- fail (printf "serve.deployments.%s: serve_config.yaml has no such deployment; it has %s" $name (join ", " $known)) -}}
  {{- end -}}
{{- end -}}
{{- $_ := set $application "deployments" $deployments -}}
{{- $further := tpl (toYaml .Values.serve.extraApplications) . | fromYamlArray -}}
{{- $_ := set $config "applications" (concat (list $application) $further) -}}
{{- toYaml $config -}}
{{- end -}}

{{/*
A hash of everything in the Serve config but what Serve changes in running replicas (a test compares the list with
Serve's own rules). In the head's annotations it makes KubeRay start a second cluster for any other change, since Serve
would stop a deployment's only replica before it starts the next; and it tells which configuration a cluster was made with.
*/}}
{{- define "plainmed.serveConfigHash" -}}
{{- $config := include "plainmed.serveConfig" . | fromYaml -}}
{{- range $application := $config.applications -}}
{{- range $deployment := $application.deployments -}}
{{- range $field := list "num_replicas" "autoscaling_config" "user_config" "max_ongoing_requests" "max_queued_requests" "graceful_shutdown_timeout_s" "graceful_shutdown_wait_loop_s" "health_check_period_s" "health_check_timeout_s" -}}
{{- $_ := unset $deployment $field -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $config | toJson | sha256sum | trunc 16 -}}
{{- end -}}

{{/*
One deployment with its overrides. A fixed num_replicas replaces autoscaling and the other way round, since Serve refuses
both. Where a release has two worker groups, each deployment is held to the group of its service.
*/}}
{{- define "plainmed.deployment" -}}
{{- $deployment := deepCopy .base -}}
{{- $override := index .root.Values.serve.deployments .base.name | default dict -}}
{{- if hasKey $override "num_replicas" -}}
  {{- $_ := unset $deployment "autoscaling_config" -}}
{{- end -}}
{{- if hasKey $override "autoscaling_config" -}}
  {{- $_ := unset $deployment "num_replicas" -}}
{{- end -}}
{{- $deployment = mergeOverwrite $deployment (deepCopy $override) -}}
{{- if and .group (gt (len .groups) 1) -}}
  {{- $_ := set $deployment.ray_actor_options "label_selector" (dict "plainmed.io/group" .group) -}}
{{- end -}}
{{- $deployment | toJson -}}
{{- end -}}
