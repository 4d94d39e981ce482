"""Engine arguments that reach further than the model, and where they may be used.

`spec.engine.args` go to the engine by its own names. Most of them tune it. Some make it run Python code that the user
names, open or write files of the pod, or call and listen elsewhere: whoever sets one can do all that the replica can,
and in a shared pool that includes other teams' models. They need a pool with `trustRemoteCode: Allowed`.

The planner asks here before anything is placed; the replica asks again before its engine sees the arguments.
"""

from __future__ import annotations

from collections.abc import Mapping

from plinth.domain.fleet import Engine

CODE = "runs code that comes with a model or is named by whoever deploys it"
FILES = "opens files beside the model"
NETWORK = "connects to, or listens on, addresses of the user's choice"

REACHING: Mapping[Engine, Mapping[str, str]] = {
    Engine.VLLM: {
        **dict.fromkeys(
            (
                *(
                    "trust-remote-code",
                    "code-revision",
                    "trust-request-chat-template",
                    "model-class-overrides",
                ),
                *("tool-parser-plugin", "reasoning-parser-plugin", "structured-outputs-config"),
                *("io-processor-plugin", "logits-processors", "log-config-file", "additional-config"),
                *("worker-cls", "worker-extension-cls", "scheduler-cls", "compilation-config"),
                *("kv-transfer-config", "ec-transfer-config"),
            ),
            CODE,
        ),
        **dict.fromkeys(
            (
                *("tokenizer", "tokenizer-revision", "hf-config-path", "generation-config", "chat-template"),
                *("default-mm-loras", "speculative-config", "spec-model"),
                *("allowed-local-media-path", "download-dir", "model-loader-extra-config", "profiler-config"),
                *("mm-encoder-fp8-scale-path", "mm-encoder-fp8-scale-save-path"),
            ),
            FILES,
        ),
        **dict.fromkeys(
            (
                *("tool-server", "otlp-traces-endpoint", "kv-events-config", "hf-token"),
                *("master-addr", "master-port", "nnodes", "node-rank", "data-parallel-address"),
                *("data-parallel-rpc-port", "data-parallel-supervisor-port", "data-parallel-backend"),
            ),
            NETWORK,
        ),
    },
    Engine.LLAMA_CPP: {
        **dict.fromkeys(
            (
                *("embd-out", "logits-file", "logits-output-dir", "out-file", "prompt-file"),
                *("path-prompt-cache", "path-prompts-log-dir", "models-preset", "tts-speaker-file"),
            ),
            FILES,
        ),
        **dict.fromkeys(("server-tools-runtime", "video-ffmpeg-bin-dir"), CODE),
        **dict.fromkeys(("models-preset-hf", "hf-token", "server-base"), NETWORK),
    },
}
"""Why each of them is kept back. A test with the real engines goes through all the arguments that they have."""

_SWITCHES = frozenset({"trust-remote-code", "trust-request-chat-template"})
_OFF = frozenset({"false", "0", "off"})


def find_reaching(engine: Engine, args: Mapping[str, str]) -> tuple[str, str] | None:
    """The first argument that reaches further than the model, and how; None where none does."""
    for name in sorted(args):
        why = REACHING[engine].get(name)
        switched_off = name in _SWITCHES and args[name].strip().lower() in _OFF
        if why is not None and not switched_off:
            return name, why
    return None


def refuse_reaching(engine: Engine, args: Mapping[str, str], *, pool: str, allowed: bool) -> str | None:
    """Why these arguments may not be used on a pool, with what would work; None where they may."""
    found = None if allowed else find_reaching(engine, args)
    if found is None:
        return None
    name, why = found
    return (
        f"spec.engine.args.{name}: it {why}, and GPUPool {pool} says trustRemoteCode: Forbidden; leave it out, or "
        "use a pool with a namespace of its own and trustRemoteCode: Allowed"
    )
