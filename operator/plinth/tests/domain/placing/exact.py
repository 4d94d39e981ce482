"""The exact answer for a small fleet, by OR-Tools' CP-SAT: who gets a place by right, then the least price, then the
fewest accelerators of hosts in use.

    python -m plinth.tests.domain.placing.exact FIRST LAST

OR-Tools needs another protobuf than Ray does, so this runs in an environment of its own, where `optima` starts it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict

from ortools.sat.python import cp_model  # type: ignore[import-not-found, unused-ignore]  # where it is installed

from plinth.domain.placing.demands import WHOLE, Gang, Near
from plinth.domain.placing.packing import Wanted
from plinth.domain.placing.plan import wanted_of
from plinth.domain.placing.room import Room
from plinth.tests.domain.placing.instances import Instance, Outcome, draw_instance

SECONDS = 5.0
"""For each of the two steps. An instance that takes longer is no instance for this comparison."""


def solve(instance: Instance) -> Outcome | None:
    """The best outcome; None where the time was too short to prove it."""
    room = Room()
    room.update(instance.hosts, instance.holds)
    return _Solver(instance, wanted_of(room, instance.demands)).run()


class _Solver:
    def __init__(self, instance: Instance, wanted: Iterable[Wanted]) -> None:
        self.instance = instance
        self.in_turn = sorted(wanted, key=lambda each: each.by_right)
        self.model = cp_model.CpModel()
        self.domains = [
            (host.name, number) for host in instance.hosts.values() for number in range(len(host.domains))
        ]
        self.free = {key: self._free(*key) for key in self.domains}
        self.whole: dict[tuple[str, int], list[cp_model.LinearExprT]] = {key: [] for key in self.domains}
        """Accelerators taken whole in each link domain."""
        self.shares: dict[tuple[str, int, int], list[cp_model.LinearExprT]] = {
            (*key, index): [] for key in self.domains for index in range(self.free[key])
        }
        self.on: dict[str, list[cp_model.IntVar]] = {name: [] for name in instance.hosts}
        self.placed: dict[str, cp_model.IntVar] = {}
        self.prices: list[cp_model.LinearExprT] = []

    def run(self) -> Outcome | None:
        for wanted in self.in_turn:
            self._add(wanted)
        for key in self.domains:
            shared = [self._share_accelerator(key, index) for index in range(self.free[key])]
            self.model.add(sum(self.whole[key]) + sum(shared) <= self.free[key])
        begun = sum(self._begun(name) * sum(host.domains) for name, host in self.instance.hosts.items())
        last = len(self.in_turn) - 1
        right = sum(self.placed[each.replica] * 2 ** (last - turn) for turn, each in enumerate(self.in_turn))
        self.model.maximize(right)
        solver = self._solved()
        if solver is None:
            return None
        for variable in self.placed.values():
            self.model.add(variable == solver.value(variable))
        price = sum(self.prices)
        self.model.minimize(price * 1000 + begun)
        solver = self._solved()
        if solver is None:
            return None
        return Outcome(
            placed=frozenset(name for name, variable in self.placed.items() if solver.value(variable)),
            price=solver.value(price) if self.prices else 0,
            accelerators_begun=solver.value(begun),
        )

    def _solved(self) -> cp_model.CpSolver | None:
        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = SECONDS
        solver.parameters.num_workers = 1
        return solver if solver.solve(self.model) == cp_model.OPTIMAL else None

    def _free(self, host: str, number: int) -> int:
        """Held accelerators are held whole here."""
        sizes = self.instance.hosts[host].domains
        numbers = range(sum(sizes[:number]), sum(sizes[: number + 1]))
        held = {
            each
            for hold in self.instance.holds.values()
            for part in hold.place
            if part.host == host
            for each in part.accelerators
        }
        return sum(1 for each in numbers if each not in held)

    def _add(self, wanted: Wanted) -> None:
        """One replica: at most one option, all its parts or none."""
        chosen = []
        for option in wanted.demand.options:
            taken = self.model.new_bool_var("")
            chosen.append(taken)
            self.prices.append(taken * option.price)
            keys = [key for key in self.domains if option.pool in self.instance.hosts[key[0]].pools]
            if option.gang.share < WHOLE:
                self._add_share(option.gang, taken, keys)
            else:
                self._add_parts(option.gang, taken, keys)
        placed = self.placed[wanted.replica] = self.model.new_bool_var(wanted.replica)
        self.model.add(sum(chosen) == placed)

    def _add_share(self, gang: Gang, taken: cp_model.IntVar, keys: list[tuple[str, int]]) -> None:
        places = []
        for key in keys:
            for index in range(self.free[key]):
                here = self.model.new_bool_var("")
                places.append(here)
                self.shares[*key, index].append(here * gang.share)
                self.on[key[0]].append(here)
        self.model.add(sum(places) == taken)

    def _add_parts(self, gang: Gang, taken: cp_model.IntVar, keys: list[tuple[str, int]]) -> None:
        counts = {}
        for key in keys:
            if self.free[key] >= gang.accelerators:
                count = counts[key] = self.model.new_int_var(0, gang.parts, "")
                self.whole[key].append(count * gang.accelerators)
                here = self.model.new_bool_var("")
                self.model.add(count <= gang.parts * here)
                self.on[key[0]].append(here)
        self.model.add(sum(counts.values()) == gang.parts * taken)
        if gang.parts > 1 and gang.within is not Near.POOL:
            self._keep_near(gang, counts)

    def _keep_near(self, gang: Gang, counts: dict[tuple[str, int], cp_model.IntVar]) -> None:
        hosts = self.instance.hosts
        scope = {key: key[0] if gang.within is Near.HOST else hosts[key[0]].rack for key in counts}
        chosen = {each: self.model.new_bool_var("") for each in sorted(set(scope.values()))}
        self.model.add(sum(chosen.values()) <= 1)
        for key, count in counts.items():
            self.model.add(count <= gang.parts * chosen[scope[key]])

    def _share_accelerator(self, key: tuple[str, int], index: int) -> cp_model.IntVar:
        """Whether an accelerator is given in shares."""
        shared = self.model.new_bool_var("")
        self.model.add(sum(self.shares[*key, index]) <= WHOLE * shared)
        return shared

    def _begun(self, host: str) -> cp_model.LinearExprT:
        if any(part.host == host for hold in self.instance.holds.values() for part in hold.place):
            return 1
        begun = self.model.new_bool_var("")
        for here in self.on[host]:
            self.model.add(begun >= here)
        return begun


def main() -> None:
    """Print the optimum of each fleet from FIRST up to LAST, one JSON object a line; null where time was too short."""
    for seed in range(*map(int, sys.argv[1:])):
        found = solve(draw_instance(seed))
        optimum = found and {**asdict(found), "placed": sorted(found.placed)}
        print(json.dumps({"seed": seed, "optimum": optimum}))  # noqa: T201 - what this program is for


if __name__ == "__main__":
    main()
