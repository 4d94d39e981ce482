"""An alias in a request becomes the engine's name; nothing else changes."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.surface.renaming import with_model


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.integers() | st.text() | st.lists(st.floats(allow_nan=False, allow_infinity=False)),
        max_size=5,
    ),
    st.text(max_size=20),
)
def test_only_the_model_changes(fields: dict[str, object], name: str) -> None:
    body = json.dumps(fields | {"model": "alias"}).encode()
    renamed = with_model(body, name)
    assert isinstance(renamed, bytes)
    assert json.loads(renamed) == fields | {"model": name}


def test_fields_go_on_byte_for_byte_in_their_order() -> None:
    body = b'{"b": 1.0e5, "model":"x", "a":{ "model" : "kept", "u":"\\u00e9" }}'
    assert with_model(body, 'a"b') == b'{"b":1.0e5,"model":"a\\"b","a":{ "model" : "kept", "u":"\\u00e9" }}'


def test_a_name_of_a_field_that_is_no_text_is_refused() -> None:
    assert isinstance(with_model(b'{"model":"x","\xff":1}', "m"), Refusal)


def test_json_nested_beyond_reading_is_refused() -> None:
    assert isinstance(with_model(b'{"model":"x","a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "m"), Refusal)
