"""No argument of an engine reaches further than the model unnoticed: all that the real engines have are gone through.

An update of an engine that brings a new argument with such a name fails here until it has been looked at.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import xllamacpp

from plinth.api.v1alpha1.owned_arguments import OWNED_ARGUMENTS
from plinth.domain.engine_args import REACHING
from plinth.domain.fleet import Engine
from plinth.engine import llamacpp, vllm_args
from plinth.engine.seam import EngineError
from plinth.engine.trust import refuse_untrusted
from plinth.tests.engine.serving import make_spec

VLLM_PYTHON = Path(__file__).parents[4] / ".venv-vllm" / "bin" / "python"
LIST_ARGUMENTS = """
from vllm.entrypoints.openai.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
print(*make_arg_parser(FlexibleArgumentParser())._option_string_actions)
"""
SUSPICIOUS = re.compile(
    r"path|dir\b|file|plugin|cls|class|module|-config$|token|url|addr|port\b|endpoint|server|template|script"
    r"|middleware|processor|remote|revision|^model|lora|cache-dir|host|uds|origin|node|backend-options|extra"
)
HARMLESS_IN_VLLM = {
    # Only numbers, choices from a list, or switches.
    *("attention-config", "kernel-config", "eplb-config", "reasoning-config", "quantization-config"),
    *("pooler-config", "diffusion-config", "weight-transfer-config", "override-generation-config"),
    *("max-loras", "lora-dtype", "max-cpu-loras", "fully-sharded-loras"),
    *(
        "lora-target-modules",
        "specialize-active-lora",
        "enable-mixed-moe-lora-format",
        "enable-tower-connector-lora",
    ),
    *("mm-processor-kwargs", "mm-processor-cache-gb", "mm-processor-cache-type"),
    *(
        "chat-template-content-format",
        "default-chat-template-kwargs",
        "return-tokens-as-token-ids",
        "tokens-only",
    ),
    *("skip-tokenizer-init", "tokenizer-mode", "model-impl", "max-num-batched-tokens", "spec-tokens"),
    *("enable-prompt-tokens-details", "long-prefill-token-threshold", "enable-tokenizer-info-endpoint"),
    *("dbo-decode-token-threshold", "dbo-prefill-token-threshold", "enable-server-load-tracking"),
    *("disable-access-log-for-endpoints", "numa-bind-nodes", "data-parallel-multi-port-external-lb"),
}
HARMLESS_TEXTS_IN_LLAMA_CPP = {
    *("chat-template", "chunk-separator", "cls-sep", "embd-sep", "input-prefix", "input-suffix", "prompt"),
    *(
        "cors-headers",
        "cors-methods",
        "cors-origins",
        "mmproj-device",
        "system-prompt",
        "tensor-buft-overrides",
    ),
    *("tts-lang", "ui-config-json"),
}


def test_every_text_that_llama_cpp_takes_is_judged() -> None:
    params = xllamacpp.CommonParams()
    texts = {
        name.replace("_", "-")
        for name in dir(params)
        if not name.startswith("_") and isinstance(getattr(params, name, None), str)
    }
    judged = REACHING[Engine.LLAMA_CPP].keys() | llamacpp._OURS | OWNED_ARGUMENTS.keys()
    assert texts - judged == HARMLESS_TEXTS_IN_LLAMA_CPP
    assert REACHING[Engine.LLAMA_CPP].keys() <= texts, "an argument that it does not have any more"


@pytest.mark.vllm
def test_every_argument_of_vllm_whose_name_tells_of_more_than_the_model_is_judged() -> None:
    listed = subprocess.run(
        [VLLM_PYTHON, "-c", LIST_ARGUMENTS], capture_output=True, text=True, check=True, timeout=200
    )
    options = listed.stdout.splitlines()[-1].split()
    names = {option.removeprefix("--") for option in options if option.startswith("--")}
    names -= {name for name in names if name.startswith("no-")}
    judged = REACHING[Engine.VLLM].keys() | vllm_args._OURS | OWNED_ARGUMENTS.keys()
    assert {name for name in names - judged if SUSPICIOUS.search(name)} == HARMLESS_IN_VLLM
    assert REACHING[Engine.VLLM].keys() <= names, "an argument that it does not have any more"


def test_the_replica_refuses_what_the_planner_would_have() -> None:
    spec = make_spec(engine=Engine.VLLM, args={"enforce-eager": "true", "worker-cls": "evil.Worker"})
    with pytest.raises(
        EngineError, match=r"engine.args.worker-cls: it runs code .*, which this pool forbids"
    ):
        refuse_untrusted(spec, trust_remote_code=False)
    refuse_untrusted(spec, trust_remote_code=True)
    refuse_untrusted(make_spec(args={"n-batch": "512"}), trust_remote_code=False)
