{{/* Name of the ConfigMap of a model's routing table, as contract/tidegate_contract/names.py derives it. */}}
{{- define "tidegate.routingTable" -}}
{{- $derived := regexReplaceAll "[^a-z0-9-]" (lower .) "-" }}
{{- if ne $derived . }}
{{- $derived = printf "%s-%s" $derived (sha256sum . | trunc 8) }}
{{- end }}
{{- printf "tidegate-routing-%s" $derived }}
{{- end }}
