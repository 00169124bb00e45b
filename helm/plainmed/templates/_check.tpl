{{/*
Values that are each valid but do not go together, which no schema can express. Each message says what to do.
*/}}
{{- define "plainmed.check" -}}
{{- $groups := include "plainmed.groups" . | fromJsonArray -}}
{{- $model := .Values.generator.model -}}
{{- if ne (empty $model.name) (empty $model.bucket) -}}
{{- fail "generator.model.name and generator.model.bucket go together: set both, or use generator.model.path" -}}
{{- end -}}
{{- if and (not (has "generator" .Values.services)) (or $model.name $model.path) -}}
{{- fail "generator.model is set, but services does not list the generator" -}}
{{- end -}}
{{- if and (empty $groups) (le (float64 .Values.head.numCpus) 0.0) -}}
{{- fail "nothing could run: enable a worker group of a listed service, or give the head CPUs by head.numCpus" -}}
{{- end -}}
{{- range $name := $groups -}}
{{- $group := index $.Values.workers $name -}}
{{- if and $.Values.autoscaling.enabled (or (gt (int $group.minReplicas) (int $group.replicas)) (gt (int $group.replicas) (int $group.maxReplicas))) -}}
{{- fail (printf "workers.%s: minReplicas <= replicas <= maxReplicas does not hold" $name) -}}
{{- end -}}
{{- end -}}
{{- if gt (int .Values.drain.seconds) (int .Values.drain.maxSeconds) -}}
{{- fail "drain.seconds must not be above drain.maxSeconds" -}}
{{- end -}}
{{- if eq .Values.upgradeStrategy.type "NewClusterWithIncrementalUpgrade" -}}
{{- if not .Values.autoscaling.enabled -}}
{{- fail "an incremental upgrade needs autoscaling.enabled: the old cluster must be able to shrink" -}}
{{- end -}}
{{- if not .Values.upgradeStrategy.gatewayClassName -}}
{{- fail "an incremental upgrade needs upgradeStrategy.gatewayClassName" -}}
{{- end -}}
{{- if gt (int .Values.upgradeStrategy.stepSizePercent) (int .Values.upgradeStrategy.maxSurgePercent) -}}
{{- fail "upgradeStrategy.stepSizePercent must not be above maxSurgePercent" -}}
{{- end -}}
{{- if or (eq .Values.service.type "LoadBalancer") .Values.ingress.enabled .Values.gateway.enabled -}}
{{- fail "in an incremental upgrade KubeRay's own Gateway splits the traffic: set service.type to ClusterIP, ingress.enabled and gateway.enabled to false, and send clients to that Gateway" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.monitoring.rules.enabled (not .Values.monitoring.podMonitor.enabled) -}}
{{- fail "monitoring.rules needs monitoring.podMonitor: the alerts select by the label it adds" -}}
{{- end -}}
{{- if and .Values.gateway.enabled (empty .Values.gateway.parentRefs) -}}
{{- fail "gateway.parentRefs: name the Gateway to attach to" -}}
{{- end -}}
{{- $keys := .Values.apiKeys -}}
{{- if and $keys.enabled (not $keys.secretName) (not (hasKey .Values.secretEnv "API_KEYS")) -}}
{{- fail (printf "apiKeys.secretName: every caller needs an API key, so name a Secret with keys. To make one: plainmed keys new keys.json && kubectl -n %s create secret generic plainmed-api-keys --from-file=keys.json; then --set apiKeys.secretName=plainmed-api-keys. Where an upstream proxy authenticates callers: --set apiKeys.enabled=false" .Release.Namespace) -}}
{{- end -}}
{{- if and (not $keys.enabled) (hasKey .Values.secretEnv "API_KEYS") -}}
{{- fail "apiKeys.enabled is false, but secretEnv.API_KEYS holds keys; remove one" -}}
{{- end -}}
{{- if and (eq .Values.auth.mode "disabled") (not .Values.networkPolicy.enabled) -}}
{{- fail "auth.mode is disabled and networkPolicy.enabled is false: every pod that reaches Ray's ports could run programs here. Keep auth.mode: token, or the NetworkPolicy" -}}
{{- end -}}
{{- $chartsOwn := list "API_KEYS_FILE" "ALLOW_NO_KEYS" "HOME" "CACHE_DIR" "HOST" "PORT" "MODEL_NAME" "MODEL_S3_BUCKET" "MODEL_PATH" "AWS_REGION" -}}
{{- range $name, $_ := .Values.env -}}
{{- if has $name $chartsOwn -}}
{{- fail (printf "env.%s is set by the chart; use serve.port, apiKeys, generator.model, modelCache or aws.region" $name) -}}
{{- end -}}
{{- /* Headers too: OTEL_EXPORTER_OTLP_HEADERS is where a collector's key goes. */ -}}
{{- if regexMatch "(?i)(token|passw(or)?d|passphrase|secret|credentials?|headers|(^|_|api)keys?)$" $name -}}
{{- fail (printf "env.%s looks like a secret; put it into a Secret and name that in secretEnv.%s" $name $name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := .Values.secretEnv -}}
{{- if hasKey $.Values.env $name -}}
{{- fail (printf "%s is in env and in secretEnv; keep one" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
