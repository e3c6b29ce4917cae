{{- define "rttc.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "rttc.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "rttc.labels" -}}
{{ include "rttc.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "rttc.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "rttc.env" -}}
{{- $database := .Values.database }}
{{- range $name, $key := dict "URL" $database.urlKey "POOLER_URL" $database.poolerUrlKey "READ_URL" $database.readUrlKey }}
{{- if $key }}
- name: RTTC_DATABASE_{{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $database.secret | quote }}
      key: {{ $key | quote }}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: RTTC_{{ $name | upper }}
  {{- if and (kindIs "float64" $value) (eq $value (floor $value)) }}
  value: {{ printf "%.0f" $value | quote }}
  {{- else }}
  value: {{ $value | toString | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "rttc.envFrom" -}}
{{- range $place, $name := .Values.secretEnv -}}
{{- if $place }}
{{ end -}}
- secretRef:
    name: {{ $name | quote }}
{{- end }}
{{- end -}}

{{- define "rttc.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "rttc.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
