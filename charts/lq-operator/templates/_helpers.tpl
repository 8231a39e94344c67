{{/* Name parts, labels, and the one Deployment and ConfigMap shape that all processes share. */}}

{{- define "lq.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "lq.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "lq.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "lq.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "lq.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: limiquantix
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "lq.selector" -}}
app.kubernetes.io/name: {{ include "lq.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "lq.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* metadata of an object of one process: (dict "root" $ "process" "run") */}}
{{- define "lq.process.metadata" -}}
name: {{ include "lq.fullname" .root }}-{{ .process }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "lq.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .process }}
{{- end -}}

{{/* config.yaml of one process: (dict "root" $ "process" "run" "settings" (dict ...)) */}}
{{- define "lq.process.config" -}}
{{- $values := index .root.Values .process -}}
{{- $common := dict
  "component" .process
  "installationId" .root.Values.installation.id
  "telemetry" (dict "listen" (printf ":%d" (int $values.metricsPort)) "logLevel" .root.Values.logLevel) -}}
{{- /* Those that act alone, under a lease. */}}
{{- if hasKey $values "leaseName" -}}
{{- $coordination := dict "backend" .root.Values.coordination.backend "leaseName" $values.leaseName "ttlSeconds" .root.Values.coordination.ttlSeconds -}}
{{- if eq .root.Values.coordination.backend "etcd" -}}
{{- $etcd := dict "endpoints" .root.Values.coordination.etcd.endpoints "prefix" .root.Values.coordination.etcd.prefix -}}
{{- if .root.Values.coordination.etcd.tlsSecret -}}
{{- $dir := "/var/run/lq-operator/etcd-tls" -}}
{{- $_ := merge $etcd (dict "caFile" (print $dir "/ca.crt") "certFile" (print $dir "/tls.crt") "keyFile" (print $dir "/tls.key")) -}}
{{- end -}}
{{- $_ := set $coordination "etcd" $etcd -}}
{{- end -}}
{{- $_ := merge $common (dict
  "coordination" $coordination
  "workers" $values.workers
  "resyncSeconds" $values.resyncSeconds
  "shutdownSeconds" $values.shutdownSeconds) -}}
{{- end -}}
{{- toYaml (merge $common .settings) -}}
{{- end -}}

{{- define "lq.process" -}}
{{- $values := index .root.Values .process -}}
{{- if and (hasKey $values "leaseName") (le (int $values.terminationGracePeriodSeconds) (int $values.shutdownSeconds)) -}}
{{- fail (printf "%s.terminationGracePeriodSeconds (%v) must be longer than %s.shutdownSeconds (%v), or the kubelet kills work that is allowed to end" .process $values.terminationGracePeriodSeconds .process $values.shutdownSeconds) -}}
{{- end -}}
{{- $config := include "lq.process.config" . -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "lq.process.metadata" . | nindent 2 }}
  {{- with $values.serviceAccountAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
---
apiVersion: v1
kind: ConfigMap
metadata:
  {{- include "lq.process.metadata" . | nindent 2 }}
data:
  config.yaml: |
    {{- $config | nindent 4 }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "lq.process.metadata" . | nindent 2 }}
spec:
  # One process acts at a time (by its lease, or because a console has one owner). Recreate: the old one gives it back first.
  replicas: 1
  strategy:
    type: Recreate
  revisionHistoryLimit: 3
  selector:
    matchLabels:
      {{- include "lq.selector" .root | nindent 6 }}
      app.kubernetes.io/component: {{ .process }}
  template:
    metadata:
      labels:
        {{- include "lq.selector" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .process }}
        {{- with merge (dict) .root.Values.commonLabels $values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        # A changed ConfigMap starts the process anew.
        checksum/config: {{ $config | sha256sum }}
        {{- with $values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "lq.fullname" .root }}-{{ .process }}
      automountServiceAccountToken: true
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
      {{- if $values.hostNetwork }}
      hostNetwork: true
      dnsPolicy: ClusterFirstWithHostNet
      {{- end }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        fsGroup: 65532
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: {{ .process }}
          image: {{ include "lq.image" .root | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: ["lq-operator"]
          args: [{{ .process | quote }}, "--config", "/etc/lq-operator/config.yaml"]
          env:
            - name: POD_NAME
              valueFrom:
                fieldRef:
                  fieldPath: metadata.name
            - name: POD_NAMESPACE
              valueFrom:
                fieldRef:
                  fieldPath: metadata.namespace
            # The root file system is read-only; libvirt's client keeps a cache below HOME.
            - name: HOME
              value: /tmp
          ports:
            - name: metrics
              containerPort: {{ $values.metricsPort }}
            {{- with $values.port }}
            - name: {{ $.process }}
              containerPort: {{ . }}
            {{- end }}
          livenessProbe:
            httpGet:
              path: /healthz
              port: metrics
            initialDelaySeconds: 10
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            httpGet:
              path: /readyz
              port: metrics
            periodSeconds: 5
            timeoutSeconds: 5
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: ["ALL"]
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          volumeMounts:
            - name: config
              mountPath: /etc/lq-operator
              readOnly: true
            - name: tmp
              mountPath: /tmp
            {{- if and (eq .root.Values.coordination.backend "etcd") .root.Values.coordination.etcd.tlsSecret }}
            - name: etcd-tls
              mountPath: /var/run/lq-operator/etcd-tls
              readOnly: true
            {{- end }}
            {{- with $values.tlsSecret }}
            - name: tls
              mountPath: /var/run/lq-operator/tls
              readOnly: true
            {{- end }}
            {{- with $values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: config
          configMap:
            name: {{ include "lq.fullname" .root }}-{{ .process }}
        # Host credentials lie here as files while they are used: in memory, never on a node's disk.
        - name: tmp
          emptyDir:
            medium: Memory
            sizeLimit: 64Mi
        {{- if and (eq .root.Values.coordination.backend "etcd") .root.Values.coordination.etcd.tlsSecret }}
        - name: etcd-tls
          secret:
            secretName: {{ .root.Values.coordination.etcd.tlsSecret }}
            defaultMode: 0440
        {{- end }}
        {{- with $values.tlsSecret }}
        - name: tls
          secret:
            secretName: {{ . }}
            defaultMode: 0440
        {{- end }}
        {{- with $values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end -}}

{{/* The ClusterRole of one process with its binding: (dict "root" $ "process" "run" "rules" "<yaml>") */}}
{{- define "lq.clusterrole" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ include "lq.fullname" .root }}-{{ .process }}
  labels:
    {{- include "lq.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .process }}
rules:
  {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ include "lq.fullname" .root }}-{{ .process }}
  labels:
    {{- include "lq.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .process }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ include "lq.fullname" .root }}-{{ .process }}
subjects:
  {{- include "lq.subject" . | nindent 2 }}
{{- end -}}

{{- define "lq.subject" -}}
- kind: ServiceAccount
  name: {{ include "lq.fullname" .root }}-{{ .process }}
  namespace: {{ .root.Release.Namespace }}
{{- end -}}

{{/* The Role in the release's namespace: (dict "root" $ "process" "run" "credentials" true) */}}
{{- define "lq.ownrole" -}}
{{- $lease := dig .process "leaseName" "" .root.Values.AsMap -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  {{- include "lq.process.metadata" . | nindent 2 }}
rules:
  {{- if and $lease (eq .root.Values.coordination.backend "kubernetes") }}
  # RBAC cannot bind create and list to a name. Changing is bound to this process's own lease and the term counter.
  - apiGroups: [coordination.k8s.io]
    resources: [leases]
    verbs: [list, create]
  - apiGroups: [coordination.k8s.io]
    resources: [leases]
    resourceNames: [lq-terms, {{ printf "lq-%s" $lease | quote }}]
    verbs: [get, patch]
  {{- end }}
  {{- if .credentials }}
  # Credentials of hosts: HypervisorNode.spec.credentialsSecretRef names a Secret of this namespace.
  - apiGroups: [""]
    resources: [secrets]
    {{- with .root.Values.rbac.nodeCredentialSecrets }}
    resourceNames:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    verbs: [get]
  {{- end }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  {{- include "lq.process.metadata" . | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ include "lq.fullname" .root }}-{{ .process }}
subjects:
  {{- include "lq.subject" . | nindent 2 }}
{{- end -}}
