"""What `file://`, `pvc://` and `package://` may reach, symbolic links followed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from plinth.domain.sources import parse_source
from plinth.engine.local_sources import MAX_LISTED, SourcePlaces, find_local


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    """A pod's files: shared models, two claims, and what nobody may read."""
    for folder in ("models/tiny", "volumes/weights/tiny", "volumes/other", "etc"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/secret").write_text("engine secret")
    (tmp_path / "volumes/other/a.gguf").write_bytes(b"GGUF other")
    for folder in ("models", "volumes/weights"):
        (tmp_path / folder / "q4.gguf").write_bytes(b"GGUF")
        (tmp_path / folder / "tiny/config.json").write_text("{}")
        (tmp_path / folder / "tiny/model.safetensors").write_bytes(b"w" * 10)
    return tmp_path


def places(pod: Path) -> SourcePlaces:
    return SourcePlaces(shared=pod / "models", volumes=pod / "volumes")


def sizes(source: str, where: SourcePlaces) -> dict[str, int]:
    return dict(find_local(parse_source(source), where).sizes())


def refusal(source: str, where: SourcePlaces) -> str:
    with pytest.raises(ValueError, match=r".+") as refused:
        sizes(source, where)
    return str(refused.value)


def test_what_lies_below_the_shared_models_or_on_a_claim_is_found(pod: Path) -> None:
    folder = {"config.json": 2, "model.safetensors": 10}
    assert sizes(f"file://{pod}/models/tiny", places(pod)) == folder
    assert sizes("pvc://weights/tiny", places(pod)) == folder
    assert sizes("pvc://weights/q4.gguf", places(pod)) == {"q4.gguf": 4}
    assert set(sizes("pvc://weights", places(pod))) == {
        "q4.gguf",
        "tiny/config.json",
        "tiny/model.safetensors",
    }


@pytest.mark.parametrize(
    "path",
    ["etc/secret", "volumes/weights/q4.gguf", "models", "models2/x"],
)
def test_in_a_cluster_file_reaches_the_shared_models_only(pod: Path, path: str) -> None:
    where = SourcePlaces(shared=pod / "models/tiny")
    message = refusal(f"file://{pod}/{path}", where)
    assert message.startswith(f"it must lie below {pod}/models/tiny: in a cluster no other file of the pod")
    assert "pvc://claim/path" in message


@pytest.mark.parametrize(
    "path", ["/proc/self/environ", "/var/run/secrets/kubernetes.io", "/etc/plinth/engine"]
)
def test_the_pods_own_files_are_out_of_reach(pod: Path, path: str) -> None:
    assert "it must lie below" in refusal(f"file://{path}", places(pod))


def test_on_a_machine_of_ones_own_file_reaches_any_file(pod: Path) -> None:
    (pod / "link").symlink_to(pod / "models/tiny")
    assert len(sizes(f"file://{pod}/link", SourcePlaces())) == 2


@pytest.mark.parametrize("base", ["models", "volumes/weights"])
@pytest.mark.parametrize("target", ["etc", "etc/secret", "volumes/other/a.gguf", "/proc/self"])
def test_a_link_out_of_bounds_is_not_followed(pod: Path, base: str, target: str) -> None:
    (pod / base / "link.gguf").symlink_to(pod / target)
    source = f"file://{pod}/models/link.gguf" if base == "models" else "pvc://weights/link.gguf"
    assert refusal(source, places(pod)) == (
        f"it is a link that leads out of {pod}/{base}; put the model itself there"
    )


def test_a_folder_whose_files_lead_out_of_bounds_is_refused_whole(pod: Path) -> None:
    # The engine would open it: a chat template that is a link to a secret would end up in prompts.
    (pod / "volumes/weights/tiny/chat_template.jinja").symlink_to(pod / "etc/secret")
    assert refusal("pvc://weights/tiny", places(pod)) == (
        f"chat_template.jinja is a link that leads out of {pod}/volumes/weights; put the file itself there"
    )


def test_a_folder_that_leads_out_of_bounds_is_refused_too(pod: Path) -> None:
    (pod / "models/tiny/more").symlink_to(pod / "volumes/other")
    assert "more is a link that leads out of" in refusal(f"file://{pod}/models/tiny", places(pod))


def test_links_within_bounds_are_followed_as_a_hubs_cache_needs(pod: Path) -> None:
    (pod / "models/snapshot").mkdir()
    (pod / "models/snapshot/model.safetensors").symlink_to("../tiny/model.safetensors")
    assert sizes(f"file://{pod}/models/snapshot", places(pod)) == {"model.safetensors": 10}


def test_a_neighbours_link_is_no_obstacle_and_no_part_of_the_model(pod: Path) -> None:
    (pod / "models/part-00002-of-00002.gguf").symlink_to(pod / "volumes/other/a.gguf")
    assert set(sizes(f"file://{pod}/models/q4.gguf", places(pod))) == {"q4.gguf"}


def test_a_loop_of_links_leads_nowhere(pod: Path) -> None:
    (pod / "models/a").symlink_to(pod / "models/b")
    (pod / "models/b").symlink_to(pod / "models/a")
    assert "no such file or folder" in refusal(f"file://{pod}/models/a", places(pod))


def test_a_claim_that_is_not_mounted_is_named_with_what_would_help(pod: Path) -> None:
    for where in (places(pod), SourcePlaces(shared=pod / "models")):
        message = refusal("pvc://missing/m.gguf", where)
        assert message.startswith("the volume claim missing is not mounted here; list it in spec.volumes")


def test_outside_a_cluster_there_are_no_claims() -> None:
    assert refusal("pvc://weights/q4.gguf", SourcePlaces()) == (
        "there are no volume claims outside a cluster; write file:///path or hf://org/name"
    )


def test_a_named_files_folder_may_hold_any_number_of_others_but_a_models_own_may_not(pod: Path) -> None:
    for number in range(MAX_LISTED + 1):
        os.link(pod / "etc/secret", pod / f"models/tiny/{number}")
    assert f"its folder holds over {MAX_LISTED} files" in refusal(f"file://{pod}/models/tiny", places(pod))
    assert "q4.gguf" in sizes(f"file://{pod}/models/q4.gguf", places(pod))


def test_a_folder_on_pythons_path_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "someones_folder").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert refusal("package://someones_folder", SourcePlaces()) == (
        "someones_folder is a folder without __init__.py, not an installed package; use file://"
    )
