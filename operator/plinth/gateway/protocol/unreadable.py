"""What reading bytes as JSON may raise. Pure.

Beside the error that one expects there are two more: text that is no UTF-8 is found only where it is decoded, and what
is nested deeper than Python's stack is a RecursionError, also within a field that is skipped.
"""

from __future__ import annotations

from typing import Final

import msgspec

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""For `except`, around every decoder whose bytes come from outside."""
