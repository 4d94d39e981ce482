#!/usr/bin/env bash
# Runs gpu_stack.py on a GPU machine without a network, where each call's time is limited: gpu_run.sh [SECONDS [ARGS]]
#
# The first call unpacks the engines ($HOME/parts, $HOME/zb), copies the sources aside and starts the benchmark in a
# session of its own, which outlives the call. Each call waits up to SECONDS for its end, then leaves what there is in
# $OUT. ARGS go to gpu_stack.py (`--phases TP2`); only the first call's count.
set -uo pipefail
seconds=${1:-540}
[[ $# -gt 0 ]] && shift
here=$(cd "$(dirname "$0")/../.." && pwd)
work=$HOME/gpu-stack
ends=$((SECONDS + seconds))

export PYTHONPATH="$work/operator:$HOME/whl:$HOME/site" PYTHONUNBUFFERED=1
# NVLink multicast can put a shared host's GPUs out of service; nothing here may use it.
export NCCL_NVLS_ENABLE=0 TORCH_SYMM_MEM_DISABLE_MULTICAST=1 NVSHMEM_DISABLE_NVLS=1 VLLM_ALLREDUCE_USE_SYMM_MEM=0
# Memory of a microVM grows as it is used; Ray would take the early total for the limit and kill the replica.
export RAY_memory_monitor_refresh_ms=0
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 RAY_USAGE_STATS_ENABLED=0 VLLM_USE_FLASHINFER_SAMPLER=0
# One cache of compiled kernels for both stacks, so that only the first start of a shape compiles.
export VLLM_CACHE_ROOT="$work/vllm-cache" TORCHINDUCTOR_CACHE_DIR="$work/inductor" TRITON_CACHE_DIR="$work/triton"
ulimit -n 65535 2>/dev/null || ulimit -n "$(ulimit -Hn)"

start() {
  mkdir -p "$work" "$HOME/whl"
  nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
  nvidia-smi topo -m 2>/dev/null | head -4
  bash "$HOME/zb/unpack.sh" || return 1
  if compgen -G "$here/.whl/*.whl" >/dev/null; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$HOME/whl" "$here"/.whl/*.whl || return 1
  fi
  # A later call replaces the working tree; what runs must not change under it.
  cp -r "$here/operator" "$here/e2e" "$work/"
  timeout 60 python3 -m compileall -q -j 0 "$HOME/site" "$work/operator" >/dev/null 2>&1
  echo "unpacked and compiled after $SECONDS s"
  cd "$work" || return 1
  python3 -c 'import plinth.cli, plinth.engine.app, ray, vllm, torch; print("torch", torch.__version__, "GPUs", torch.cuda.device_count())' || return 1
  setsid nohup python3 e2e/benchmarks/gpu_stack.py --place "$work/run" "$@" >"$work/records.jsonl" 2>"$work/driver.log" </dev/null &
  echo $! >"$work/pid"
}

collect() {
  [[ -n ${OUT:-} ]] || return 0
  mkdir -p "$OUT"
  # At most eight files come back: the records, the raw measurements, the log, and the engines' logs in one archive.
  cp "$work/run/gpu_stack.jsonl" "$work/run/measurements.jsonl" "$work/driver.log" "$OUT/" 2>/dev/null
  (cd "$work/run" && find . -name '*.log' -o -name 'engines-*.json' -o -name 'fleet.yaml' | tar czf "$OUT/logs.tar.gz" -T -) 2>/dev/null
  tar czf "$OUT/ray-logs.tar.gz" --exclude='*.sock*' /tmp/plinth-*/session_2*/logs 2>/dev/null
  local size
  size=$(stat -c %s "$OUT/ray-logs.tar.gz" 2>/dev/null || echo 0)
  [[ $size -lt 15000000 ]] || rm -f "$OUT/ray-logs.tar.gz"
}

is_running() { [[ -f $work/pid ]] && kill -0 "$(<"$work/pid")" 2>/dev/null; }

if [[ ! -f $work/pid ]]; then
  start "$@" || { echo "could not start"; collect; exit 1; }
fi
while is_running && ((SECONDS < ends)); do sleep 1; done
is_running && echo "still running" || echo "ended"
collect
tail -n 60 "$work/driver.log" | cut -c1-600
