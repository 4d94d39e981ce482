"""What the tests of this folder read: the checkout, its tracked files, its documents."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[4]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def tracked_files() -> list[Path]:
    """Files that git tracks or would on the next `git add`, as they are on disk."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def documents() -> dict[str, str]:
    """Every markdown file's text by its path in the checkout."""
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for path in tracked_files()
        if path.suffix == ".md"
    }


def without_code(text: str) -> str:
    """The prose: fenced blocks and code spans taken out."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def code_in(text: str) -> list[str]:
    """The code: each line of fenced blocks without its prompt, and each code span."""
    lines = [line.removeprefix("$ ").strip() for block in FENCE.findall(text) for line in block.splitlines()]
    return [*lines, *re.findall(r"`([^`\n]+)`", FENCE.sub("", text))]


def anchors_in(text: str) -> set[str]:
    """The anchors of a document's headings, as the hosting sites make them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
