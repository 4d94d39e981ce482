"""Serves one replica until it is killed: `python -m plinth.tests.engine.run_replica FOLDER CHANGES`.

Prints its address. Run with the Python of the vLLM environment, which has no pytest.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from plinth.tests.engine.serving import make_spec, serving


async def main(folder: Path, changes: dict[str, object]) -> None:
    async with serving(folder, make_spec(**changes)) as served:
        print(served.base, flush=True)  # noqa: T201 - the test reads it
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
