"""An address to listen on, as a command's option."""

from __future__ import annotations

import click


class Listen(click.ParamType[tuple[str, int]]):
    """HOST:PORT, [IPv6]:PORT or PORT."""

    name = "HOST:PORT"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """The host and the port."""
        if isinstance(value, tuple):
            return value
        host, _, port = str(value).rpartition(":")
        if not port.isdigit() or not 0 < int(port) < 65536:  # noqa: PLR2004 - TCP's range
            self.fail(f"{value!r} must be HOST:PORT, as in 127.0.0.1:8000", param, ctx)
        return host.strip("[]") or "127.0.0.1", int(port)
