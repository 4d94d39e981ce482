"""What the page on planning shows is what the planner computes."""

from plinth.tests.domain.sizing.worked_example import make_example
from plinth.tests.house.documents import ROOT

PAGE = (ROOT / "docs/concepts/planning.md").read_text(encoding="utf-8")


def test_the_worked_example_is_computed() -> None:
    example = make_example()
    assert f"```text\n{example}\n```" in PAGE, "plinth.tests.domain.sizing.worked_example prints it anew"
    for figure in ("63.0 GiB", "262,144 B"):
        assert figure in example, f"the prose below the example says {figure}"
