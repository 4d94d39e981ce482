"""What the gateway can be told on its command line; every limit is a flag with a default."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields
from pathlib import Path

from plinth.gateway.server.cores import usable_cores
from plinth.gateway.server.tls import TlsFiles
from plinth.gateway.server.worker_lines import Place
from plinth.gateway.shared_options import Shared, add_shared_flags, read_shared

MOST_PORT = 65_535
_MEBIBYTE = 1024 * 1024
MOST_WORKERS = 256
"""Each reads the load of all the others, for each request."""


def _flag(default: float, text: str) -> float:
    return field(default=default, metadata={"help": text})


def _count(default: int, text: str) -> int:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds. Times are watched twice a second, so they hold to within 0.5 s."""

    head_bytes: int = _count(32 * 1024, "largest request line and headers")
    body_bytes: int = _count(32 * _MEBIBYTE, "largest request body")
    all_body_bytes: int = _count(256 * _MEBIBYTE, "request bodies held at once, all connections together")
    client_buffer_bytes: int = _count(
        64 * 1024, "answer bytes held for a slow client before its replica is paused"
    )
    connections: int = _count(16_384, "client connections at once; more are closed at once")
    header_seconds: float = _flag(10.0, "for a request's head to arrive")
    body_seconds: float = _flag(60.0, "for a request's body to arrive")
    keep_alive_seconds: float = _flag(75.0, "that an idle client connection stays open")
    connect_seconds: float = _flag(2.0, "for a connection to a replica")
    first_byte_seconds: float = _flag(600.0, "for a replica's first byte")
    stream_idle_seconds: float = _flag(
        600.0, "without a byte from a replica, or with a client that takes none"
    )
    silent_seconds: float = _flag(
        5.0, "without a first byte from a replica, until it is asked whether it hangs"
    )
    stuck_seconds: float = _flag(
        60.0, "without a token from a replica that still answers, until its streams go on elsewhere"
    )
    pool_idle_seconds: float = _flag(4.0, "that an idle connection to a replica is kept for reuse")
    check_seconds: float = _flag(2.0, "between active checks of a silent replica")
    cooldown_seconds: float = _flag(1.0, "that a replica which answered 503 gets no request")
    queue_requests: int = _count(16_384, "requests of one model that may wait for room")
    queue_bytes: int = _count(
        64 * _MEBIBYTE, "bytes of the bodies of one model's requests that wait for room"
    )
    queue_seconds: float = _flag(300.0, "that a request may wait for room")
    attempts: int = _count(3, "replicas tried for one request before its first byte")
    resume_seconds: float = _flag(
        30.0, "that a broken stream may wait until it goes on at another replica; 0 breaks it off"
    )
    drain_seconds: float = _flag(30.0, "that requests in flight get to end after SIGTERM")


_MAY_BE_NOTHING = frozenset({"resume_seconds"})


@dataclass(frozen=True, kw_only=True)
class Telling:
    """What is told of requests when they are over."""

    access_log: bool = False
    """One line of JSON for each on standard output."""
    traces_url: str = ""
    """Where an OpenTelemetry collector takes traces; empty for none."""
    traces_share: float = 0.1
    """Of requests that come without a trace of their own, those that are traced."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """One gateway process."""

    host: str
    port: int
    control: Path
    secret_file: Path
    metrics_port: int | None = None
    """Of the same host, for metrics and probes; None leaves metrics with the clients, who need a key for them."""
    workers: int = 1
    """Processes that serve; one needs no parent."""
    worker: Place | None = None
    """Given by the parent to one of several."""
    limits: Limits = field(default_factory=Limits)
    shared: Shared = field(default_factory=Shared)
    telling: Telling = field(default_factory=Telling)
    clients_tls: TlsFiles = field(default_factory=TlsFiles)
    """What clients meet; in the clear where it names no certificate."""
    replicas_tls: TlsFiles = field(default_factory=TlsFiles)
    """What replicas meet; in the clear where it names no authority."""
    replicas_name: str = ""
    """What stands in every replica's certificate."""


def parse_options(arguments: list[str] | None = None) -> Options:
    """The options of a command line; prints usage and exits with 2 on a wrong one."""
    parser = argparse.ArgumentParser(prog="plinth.gateway", description="Plinth's data plane.")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="for clients; port 0 picks one")
    parser.add_argument(
        "--control", required=True, type=Path, metavar="PATH", help="unix socket for route tables"
    )
    parser.add_argument(
        "--secret-file", required=True, type=Path, metavar="PATH", help="what replicas ask for"
    )
    parser.add_argument(
        "--metrics-port",
        type=_port,
        metavar="PORT",
        help="of --listen's host, for metrics and probes without TLS or key; clients get no metrics then",
    )
    parser.add_argument(
        "--workers",
        type=_workers,
        default=1,
        metavar="N|auto",
        help="processes that serve, beside one that starts them; `auto` for one on each core (default 1)",
    )
    parser.add_argument("--worker", type=Place.from_argument, help=argparse.SUPPRESS)
    for item in fields(Limits):
        parser.add_argument(
            "--" + item.name.replace("_", "-"),
            type=type(item.default),
            default=item.default,
            help=f"{item.metadata['help']} (default {item.default:g})",
        )
    add_shared_flags(parser)
    _add_telling_flags(parser)
    _add_tls_flags(parser)
    found = parser.parse_args(arguments)
    host, _, port = found.listen.rpartition(":")
    if not host or not port.isdigit():
        parser.error(f"--listen must be HOST:PORT, not {found.listen!r}")
    for item in fields(Limits):
        if getattr(found, item.name) < (0 if item.name in _MAY_BE_NOTHING else 1e-3):
            parser.error(f"--{item.name.replace('_', '-')} must be positive")
    limits = Limits(**{item.name: getattr(found, item.name) for item in fields(Limits)})
    try:
        shared = read_shared(found)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if bool(found.tls_cert) != bool(found.tls_key):
        parser.error("--tls-cert and --tls-key go together")
    if bool(found.replica_tls_ca) != bool(found.replica_tls_name):
        parser.error("--replica-tls-ca and --replica-tls-name go together")
    return Options(
        host=host.strip("[]"),
        port=int(port),
        control=found.control,
        secret_file=found.secret_file,
        metrics_port=found.metrics_port,
        workers=found.workers,
        worker=found.worker,
        limits=limits,
        shared=shared,
        telling=Telling(
            access_log=found.access_log, traces_url=found.traces_url, traces_share=found.traces_share
        ),
        clients_tls=TlsFiles(certificate=found.tls_cert, key=found.tls_key, authority=found.tls_client_ca),
        replicas_tls=TlsFiles(
            certificate=found.replica_tls_cert, key=found.replica_tls_key, authority=found.replica_tls_ca
        ),
        replicas_name=found.replica_tls_name,
    )


def _add_telling_flags(parser: argparse.ArgumentParser) -> None:
    default = Telling()
    parser.add_argument("--access-log", action="store_true", help="a line of JSON for each request on stdout")
    parser.add_argument(
        "--traces-url",
        default="",
        metavar="URL",
        help="OTLP over HTTP, as in http://collector:4318/v1/traces",
    )
    parser.add_argument(
        "--traces-share",
        type=float,
        default=default.traces_share,
        help=f"of requests without a trace of their own, those to trace (default {default.traces_share:g})",
    )


def _add_tls_flags(parser: argparse.ArgumentParser) -> None:
    for flag, text in (
        ("--tls-cert", "certificate that clients meet, PEM; read again when it changes"),
        ("--tls-key", "its key"),
        ("--tls-client-ca", "clients must show a certificate of this authority"),
        ("--replica-tls-ca", "replicas are spoken with by TLS, and have certificates of this authority"),
        ("--replica-tls-cert", "certificate that replicas are shown"),
        ("--replica-tls-key", "its key"),
    ):
        parser.add_argument(flag, type=Path, metavar="PATH", help=text)
    parser.add_argument(
        "--replica-tls-name", default="", metavar="NAME", help="what stands in every replica's certificate"
    )


def _port(text: str) -> int:
    """A port; 0 picks one."""
    if not text.isdecimal() or int(text) > MOST_PORT:
        raise argparse.ArgumentTypeError(f"must be 0 to {MOST_PORT}, not {text!r}")
    return int(text)


def _workers(text: str) -> int:
    """How many; argparse shows what the error says."""
    if text == "auto":
        return usable_cores()
    if not text.isdecimal() or not 1 <= int(text) <= MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"must be `auto` or 1 to {MOST_WORKERS}, not {text!r}")
    return int(text)
