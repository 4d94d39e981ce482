"""What a replica's spec means to vLLM, said in the arguments of `vllm serve` and read by vLLM's own parser."""

from __future__ import annotations

import difflib
import json
from argparse import Action
from typing import Any, NoReturn

from plinth.api.v1alpha1.modeldeployment import Task
from plinth.domain.fleet import EngineSpec
from plinth.domain.predictions import vllm_kv_bytes
from plinth.domain.sizing.engine_defaults import adapters_at_once, asked_sequences
from plinth.engine.place import NodeRank
from plinth.engine.seam import EngineError, LocalModel

_TRUTHS = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}
_OURS = frozenset(
    (
        *(
            "model",
            "model-tag",
            "config",
            "headless",
            "served-model-name",
            "max-model-len",
        ),
        *("tensor-parallel-size", "pipeline-parallel-size", "enable-expert-parallel", "data-parallel-size"),
        *("enable-lora", "lora-modules", "max-lora-rank"),
        *("device-ids", "nnodes", "node-rank", "master-addr", "master-port"),
        *("distributed-executor-backend", "api-server-count", "host", "port", "uds", "grpc", "root-path"),
        *("api-key", "ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "middleware", "allowed-origins"),
    )
)
"""Arguments that Plinth sets from other fields, or that are a server's of its own."""


def make_arguments(spec: EngineSpec, model: LocalModel, rank: NodeRank | None = None) -> list[str]:
    """Plinth's part of the command line; `rank` is this node's where the engine spans several."""
    arguments = [
        f"--model={model.path}",
        "--served-model-name",
        *spec.served_names,
        f"--tensor-parallel-size={spec.tensor_parallel}",
        f"--max-model-len={spec.context_tokens}",
    ]
    if spec.pipeline_parallel > 1:
        arguments.append(f"--pipeline-parallel-size={spec.pipeline_parallel}")
    if spec.data_parallel > 1:
        arguments.append(f"--data-parallel-size={spec.data_parallel}")
    if spec.expert_parallel > 1:
        # vLLM spreads experts over all ranks of a stage or none, so the degree is a switch to it.
        arguments.append("--enable-expert-parallel")
    if spec.shape.accelerators > 1:
        # All workers are our own processes; left alone, vLLM would see Ray and start actors of its own.
        arguments.append("--distributed-executor-backend=mp")
    if rank is not None:
        arguments += _node_arguments(spec, rank)
    sequences = asked_sequences(spec.concurrency)
    if sequences is not None:
        arguments.append(f"--max-num-seqs={sequences}")
    if spec.adapters:
        arguments += _adapter_arguments(spec, model)
    if spec.task != Task.GENERATE:
        arguments.append("--runner=pooling")
    if spec.threads:
        kv_bytes = vllm_kv_bytes(spec.memory_bytes, model.weights_bytes, spec.adapter_bytes)
        arguments.append(f"--kv-cache-memory-bytes={kv_bytes}")
    else:
        arguments.append(f"--gpu-memory-utilization={spec.memory_utilization_percent / 100}")
    return arguments


def _adapter_arguments(spec: EngineSpec, model: LocalModel) -> list[str]:
    """The adapters by the names that clients ask for. The user's arguments follow and may say how many are in a batch.

    Raises:
        EngineError: one has a higher rank than room was planned for.
    """
    for name, adapter in model.adapters.items():
        if adapter.rank > spec.adapter_rank:
            raise EngineError(
                f"spec.adapters: {name} has rank {adapter.rank}, and there is room for {spec.adapter_rank};"
                f" set its rank to {adapter.rank}"
            )
    told = [
        json.dumps({"name": asked_for, "path": str(model.adapters[name].path)})
        for asked_for, name in zip(spec.adapter_names, spec.adapters, strict=True)
    ]
    return [
        "--enable-lora",
        f"--max-loras={adapters_at_once(len(told))}",
        f"--max-lora-rank={spec.adapter_rank}",
        "--lora-modules",
        *told,
    ]


def _node_arguments(spec: EngineSpec, rank: NodeRank) -> list[str]:
    """A node's part. Each gets as many ranks as the next, in order: whole stages, where nodes divide their number.

    Raises:
        EngineError: the shape does not divide so.
    """
    if spec.pipeline_parallel % rank.nodes or spec.data_parallel > 1:
        raise EngineError(
            f"vLLM cannot spread {spec.shape} over {rank.nodes} nodes: a node holds whole pipeline stages, "
            "as many as the next, of one data-parallel rank"
        )
    return [
        f"--nnodes={rank.nodes}",
        f"--node-rank={rank.rank}",
        f"--master-addr={rank.address}",
        f"--master-port={rank.port}",
        *(["--headless"] if rank.rank else []),
    ]


def parse_arguments(spec: EngineSpec, model: LocalModel, rank: NodeRank | None = None) -> Any:
    """The namespace that `vllm serve` would have, Plinth's arguments first so that the user's win.

    Raises:
        EngineError: an argument that vLLM does not have, does not take so, or that is not the user's to set.
    """
    from vllm.entrypoints.openai.cli_args import (  # noqa: PLC0415 - loads torch
        make_arg_parser,
        validate_parsed_serve_args,
    )
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: PLC0415 - the same

    class Parser(FlexibleArgumentParser):  # type: ignore[misc] # untyped
        """Raises where the command line would exit."""

        def error(self, message: str) -> NoReturn:
            raise EngineError(f"vLLM: {message}")

    parser = make_arg_parser(Parser())
    known: dict[str, Action] = parser._option_string_actions  # noqa: SLF001 - argparse tells its options no other way
    arguments = make_arguments(spec, model, rank)
    for name, text in spec.args.items():
        arguments += argument(known, name, text)
    try:
        args = parser.parse_args(arguments)
        validate_parsed_serve_args(args)
    except (TypeError, ValueError) as error:
        raise EngineError(f"vLLM: {error}") from error
    return args


def argument(known: dict[str, Action], name: str, text: str) -> list[str]:
    """One of the user's arguments as words of a command line.

    Raises:
        EngineError: names the nearest argument that there is.
    """
    option = f"--{name}"
    if name in _OURS:
        raise EngineError(f"engine.args.{name} is set by Plinth; remove it")
    if option not in known:
        near = difflib.get_close_matches(option, list(known), n=1, cutoff=0.5)
        hint = f"; the nearest is {near[0].removeprefix('--')}" if near else ""
        raise EngineError(f"vLLM has no argument {name}{hint}")
    if known[option].nargs != 0:
        return [f"{option}={text}"]
    if text.strip().lower() not in _TRUTHS:
        raise EngineError(f"{name} must be true or false, not {text!r}")
    if _TRUTHS[text.strip().lower()]:
        return [option]
    negated = f"--no-{name}"
    return [negated] if negated in known else []
