"""The page of the gateway's flags and metrics is the one that the program gives."""

from plinth.tests.house.documents import ROOT
from plinth.tests.house.gateway_reference import render


def test_the_committed_page_is_the_one_rendered_now() -> None:
    page = (ROOT / "docs/reference/gateway.md").read_text(encoding="utf-8")
    assert page == render(), "python -m plinth.tests.house.gateway_reference prints it anew"


def test_it_has_flags_of_every_kind_and_metrics_with_their_labels() -> None:
    page = render()
    for line in (
        "| `--workers N\\|auto` |",
        "| `--body-bytes` | 32 MiB |",
        "| `--resume-seconds` | 30 s |",
        "| `plinth_gateway_held_seconds` | `model`, `band` | histogram |",
    ):
        assert line in page
