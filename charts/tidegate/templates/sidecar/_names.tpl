{{/* What a model adds to the names of its objects, as contract/tidegate_contract/names.py derives it. */}}
{{- define "tidegate.derivedName" -}}
{{- $derived := regexReplaceAll "[^a-z0-9-]" (lower .) "-" }}
{{- if ne $derived . }}
{{- $derived = printf "%s-%s" $derived (sha256sum . | trunc 8) }}
{{- end }}
{{- $derived }}
{{- end }}
