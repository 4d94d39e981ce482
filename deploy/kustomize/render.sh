#!/usr/bin/env bash
# Renders base/plinth.yaml from the chart, for those who install with Kustomize. A test holds the two together.
# Another namespace than plinth-system: render.sh NAMESPACE, and change it in base/namespace.yaml.
set -euo pipefail
cd "$(dirname "$0")"
"${HELM:-helm}" template plinth ../../charts/plinth --namespace "${1:-plinth-system}" --no-hooks \
  --kube-version 1.34.4 --set secrets.create=false,crds.install=false >base/plinth.yaml
