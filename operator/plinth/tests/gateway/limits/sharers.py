"""Those who share limits, as far as limits go: gateways with one Redis, or workers with one parent."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from plinth.domain.access import Limit, OnBackendAway
from plinth.gateway.limits.admission import Account, Reservation
from plinth.gateway.limits.answers import Denial
from plinth.gateway.limits.sharing import Sharing, Waiting
from plinth.gateway.server.leases import Leases, LeaseTimes
from plinth.gateway.server.redis import RedisAddress
from plinth.tests.gateway.limits.builders import make_account

PATIENT = LeaseTimes(answer=0.5, rest=0.1)
"""A busy machine must not make who counts look slow."""


class Sharer:
    def __init__(self, name: str, address: RedisAddress, times: LeaseTimes = PATIENT) -> None:
        self.sharing = Sharing(name)
        self.leases = Leases(address, self.sharing, times)

    def account(self, *limits: Limit, key: str = "pk_a", on_backend_away: OnBackendAway = "Allow") -> Account:
        return make_account(
            self.sharing.limiter, *limits, key=key, on_backend_away=on_backend_away, now=time.monotonic()
        )

    async def ask(self, account: Account, inputs: int = 1, outputs: int = 1) -> Reservation | Denial:
        now = time.monotonic()
        outcome = self.sharing.limiter.admit(account, inputs, outputs, now)
        if outcome is not None:
            return outcome
        decided: asyncio.Future[Reservation | Denial] = asyncio.get_running_loop().create_future()
        self.leases.wait(Waiting(account, inputs, outputs, since=now, decide=decided.set_result))
        return await asyncio.wait_for(decided, 5)

    async def count(self, account: Account, requests: int) -> int:
        return sum([isinstance(await self.ask(account), Reservation) for _ in range(requests)])

    def settle(self, outcome: Reservation | Denial, inputs: int, outputs: int) -> None:
        assert isinstance(outcome, Reservation)
        self.sharing.limiter.settle(outcome, inputs, outputs, time.monotonic())

    async def until_back(self) -> None:
        await until(lambda: not self.sharing.backend.away)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def sharing(
    address: RedisAddress, count: int, times: LeaseTimes = PATIENT
) -> AsyncIterator[list[Sharer]]:
    """So many that see each other."""
    made = [Sharer(f"g{number}", address, times) for number in range(count)]
    for each in made:
        each.leases.start()
    try:
        for each in made:
            await each.until_back()
        yield made
    finally:
        for each in made:
            await each.leases.stop()
        await asyncio.sleep(0)
