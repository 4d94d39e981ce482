"""The folder's watcher on a real file system: quick, whatever way files, folders and links are changed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from plinth.cluster.folder import watch
from plinth.tests.cluster.test_folder import model, write

pytestmark = pytest.mark.process


@asynccontextmanager
async def watching(folder: Path) -> AsyncIterator[asyncio.Queue[float]]:
    """The times at which the watcher gave notice."""
    noticed: asyncio.Queue[float] = asyncio.Queue()

    async def follow() -> None:
        async for _ in watch(folder):
            noticed.put_nowait(time.perf_counter())

    task = asyncio.create_task(follow())
    await asyncio.sleep(0.1)
    try:
        yield noticed
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def notice_after(noticed: asyncio.Queue[float], change: Callable[[], object]) -> float:
    """Seconds from the change to the next notice."""
    await asyncio.sleep(0.1)
    while not noticed.empty():
        noticed.get_nowait()
    start = time.perf_counter()
    change()
    return await asyncio.wait_for(noticed.get(), 2) - start


class TestWatching:
    async def test_a_change_is_noticed_within_100_ms(self, tmp_path: Path) -> None:
        async with watching(tmp_path) as noticed:
            waits = sorted(
                [await notice_after(noticed, lambda: write(tmp_path, "a.yaml", model())) for _ in range(5)]
            )
        assert waits[1] < 0.1  # the machine may be doing other work too

    async def test_every_way_of_saving_is_noticed(self, tmp_path: Path) -> None:
        write(tmp_path, "a.yaml", model())
        outside = write(tmp_path.with_name(f"{tmp_path.name}-outside"), "new.yaml", model())
        changes: list[Callable[[], object]] = [
            lambda: write(tmp_path, ".a.swp", "") and (tmp_path / ".a.swp").rename(tmp_path / "a.yaml"),
            lambda: (tmp_path / "a.yaml").rename(tmp_path / "b.yaml"),
            lambda: outside.rename(tmp_path / "c.yaml"),
            (tmp_path / "c.yaml").unlink,
            (tmp_path / "sub").mkdir,
            lambda: write(tmp_path, "sub/deep/d.yaml", model()),
            lambda: write(tmp_path, "sub/deep/d.yaml", model(replicas=2)),
        ]
        async with watching(tmp_path) as noticed:
            for change in changes:
                assert await notice_after(noticed, change) < 1

    async def test_a_folder_replaced_by_another_is_followed(self, tmp_path: Path) -> None:
        folder, other = tmp_path / "folder", tmp_path / "other"
        write(folder, "a.yaml", model())
        write(other, "a.yaml", model(replicas=2))

        def replace() -> None:
            folder.rename(tmp_path / "old")
            other.rename(folder)

        async with watching(folder) as noticed:
            await notice_after(noticed, replace)
            await asyncio.sleep(0.4)
            assert await notice_after(noticed, lambda: write(folder, "a.yaml", model(replicas=3))) < 1

    async def test_a_folder_that_goes_and_comes_back_is_followed(self, tmp_path: Path) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        async with watching(folder) as noticed:
            await notice_after(noticed, folder.rmdir)
            await asyncio.sleep(0.4)
            await notice_after(noticed, folder.mkdir)
            await asyncio.sleep(0.2)
            assert await notice_after(noticed, lambda: write(folder, "a.yaml", model())) < 1

    async def test_a_link_turned_to_another_folder_is_followed(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            write(tmp_path, f"{name}/a.yaml", model())
        link = tmp_path / "links" / "current"
        link.parent.mkdir()
        link.symlink_to(tmp_path / "one")

        def turn() -> None:
            (link.parent / "next").symlink_to(tmp_path / "two")
            (link.parent / "next").rename(link)

        async with watching(link) as noticed:
            assert await notice_after(noticed, lambda: write(tmp_path, "one/a.yaml", model(replicas=2))) < 1
            await notice_after(noticed, turn)
            await asyncio.sleep(0.4)
            assert await notice_after(noticed, lambda: write(tmp_path, "two/a.yaml", model(replicas=2))) < 1

    async def test_a_configmap_s_swap_is_noticed(self, tmp_path: Path) -> None:
        for name in ("..one", "..two"):
            write(tmp_path, f"{name}/a.yaml", model())
        (tmp_path / "..data").symlink_to("..one")

        def swap() -> None:
            (tmp_path / "..data_tmp").symlink_to("..two")
            (tmp_path / "..data_tmp").rename(tmp_path / "..data")

        async with watching(tmp_path) as noticed:
            assert await notice_after(noticed, swap) < 1

    async def test_what_vanished_is_noticed_a_second_time_once_no_editor_would_still_be_saving(
        self, tmp_path: Path
    ) -> None:
        path = write(tmp_path, "a.yaml", model())
        async with watching(tmp_path) as noticed:
            first = await notice_after(noticed, path.unlink)
            again = await asyncio.wait_for(noticed.get(), 2)
        assert first < 1
        assert again > 0

    async def test_what_is_none_of_its_business_is_not_noticed(self, tmp_path: Path) -> None:
        folder = tmp_path / "folder"
        write(folder, "secrets/hub/token", "x")
        async with watching(folder) as noticed:
            await asyncio.sleep(0.2)
            while not noticed.empty():
                noticed.get_nowait()
            write(tmp_path, "beside.yaml", model())
            write(folder, "secrets/hub/token", "y")
            write(folder, ".a.yaml.swp", "")
            await asyncio.sleep(0.3)
            assert noticed.empty()
