"""Puts an engine's own name for a model into a request that asked by an alias. Pure.

Engines answer to the names they were started with and refuse others. Only the outermost object is taken apart;
every other field goes on as the bytes it came in.
"""

from __future__ import annotations

import msgspec

from plinth.gateway.protocol.errors import Refusal, bad_request
from plinth.gateway.protocol.unreadable import UNREADABLE

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def with_model(body: bytes, name: str) -> bytes | Refusal:
    """The body with `model` set to this name.

    Bytes that are no text may stand in fields that `probe_body` skips: they are found here.
    """
    try:
        fields = _fields(body)
    except UNREADABLE as error:
        return bad_request(f"the request's body is not JSON: {error}", code="invalid_json")
    except RecursionError:
        return bad_request("the request's JSON is nested too deeply", code="invalid_json")
    fields["model"] = msgspec.Raw(_encode(name))
    return _encode(fields)
