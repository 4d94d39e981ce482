"""What `plinth keys` and `kubectl plinth keys` do alike: make, show, rotate and revoke keys, wherever they are stored."""

from __future__ import annotations

import json
import re
import secrets
import string
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, get_args

import click
from rich.console import Console
from rich.table import Table

from plinth.desired.statuses import format_time
from plinth.domain.access import Band
from plinth.domain.keys import (
    ID_PREFIX,
    NAME,
    SECRET_PREFIX,
    KeyTaken,
    KeyUnknown,
    StoredKey,
    StoredSecret,
    digest_of,
    is_live,
    revoke,
    rotate,
)

SECRET_BYTES = 32
ID_CHARACTERS = 12
"""Of 36 each: 62 bits, so that no two keys ever have one id by chance."""
COLUMNS = ("NAME", "ID", "NAMESPACE", "POLICIES", "MODELS", "PRIORITY", "STATE")
WIDEST = 10_000
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Keys(Protocol):
    """Where keys are stored."""

    def read(self, tenant: str) -> list[StoredKey]:
        """The keys of one tenant, or of all if it is empty."""

    def add(self, key: StoredKey) -> None:
        """Keep a new one; raises KeyTaken."""

    def change(self, tenant: str, name: str, edit: Callable[[StoredKey], StoredKey]) -> StoredKey:
        """Change the key of this name or id; raises KeyUnknown."""

    def policies(self, tenant: str) -> Collection[str]:
        """The names of the tenant's QuotaPolicies."""


class Duration(click.ParamType[float]):
    """A time as `45m`, `12h` or `30d`, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See click.ParamType."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"([0-9]{1,6})([smhd])", str(value))
        if str(value) == "0":
            return 0.0
        if found is None:
            self.fail(f"{value!r} is no duration; write 45m, 12h or 30d", param, ctx)
        return float(int(found[1]) * _SECONDS[found[2]])


POLICY = click.option(
    "--policy", "policies", multiple=True, help="A QuotaPolicy of the namespace; may be given several times."
)
MODELS = click.option(
    "--model", "models", multiple=True, help="Open this model only; may be given several times."
)
EXPIRES = click.option("--expires", type=Duration(), help="End the key after 45m, 12h, 30d, …")
PRIORITY = click.option(
    "--priority", type=click.Choice(get_args(Band)), help="Lower than what the policies give; never higher."
)
GRACE = click.option(
    "--grace",
    type=Duration(),
    default="24h",
    show_default=True,
    help="How long the old secret stays valid; 0 ends it at once.",
)
OUTPUT = click.option("-o", "--output", type=click.Choice(["json"]), help="Other than the table.")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A key to make."""

    name: str
    tenant: str
    policies: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    expires: float | None = None
    """Seconds from now."""
    priority: Band | None = None


def create_key(keys: Keys, asked: Asked) -> None:
    """Make a key and print its secret, alone on standard output: for the only time. Raises ClickException."""
    if not NAME.fullmatch(asked.name):
        raise click.BadParameter(
            f"{asked.name!r} must be 1 to 63 of a-z, 0-9 and '-', neither first nor last a '-'"
        )
    known = keys.policies(asked.tenant)
    for policy in asked.policies:
        if policy not in known:
            there = ", ".join(sorted(known)) or "none"
            raise click.ClickException(
                f"there is no QuotaPolicy {asked.tenant}/{policy} (there: {there}); make it first"
            )
    now = time.time()
    key, secret = make_key(asked, now)
    try:
        keys.add(key)
    except KeyTaken as error:
        raise click.ClickException(str(error)) from error
    _hand_out(secret, f"key {key.id} ({key.tenant}/{key.name}), {_state(key, now)}")


def make_key(asked: Asked, now: float) -> tuple[StoredKey, str]:
    """A new key to store, and its secret."""
    secret, digest = _draw()
    key = StoredKey(
        id=_draw_id(),
        name=asked.name,
        tenant=asked.tenant,
        made_at=now,
        secrets=(StoredSecret(digest=digest, made_at=now),),
        policies=asked.policies,
        models=asked.models,
        expires_at=None if asked.expires is None else now + asked.expires,
        priority=asked.priority,
    )
    return key, secret


def rotate_key(keys: Keys, tenant: str, name: str, grace: float) -> None:
    """Give a key a new secret and print that. Raises ClickException."""
    now, (secret, digest) = time.time(), _draw()
    key = _changed(keys, tenant, name, lambda key: rotate(key, digest=digest, now=now, grace_seconds=grace))
    end = f"the old secret ends at {format_time(now + grace)}" if grace else "the old secret is void"
    _hand_out(secret, f"key {key.id} ({key.tenant}/{key.name}): {end}")


def revoke_key(keys: Keys, tenant: str, name: str) -> None:
    """End a key. Raises ClickException."""
    key = _changed(keys, tenant, name, lambda key: revoke(key, now=time.time()))
    click.echo(f"revoked {key.id} ({key.tenant}/{key.name}): gateways refuse it within a second")


def list_keys(keys: Keys, tenant: str, output: str | None) -> None:
    """Print the keys of a tenant, or of all if it is empty; nothing of their secrets."""
    found, now = keys.read(tenant), time.time()
    if output == "json":
        click.echo(json.dumps([_as_document(key, now) for key in found], indent=2))
    elif found:
        click.echo(_as_table(found, now), nl=False)
    else:
        click.echo("no keys", err=True)


def _changed(keys: Keys, tenant: str, name: str, edit: Callable[[StoredKey], StoredKey]) -> StoredKey:
    try:
        return keys.change(tenant, name, edit)
    except KeyUnknown as error:
        raise click.ClickException(str(error)) from error


def _draw() -> tuple[str, str]:
    """A new secret and its digest."""
    secret = SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    return secret, digest_of(secret.encode())


def _draw_id() -> str:
    letters = string.ascii_lowercase + string.digits
    return ID_PREFIX + "".join(secrets.choice(letters) for _ in range(ID_CHARACTERS))


def _hand_out(secret: str, note: str) -> None:
    click.echo(secret)
    click.echo(f"{note}. This is the only time that the secret is shown.", err=True)


def _state(key: StoredKey, now: float) -> str:
    if key.revoked_at is not None:
        return f"revoked {format_time(key.revoked_at)}"
    if not is_live(key, now):
        return f"expired {format_time(key.expires_at or now)}"
    return "valid" if key.expires_at is None else f"valid until {format_time(key.expires_at)}"


def _as_document(key: StoredKey, now: float) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "namespace": key.tenant,
        "policies": key.policies,
        "models": key.models,
        "priority": key.priority,
        "madeAt": format_time(key.made_at),
        "expiresAt": None if key.expires_at is None else format_time(key.expires_at),
        "revokedAt": None if key.revoked_at is None else format_time(key.revoked_at),
        "valid": is_live(key, now),
    }


def _as_table(found: Iterable[StoredKey], now: float) -> str:
    table = Table(*COLUMNS, box=None, pad_edge=False, header_style="bold")
    for key in found:
        policies, models = ", ".join(key.policies) or "none", ", ".join(key.models) or "all"
        table.add_row(key.name, key.id, key.tenant, policies, models, key.priority or "", _state(key, now))
    console = Console(width=WIDEST)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
