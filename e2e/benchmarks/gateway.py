"""What the gateway does on one core, beside HAProxy, LiteLLM and the routers of vLLM and SGLang in the same run.

    python e2e/benchmarks/gateway.py [--rounds 5] [--seconds 2] [--peers haproxy,litellm,…]

Eight replicas that answer at once, 1 KB prompts, loopback, keep-alive; each proxy alone on one core while it is
measured, the others stopped, in turns. Plinth asks for keys, counts every limit and chooses among the replicas.
CPU time is what figures are made of, so that they hold on a busy machine; what the clock says stands beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from urllib.request import urlopen

import uvloop
from gateway_figures import make_records
from gateway_measures import (
    EVENT_MILLISECONDS,
    EVENTS,
    SETTLE_SECONDS,
    Cores,
    Seen,
    Target,
    measure_direct,
    measure_round,
)
from gateway_peers import MASTER_KEY, PEERS, Peer
from gateway_plinth import COMPILED, SOURCES, access, asks_for_keys, bench_keys, plinth, routes
from gateway_plot import draw_results
from gateway_processes import Proxy, free_port
from gateway_wire import backend, load, make_requests
from records import RESULTS, installed_versions, write_records

REPLICAS, PROMPTS, STREAMS = 8, 500, 400


class Contest:
    """The proxies, started one after the other and then measured in turns."""

    def __init__(self, cores: Cores, folder: Path, replicas: Sequence[int], package: Path) -> None:
        self.cores, self.folder, self.replicas, self.package = cores, folder, replicas, package
        self.targets: list[Target] = []
        self.rss: dict[str, float] = {}
        self.versions = installed_versions("uvloop", "httptools", "msgspec")
        self.notes: dict[str, object] = {}

    async def add_plinth(self, stack: AsyncExitStack) -> None:
        """Twice: streams of the first can go on elsewhere, as is the default, those of the second are passed on."""
        keys, policy = bench_keys()
        secrets = [key.secret for key in keys]
        whole = make_requests(secrets, model="m", count=PROMPTS, stream=False)
        stream = make_requests(secrets, model="m", count=PROMPTS, stream=True)
        for name, flags in (("plinth", ()), ("plinth_spliced", ("--resume-seconds", "0"))):
            folder = self.folder / name
            folder.mkdir()
            proxy = await stack.enter_async_context(
                plinth(
                    core=self.cores.proxy,
                    port=free_port(),
                    folder=folder,
                    table=routes(self.replicas),
                    admitted=access(keys, policy),
                    flags=flags,
                    package=self.package,
                )
            )
            target = Target(
                name=name,
                proxy=proxy,
                whole=whole,
                stream=stream,
                streams=STREAMS,
                only_streams=name == "plinth_spliced",
            )
            self.targets.append(target)
            await self._settle(name, proxy, target)
            self.notes[f"{name}_asks_for_keys"] = await asyncio.to_thread(asks_for_keys, proxy.port)
            before = _streams_that_name_tokens(self.replicas)
            await load(proxy.port, stream, core=self.cores.client, connections=8, seconds=0.1)
            self.notes[f"{name}_names_tokens"] = _streams_that_name_tokens(self.replicas) > before
            proxy.rest()

    async def add(self, peer: Peer, stack: AsyncExitStack) -> None:
        version = peer.version()
        if not version:
            self.notes[peer.name] = "not installed: make bench-gateway installs it"
            return
        self.versions[peer.distribution] = version
        proxy = await stack.enter_async_context(
            peer.running(port=free_port(), replicas=self.replicas, core=self.cores.proxy, folder=self.folder)
        )
        whole = make_requests([MASTER_KEY], model="m", count=PROMPTS, stream=False)
        stream = make_requests([MASTER_KEY], model="m", count=PROMPTS, stream=True)
        target = Target(name=peer.name, proxy=proxy, whole=whole, stream=stream, streams=peer.streams)
        self.targets.append(target)
        await self._settle(peer.name, proxy, target)
        proxy.rest()

    async def run(self, rounds: int, seconds: float) -> Mapping[str, Seen]:
        """Everyone in each round, each time one further on."""
        seen = {target.name: Seen() for target in self.targets}
        for number in range(rounds):
            shift = number % len(self.targets)
            for target in self.targets[shift:] + self.targets[:shift]:
                target.proxy.wake()
                await asyncio.sleep(SETTLE_SECONDS)
                await measure_round(target, seen[target.name], self.cores, seconds)
                target.proxy.rest()
                print(f"# round {number + 1}: {target.name} {_last(seen[target.name])}", flush=True)
        self.notes["rss_mib_after"] = {
            target.name: round(target.proxy.rss_mib(), 1)
            for target in self.targets
            if not target.only_streams
        }
        return seen

    async def _settle(self, name: str, proxy: Proxy, target: Target) -> None:
        """One answer, then its memory at rest."""
        await load(proxy.port, target.whole, core=self.cores.client, connections=1, seconds=0.1)
        await asyncio.sleep(1)
        self.rss[name] = proxy.rss_mib()


def _last(seen: Seen) -> str:
    return json.dumps({k: round(v[-1]) for k, v in asdict(seen).items() if isinstance(v, list) and v})


def _streams_that_name_tokens(replicas: Sequence[int]) -> int:
    """How many streams the replicas were asked for with `return_token_ids`."""
    with urlopen(f"http://127.0.0.1:{replicas[0]}/") as answer:
        found: int = json.load(answer)["streams_with_ids"]
        return found


async def measure(arguments: argparse.Namespace, folder: Path) -> None:
    cores = Cores.of_this_machine()
    ends = backend(
        core=cores.replicas,
        replicas=REPLICAS,
        event_milliseconds=EVENT_MILLISECONDS,
        events=EVENTS,
        awake=cores.apart,
    )
    async with ends as replicas, AsyncExitStack() as stack:
        contest = Contest(cores, folder, replicas, SOURCES if arguments.sources else COMPILED)
        await contest.add_plinth(stack)
        for peer in PEERS:
            if peer.name in arguments.peers:
                await contest.add(peer, stack)
        plain = make_requests([MASTER_KEY], model="m", count=PROMPTS, stream=False)
        direct = await measure_direct(replicas[0], plain, cores, arguments.seconds)
        seen = await contest.run(arguments.rounds, arguments.seconds)
    made = make_records(seen, direct, rss=contest.rss, notes=contest.notes, versions=contest.versions)
    path = write_records(
        "gateway_sources" if arguments.sources else "gateway", made, directory=arguments.results
    )
    if not arguments.sources:
        print(f"# drawn: {draw_results(path)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement")
    parser.add_argument("--peers", type=lambda text: text.split(","), default=[peer.name for peer in PEERS])
    parser.add_argument(
        "--sources", action="store_true", help="the gateway as it runs from a checkout, not compiled"
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder to write to (default: the kept results)"
    )
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(measure(parser.parse_args(), Path(folder)))


if __name__ == "__main__":
    main()
