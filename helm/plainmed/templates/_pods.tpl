{{/*
Pod templates of the head and the workers: environment, volumes, security, probes, drain.
*/}}

{{- define "plainmed.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ .Values.securityContext.runAsUser }}
runAsGroup: {{ .Values.securityContext.runAsGroup }}
fsGroup: {{ .Values.securityContext.runAsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "plainmed.containerSecurityContext" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: {{ .Values.securityContext.readOnlyRootFilesystem }}
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Every pod gets the same: Serve builds the graph, and reads the settings, on any of them. */}}
{{- define "plainmed.env" -}}
- name: HOME
  value: /tmp
- name: CACHE_DIR
  value: /var/cache/plainmed
{{- if eq .Values.auth.mode "disabled" }}
# Ray 2.60 would otherwise make a token in each pod, each its own. With `token`, KubeRay hands out one.
- name: RAY_AUTH_MODE
  value: disabled
{{- end }}
{{- if not .Values.apiKeys.enabled }}
- name: ALLOW_NO_KEYS
  value: "true"
{{- else if .Values.apiKeys.secretName }}
- name: API_KEYS_FILE
  value: /etc/plainmed/keys/{{ .Values.apiKeys.key }}
{{- end }}
{{- with .Values.aws.region }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- with .Values.generator.model }}
{{- if .path }}
- name: MODEL_PATH
  value: {{ .path | quote }}
{{- else if .name }}
- name: MODEL_NAME
  value: {{ .name | quote }}
- name: MODEL_S3_BUCKET
  value: {{ .bucket | quote }}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.env }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- range $name, $from := .Values.secretEnv }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $from.secretName }}
      key: {{ $from.key }}
{{- end }}
{{- end -}}

{{- define "plainmed.volumes" -}}
- name: tmp
  emptyDir: {}
- name: model-cache
{{- if eq .Values.modelCache.type "emptyDir" }}
  emptyDir:
    sizeLimit: {{ .Values.modelCache.sizeLimit }}
{{- else if eq .Values.modelCache.type "hostPath" }}
  hostPath:
    path: {{ required "modelCache.hostPath: name the directory on the node" .Values.modelCache.hostPath }}
    type: DirectoryOrCreate
{{- else }}
  persistentVolumeClaim:
    claimName: {{ required "modelCache.claimName: name the existing claim" .Values.modelCache.claimName }}
{{- end }}
{{- with .Values.apiKeys }}
{{- if and .enabled .secretName }}
# Not by subPath, whose files never change: keys are changed in the running pod.
- name: api-keys
  secret:
    secretName: {{ .secretName }}
    defaultMode: 0440
    items:
      - { key: {{ .key | quote }}, path: {{ .key | quote }} }
{{- end }}
{{- end }}
{{- end -}}

{{- define "plainmed.volumeMounts" -}}
- name: tmp
  mountPath: /tmp
- name: model-cache
  mountPath: /var/cache/plainmed
{{- with .Values.apiKeys }}
{{- if and .enabled .secretName }}
- name: api-keys
  mountPath: /etc/plainmed/keys
  readOnly: true
{{- end }}
{{- end }}
{{- end -}}

{{- define "plainmed.liveness" -}}
httpGet:
  path: /api/healthz
  port: 52365
{{ toYaml .Values.probes.liveness }}
{{- end -}}

{{/*
A pod that takes requests is ready once its Serve proxy is and, the first time, once /readyz of the whole application says so
through that proxy: a new cluster takes requests only when its models have loaded. After that a lost replica does not take its
pod out of the Service, because requests wait for the replacement. The marker is named for the start of process 1, so a
restarted container starts over.
A head without workers takes requests too, but KubeRay gives the application only to a head that is ready. So it is ready until Serve
knows of an application, and without requests until then: KubeRay's label `ray.io/serve` keeps it out of the Service. Not with `None`,
where a wrong Serve config is corrected in the same cluster.
Arguments: root, role.
*/}}
{{- define "plainmed.readiness" -}}
exec:
  command:
    - bash
    - -c
    - |
      get() {
        exec 3<>/dev/tcp/127.0.0.1/"$1" || return 1
        printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n%b\r\n' "$2" "${3:+Authorization: Bearer $3\r\n}" >&3
        IFS= read -r line <&3 && [[ $line == *" 200 "* ]]
      }
      {{- if eq .role "head" }}
      get 52365 /api/healthz || exit 1
      get 8265 /api/serve/applications/ "$RAY_AUTH_TOKEN" || exit 1
      grep -q '"docs_path"' <&3 || exit 0
      {{- end }}
      stat=$(</proc/1/stat)
      set -- ${stat##*) }
      marker=/tmp/.plainmed-ready-${20}
      get {{ include "plainmed.port" .root }} /-/healthz || exit 1
      [[ -e $marker ]] && exit 0
      get {{ include "plainmed.port" .root }} /readyz && : >"$marker" && exit 0
      echo "the application is not ready: $line $(tail -n 1 <&3)"
      exit 1
{{- $times := deepCopy .root.Values.probes.readiness -}}
{{- if eq .role "head" -}}
{{- /* Out of the Service before KubeRay's next look at the proxy, every 2 s, could let it in. */ -}}
{{- $times = merge (dict "periodSeconds" 1 "failureThreshold" 1) $times -}}
{{- end }}
{{ toYaml $times }}
{{- end -}}

{{/*
Before SIGTERM. First `drain.seconds`: the pod leaves every Service and load balancer, and pods of one cluster that go
together stay together. Then for as long as requests are under way anywhere in the cluster, up to `drain.maxSeconds`: a
request needs the pod that took it, those that work on it, and the head. The numbers are those Ray exports, some 10 s
old: a replica's always, a proxy's only while it changes. The pods are those Ray names to Prometheus (a file on the head, its dashboard for
workers); where it does not, a pod looks at itself. One that does not answer has no requests. The token goes to the dashboard alone:
the address of a pod that has gone may be another's by now.
*/}}
{{- define "plainmed.drain" -}}
preStop:
  exec:
    command:
      - bash
      - -c
      - |
        get() {
          timeout 10 bash -c 'exec 3<>"/dev/tcp/$1/$2" && printf "GET %s HTTP/1.0\r\nHost: %s\r\n%b\r\n" "$3" "$1" "${4:+Authorization: Bearer $RAY_AUTH_TOKEN\r\n}" >&3 && cat <&3' get "$@" 2>/dev/null
        }
        pods() {
          cat /tmp/ray/prom_metrics_service_discovery.json 2>/dev/null || get "$FQ_RAY_IP" 8265 /api/prometheus/sd with-token
        }
        busy() {
          for pod in 127.0.0.1 $(pods | grep -oE '[0-9.]+:8080'); do
            get "${pod%:8080}" 8080 /metrics \
              | grep -E '^ray_serve_(num_ongoing_http_requests|replica_processing_queries)\{.*\} [1-9][0-9.e+]*$' >/dev/null && return
          done
          return 1
        }
        sleep {{ .Values.drain.seconds }}
        while [ "$SECONDS" -lt {{ .Values.drain.maxSeconds }} ] && busy; do
          sleep 2
        done
{{- end -}}

{{/* The parts of a pod that head and workers share; arguments: root, role, group (values of head or worker group). */}}
{{- define "plainmed.podMetadata" -}}
labels:
  {{- include "plainmed.selectorLabels" .root | nindent 2 }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $own := dict -}}
{{- if and (eq .role "head") (ne .root.Values.upgradeStrategy.type "None") -}}
{{- $own = dict "plainmed.io/serve-config" (include "plainmed.serveConfigHash" .root) -}}
{{- end -}}
{{- with merge $own .root.Values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "plainmed.podPlacement" -}}
serviceAccountName: {{ include "plainmed.serviceAccountName" .root }}
automountServiceAccountToken: {{ and (eq .role "head") .root.Values.autoscaling.enabled }}
enableServiceLinks: false
terminationGracePeriodSeconds: {{ add .root.Values.drain.maxSeconds 30 }}
securityContext:
  {{- include "plainmed.podSecurityContext" .root | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .group.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .group.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .group.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .group.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  {{- include "plainmed.volumes" .root | nindent 2 }}
{{- end -}}

{{- define "plainmed.headPod" -}}
metadata:
  {{- include "plainmed.podMetadata" (dict "root" . "role" "head") | nindent 2 }}
spec:
  {{- include "plainmed.podPlacement" (dict "root" . "role" "head" "group" .Values.head) | nindent 2 }}
  containers:
    - name: ray-head
      image: {{ include "plainmed.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      ports:
        - { name: gcs-server, containerPort: 6379 }
        - { name: dashboard, containerPort: 8265 }
        - { name: metrics, containerPort: 8080 }
        - { name: serve, containerPort: {{ include "plainmed.port" . }} }
      env:
        {{- include "plainmed.env" . | nindent 8 }}
      resources:
        {{- toYaml .Values.head.resources | nindent 8 }}
      securityContext:
        {{- include "plainmed.containerSecurityContext" . | nindent 8 }}
      livenessProbe:
        {{- include "plainmed.liveness" . | nindent 8 }}
      readinessProbe:
        {{- if or (include "plainmed.groups" . | fromJsonArray) (eq .Values.upgradeStrategy.type "None") }}
        httpGet:
          path: /api/healthz
          port: 52365
        {{- toYaml .Values.probes.readiness | nindent 8 }}
        {{- else }}
        {{- include "plainmed.readiness" (dict "root" . "role" "head") | nindent 8 }}
        {{- end }}
      lifecycle:
        {{- include "plainmed.drain" . | nindent 8 }}
      volumeMounts:
        {{- include "plainmed.volumeMounts" . | nindent 8 }}
{{- end -}}

{{/* Arguments: root, name (of the group). */}}
{{- define "plainmed.workerPod" -}}
{{- $group := index .root.Values.workers .name -}}
metadata:
  {{- include "plainmed.podMetadata" (dict "root" .root "role" "worker") | nindent 2 }}
spec:
  {{- include "plainmed.podPlacement" (dict "root" .root "role" "worker" "group" $group) | nindent 2 }}
  {{- with .root.Values.topologySpread }}
  {{- if .enabled }}
  topologySpreadConstraints:
    - topologyKey: {{ .topologyKey }}
      maxSkew: {{ .maxSkew }}
      whenUnsatisfiable: {{ .whenUnsatisfiable }}
      labelSelector:
        matchLabels:
          {{- include "plainmed.selectorLabels" $.root | nindent 10 }}
          ray.io/group: {{ $.name }}
      # The two clusters of an upgrade are spread each by itself.
      matchLabelKeys: [ray.io/cluster]
  {{- end }}
  {{- end }}
  containers:
    - name: ray-worker
      image: {{ include "plainmed.image" .root }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      ports:
        - { name: metrics, containerPort: 8080 }
        - { name: serve, containerPort: {{ include "plainmed.port" .root }} }
      env:
        {{- include "plainmed.env" .root | nindent 8 }}
      resources:
        {{- $resources := deepCopy $group.resources }}
        {{- if $group.numGpus }}
        {{- $gpus := dict $group.gpuResource (toString $group.numGpus) }}
        {{- $_ := set $resources "limits" (merge $gpus ($resources.limits | default dict)) }}
        {{- $_ := set $resources "requests" (merge $gpus ($resources.requests | default dict)) }}
        {{- end }}
        {{- toYaml $resources | nindent 8 }}
      securityContext:
        {{- include "plainmed.containerSecurityContext" .root | nindent 8 }}
      livenessProbe:
        {{- include "plainmed.liveness" .root | nindent 8 }}
      readinessProbe:
        {{- include "plainmed.readiness" (dict "root" .root "role" "worker") | nindent 8 }}
      lifecycle:
        {{- include "plainmed.drain" .root | nindent 8 }}
      volumeMounts:
        {{- include "plainmed.volumeMounts" .root | nindent 8 }}
{{- end -}}
