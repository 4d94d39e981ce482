"""One exchange with the shared counters: several leases' reports, one script that Redis runs whole, its answer. Pure.

The script counts by Redis' own clock, so gateways need not agree on theirs. A call names the keys of one tenant
only, and their names carry the tenant as hash tag, so that a Redis Cluster can run it too.

A report that was sent twice is counted once: each gateway leaves a mark at each counter, the number of its last
report there. Where the mark is missing, Redis has lost what it knew (or never knew), and the gateway's own use
is counted anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Final

from plinth.gateway.limits.counters import PARTS
from plinth.gateway.limits.lease import HOLD_SECONDS, Lease

SLICE: Final = 10
"""A grant beyond what is needed takes at most a tenth of what is left: near the limit leases are of 1."""
GATEWAY_SECONDS: Final = 5
"""A gateway that was not heard of for this long is not counted among those that share."""
FIELDS: Final = 3
"""Numbers that the script answers for each lease."""

SCRIPT: Final = b"""
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local gateway, number = ARGV[1], tonumber(ARGV[2])
local counters, lacking = {}, false

local function in_bucket(it)
  local found = redis.call('HMGET', it.key, 'level', 'at')
  local level = tonumber(found[1] or 0) - (now - tonumber(found[2] or now)) * it.amount / it.window
  it.used = math.max(0, math.max(0, level) + it.settle)
end

local function in_window(it)
  it.width = it.window / PARTS
  it.part = math.floor(now / it.width)
  it.parts, it.used, it.changed = {}, 0, {}
  local found = redis.call('HGETALL', it.key)
  for i = 1, #found, 2 do
    local part, used = tonumber(found[i]), tonumber(found[i + 1])
    if part < it.part - PARTS then
      redis.call('HDEL', it.key, found[i])
    else
      it.parts[#it.parts + 1] = {part, used}
      it.used = it.used + used
    end
  end
  table.sort(it.parts, function(a, b) return a[1] < b[1] end)
  it.newest = math.max(0, it.settle)
  it.used = it.used + it.newest
  local back = math.max(0, -it.settle)
  for _, entry in ipairs(it.parts) do -- oldest first: later sums are too high rather than too low
    local taken = math.min(back, entry[2])
    if taken > 0 then
      back, it.used, entry[2] = back - taken, it.used - taken, entry[2] - taken
      redis.call('HSET', it.key, entry[1], entry[2])
    end
  end
end

local function in_slots(it)
  it.used, it.held = it.settle, it.settle
  local found = redis.call('HGETALL', it.key)
  for i = 1, #found, 2 do
    local held, till = string.match(found[i + 1], '([%d.]+) ([%d.]+)')
    if tonumber(till) < now then
      redis.call('HDEL', it.key, found[i])
    elseif found[i] ~= gateway then
      it.used = it.used + tonumber(held)
    end
  end
end

local function wait(it)
  local excess = it.used + it.need - it.amount
  if it.kind == 'bucket' then return excess * it.window / it.amount end
  if it.kind == 'window' then
    for _, entry in ipairs(it.parts) do
      excess = excess - entry[2]
      if excess <= 0 then return (entry[1] + PARTS + 1) * it.width - now end
    end
    return it.window
  end
  return 0.05
end

for i = 1, #KEYS / 2 do
  local at = 2 + (i - 1) * 7
  local it = {
    key = KEYS[2 * i - 1], mark = KEYS[2 * i],
    kind = ARGV[at + 1], amount = tonumber(ARGV[at + 2]), window = tonumber(ARGV[at + 3]),
    settle = tonumber(ARGV[at + 4]), need = tonumber(ARGV[at + 6]), want = tonumber(ARGV[at + 7]),
  }
  if it.kind == 'slots' then
    in_slots(it)
  else
    local last = redis.call('GET', it.mark)
    if not last then it.settle = tonumber(ARGV[at + 5])
    elseif tonumber(last) >= number then it.settle = 0 end
    if it.kind == 'bucket' then in_bucket(it) else in_window(it) end
  end
  it.left = math.floor(it.amount - it.used)
  if it.need > 0 and it.need > it.left then lacking = true end
  counters[i] = it
end

local answer = {}
for _, it in ipairs(counters) do
  local granted, pause = 0, 0
  if it.need > 0 and it.need > it.left then
    pause = wait(it)
  elseif not lacking and it.want > 0 and it.left > 0 then
    granted = math.min(it.want, it.left, math.max(it.need, math.floor(it.left / SLICE)))
  end
  it.used = it.used + granted
  local keep = math.ceil(2 * it.window) + 60
  if it.kind == 'slots' then
    if it.held + granted > 0 then
      redis.call('HSET', it.key, gateway, (it.held + granted) .. ' ' .. (now + HOLD))
    else
      redis.call('HDEL', it.key, gateway)
    end
  else
    if it.kind == 'bucket' then
      redis.call('HSET', it.key, 'level', string.format('%.6f', it.used), 'at', string.format('%.6f', now))
    elseif it.newest + granted > 0 then
      redis.call('HINCRBYFLOAT', it.key, it.part, it.newest + granted)
    end
    redis.call('SET', it.mark, number, 'EX', keep)
  end
  redis.call('EXPIRE', it.key, keep)
  answer[#answer + 1] = granted
  answer[#answer + 1] = math.ceil(it.used)
  answer[#answer + 1] = math.ceil(pause * 1000)
end
return answer
"""
SCRIPT_TEXT: Final = (
    SCRIPT.replace(b"PARTS", b"%d" % PARTS)
    .replace(b"SLICE", b"%d" % SLICE)
    .replace(b"HOLD", b"%d" % HOLD_SECONDS)
)
"""As Redis gets it."""

HEARTBEAT: Final = b"""
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - %d)
redis.call('EXPIRE', KEYS[1], 60)
return redis.call('ZCARD', KEYS[1])
""" % (GATEWAY_SECONDS + 1)
"""Tells that a gateway lives, and counts those that do."""
GATEWAYS_KEY: Final = b"plinth:gateways"


class Exchange:
    """What is sent of some leases of one tenant, and what is done with the answer."""

    __slots__ = ("_costs", "arguments", "keys", "leases")

    def __init__(
        self,
        leases: Sequence[tuple[Lease, float, float]],
        *,
        gateway: str,
        number: int,
        now: float,
    ) -> None:
        """Of each lease the cost without which nothing goes on, and the cost of all that waits."""
        self.leases = [lease for lease, _, _ in leases]
        self._costs = [need for _, need, _ in leases]
        self.keys: list[bytes] = []
        self.arguments: list[bytes] = [gateway.encode(), b"%d" % number]
        for lease, need, wanted in leases:
            report = lease.report(need, wanted, now)
            key = f"plinth:{{{lease.tenant}}}:{lease.name}"
            self.keys += (key.encode(), f"{key}@{gateway}".encode())
            self.arguments += (
                report.kind.encode(),
                b"%d" % report.amount,
                b"%d" % report.window,
                b"%d" % report.settle,
                b"%d" % ceil(report.own),
                b"%d" % report.need,
                b"%d" % report.want,
            )

    def apply(self, answer: Sequence[int], now: float) -> None:
        """Hands the answer's numbers to the leases.

        Raises:
            ValueError: the answer is not one to this exchange.
        """
        if len(answer) != FIELDS * len(self.leases):
            raise ValueError(f"{len(answer)} numbers for {len(self.leases)} leases")
        for index, lease in enumerate(self.leases):
            granted, used, milliseconds = answer[FIELDS * index : FIELDS * (index + 1)]
            lease.learn(granted, used, milliseconds / 1000, need=self._costs[index], now=now)
