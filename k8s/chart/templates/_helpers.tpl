{{- define "millrace.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "millrace.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "millrace.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "millrace.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "millrace.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "millrace.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* Labels that select all pods of a release. */ -}}
{{- define "millrace.selector" -}}
app.kubernetes.io/name: {{ include "millrace.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "millrace.labels" -}}
{{ include "millrace.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "millrace.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- /* The settings of all roles. What depends on the pod comes from its environment. */ -}}
{{- define "millrace.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $forced := dict
  "server" (dict "http_listen_address" "0.0.0.0" "http_listen_port" 3100)
  "runtime_config" (dict "file" "/etc/millrace/overrides/overrides.yaml") -}}
{{- if eq .Values.mode "single" -}}
{{- $_ := set $forced "common" (dict "path_prefix" "/data") -}}
{{- $_ := unset $config "kafka" -}}
{{- $_ := unset $config "store" -}}
{{- end -}}
{{- mergeOverwrite $config $forced | toYaml -}}
{{- end -}}

{{- define "millrace.check" -}}
{{- if not (has .Values.mode (list "fleet" "single")) -}}
{{- fail (printf "mode must be fleet or single, not %q" .Values.mode) -}}
{{- end -}}
{{- if eq .Values.mode "fleet" -}}
{{- if not (dig "kafka" "brokers" "" .Values.config) -}}
{{- fail "config.kafka.brokers is not set: name Kafka's brokers as host:port,host:port, or choose mode: single" -}}
{{- end -}}
{{- if not (dig "store" "s3" "bucket" "" .Values.config) -}}
{{- fail "config.store.s3.bucket is not set: name the bucket for blocks, or choose mode: single" -}}
{{- end -}}
{{- $partitions := int (dig "kafka" "partitions" 16 .Values.config) -}}
{{- $consumers := int .Values.consumer.replicas -}}
{{- if .Values.consumer.keda.enabled -}}
{{- $consumers = int .Values.consumer.keda.maxReplicas -}}
{{- if not .Values.prometheus.address -}}
{{- fail "consumer.keda.enabled needs prometheus.address: consumers scale on their own metrics" -}}
{{- end -}}
{{- end -}}
{{- if gt $consumers $partitions -}}
{{- fail (printf "%d consumers, but config.kafka.partitions is %d: consumers beyond the number of partitions have no work" $consumers $partitions) -}}
{{- end -}}
{{- end -}}
{{- if le (int .Values.terminationGracePeriodSeconds) 30 -}}
{{- fail "terminationGracePeriodSeconds must be more than 30: a process drains for up to server.graceful_shutdown_timeout (30s)" -}}
{{- end -}}
{{- end -}}

{{- /* The pod template of a role. Takes a dict: root, role (the command), component, values. */ -}}
{{- define "millrace.pod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "millrace.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
    {{- with $root.Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Settings are read at start, so pods restart when they change. Overrides are reloaded and do not restart anything.
    checksum/config: {{ include "millrace.config" $root | sha256sum }}
    {{- with $root.Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "millrace.serviceAccountName" $root }}
  automountServiceAccountToken: false
  # Services would otherwise put variables such as MILLRACE_GATEWAY_SERVICE_HOST into every pod.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $root.Values.terminationGracePeriodSeconds }}
  securityContext:
    {{- toYaml $root.Values.podSecurityContext | nindent 4 }}
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  affinity:
    {{- if .values.affinity }}
    {{- toYaml .values.affinity | nindent 4 }}
    {{- else }}
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels:
                {{- include "millrace.selector" $root | nindent 16 }}
                app.kubernetes.io/component: {{ .component }}
    {{- end }}
  {{- if $root.Values.topologySpread.enabled }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: {{ $root.Values.topologySpread.zoneKey }}
      whenUnsatisfiable: {{ $root.Values.topologySpread.whenUnsatisfiable }}
      labelSelector:
        matchLabels:
          {{- include "millrace.selector" $root | nindent 10 }}
          app.kubernetes.io/component: {{ .component }}
  {{- end }}
  containers:
    - name: millrace
      image: {{ include "millrace.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [{{ .role }}, --config=/etc/millrace/config/millrace.yaml]
      env:
        - name: MILLRACE_CLUSTER__NAME
          valueFrom: { fieldRef: { fieldPath: metadata.name } }
        - name: POD_IP
          valueFrom: { fieldRef: { fieldPath: status.podIP } }
        - name: MILLRACE_CLUSTER__ADVERTISE_ADDRESS
          value: "$(POD_IP):3100"
        {{- with $root.Values.zoneFromPodLabel }}
        - name: MILLRACE_CLUSTER__ZONE
          valueFrom: { fieldRef: { fieldPath: "metadata.labels['{{ . }}']" } }
        {{- end }}
        {{- if has .component (list "consumer" "follower") }}
        # Static membership: a pod that restarts within the session keeps its partitions.
        - name: MILLRACE_KAFKA__INSTANCE_ID
          valueFrom: { fieldRef: { fieldPath: metadata.name } }
        {{- end }}
        {{- if eq .component "follower" }}
        - name: MILLRACE_CONSUMER__MODE
          value: follow
        {{- end }}
        {{- range $root.Values.secretEnv }}
        - name: {{ .name }}
          valueFrom: { secretKeyRef: { name: {{ .secret }}, key: {{ .key }} } }
        {{- end }}
        {{- with $root.Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - { name: http, containerPort: 3100, protocol: TCP }
      startupProbe:
        tcpSocket: { port: http }
        periodSeconds: 2
        failureThreshold: 60
      readinessProbe:
        httpGet: { path: /ready, port: http }
        periodSeconds: 5
        timeoutSeconds: 3
      livenessProbe:
        tcpSocket: { port: http }
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      resources:
        {{- toYaml .values.resources | nindent 8 }}
      securityContext:
        {{- toYaml $root.Values.containerSecurityContext | nindent 8 }}
      volumeMounts:
        - { name: config, mountPath: /etc/millrace/config, readOnly: true }
        - { name: overrides, mountPath: /etc/millrace/overrides, readOnly: true }
        - { name: tmp, mountPath: /tmp }
        {{- if eq .component "single" }}
        - { name: data, mountPath: /data }
        {{- end }}
        {{- with $root.Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: { name: {{ include "millrace.fullname" $root }}-config }
    - name: overrides
      configMap: { name: {{ include "millrace.fullname" $root }}-overrides }
    - name: tmp
      emptyDir: { sizeLimit: 64Mi }
    {{- with $root.Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- /* The pods of one component. Takes a dict: root, component. */ -}}
{{- define "millrace.componentSelector" -}}
{{ include "millrace.selector" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}
