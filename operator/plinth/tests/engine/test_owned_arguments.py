"""What an engine would refuse to be told, the API refuses first, with where to say it instead."""

from __future__ import annotations

import pytest

from plinth.api.v1alpha1.owned_arguments import LEAVE_OUT, OWNED_ARGUMENTS
from plinth.engine import llamacpp, vllm_args


@pytest.mark.parametrize("name", sorted(vllm_args._OURS | llamacpp._OURS))
def test_an_argument_that_an_engine_keeps_is_refused_before_it_gets_there(name: str) -> None:
    assert name in OWNED_ARGUMENTS


def test_each_says_what_to_do_instead() -> None:
    assert all(words == LEAVE_OUT or words.startswith("set spec.") for words in OWNED_ARGUMENTS.values())
