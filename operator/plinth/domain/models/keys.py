"""A config's entries under the several names that families give them, with what each family leaves unsaid."""

from __future__ import annotations

from collections.abc import Mapping

ALIASES: Mapping[str, tuple[str, ...]] = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "hidden_size": ("n_embd", "d_model", "dim"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv"),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size", "hidden_dim"),
    "max_position_embeddings": ("n_positions", "max_seq_len", "seq_length"),
    "num_experts": ("n_routed_experts", "num_local_experts", "moe_num_experts"),
    "num_experts_per_tok": ("experts_per_token", "moe_k"),
    "n_shared_experts": ("num_shared_experts", "moe_num_shared_experts"),
    "shared_intermediate_size": ("moe_shared_expert_intermediate_size",),
}
"""Other names of an entry, in the order in which they are looked for."""


class Keys:
    """Typed reading of a config; what is absent, null or of another type counts as not stated."""

    def __init__(self, found: Mapping[str, object], unsaid: Mapping[str, object]) -> None:
        self._entries = {**unsaid, **{key: value for key, value in found.items() if value is not None}}

    def number(self, name: str, otherwise: int = 0) -> int:
        """A positive whole number; of a list the largest."""
        return max(self.numbers(name), default=0) or otherwise

    def numbers(self, name: str) -> tuple[int, ...]:
        """The whole numbers from 0 on of an entry that is one or a list of them."""
        value = self._value(name)
        values = value if isinstance(value, list | tuple) else (value,)
        return tuple(
            each for each in values if isinstance(each, int) and not isinstance(each, bool) and each >= 0
        )

    def of_layer(self, name: str, index: int, otherwise: int = 0) -> int:
        """The number for one layer, where a list states one for each; 0 is a statement there."""
        found = self.numbers(name)
        if len(found) > 1:
            return found[index] if index < len(found) else otherwise
        return (found[0] if found else 0) or otherwise

    def flag(self, name: str) -> bool | None:
        """True or false; None where it is not stated."""
        value = self._entries.get(name)
        return value if isinstance(value, bool) else None

    def word(self, name: str) -> str:
        """A text; empty where it is not stated."""
        value = self._entries.get(name)
        return value if isinstance(value, str) else ""

    def words(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        value = self._entries.get(name)
        found = value if isinstance(value, list | tuple) else ()
        return tuple(each for each in found if isinstance(each, str))

    def section(self, name: str) -> Mapping[str, object]:
        """A nested object; empty where it is not stated."""
        value = self._entries.get(name)
        return value if isinstance(value, Mapping) else {}

    def states(self, name: str) -> bool:
        """Whether there is anything under this name."""
        return self._value(name) is not None

    def missing(self, *names: str) -> list[str]:
        """Those of these names under which there is no positive number."""
        return [name for name in names if not self.number(name)]

    def _value(self, name: str) -> object:
        """What stands under the name, else under the first alias that is there."""
        for each in (name, *ALIASES.get(name, ())):
            if self._entries.get(each) is not None:
                return self._entries[each]
        return None
