"""What reading a model's credentials can end in besides the credentials."""

from __future__ import annotations


class CredentialsError(Exception):
    """The token cannot be read; the text says which Secret, why, and what would help. Never holds any of it."""
