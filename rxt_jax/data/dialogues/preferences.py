"""Preferences that only memory can decide: the rejected answer recalls another value of the same kind."""

from functools import cached_property
from typing import Any

from rxt_jax.data.dialogues.draws import Draws, stream_key
from rxt_jax.data.dialogues.episodes import Dialogues
from rxt_jax.data.dialogues.spec import SPLITS

__all__ = ["PreferenceDialogues"]

_REJECTED = 2
_SURVEYED = 400  # episodes whose values are the pool of wrong ones


class PreferenceDialogues:
    """`Dialogues` with `chosen` and `rejected` in place of an answer; element i is as reproducible as theirs."""

    def __init__(self, dialogues: Dialogues):
        self.dialogues = dialogues
        self._key = stream_key(dialogues.seed, SPLITS.index(dialogues.split), _REJECTED)

    def episode(self, index: int) -> dict[str, Any]:
        """Return episode `index`; interactions that recall nothing have `rejected` None."""
        draws = Draws(self._key, index)
        episode = self.dialogues.episode(index)
        return episode | {"interactions": [self._with_rejected(each, draws) for each in episode["interactions"]]}

    def text(self, index: int) -> str:
        """Return plain text as the dialogues do."""
        return self.dialogues.text(index)

    @cached_property
    def _values(self) -> dict[str, list[str]]:
        found: dict[str, set[str]] = {}
        for index in range(_SURVEYED):
            for interaction in self.dialogues.episode(index)["interactions"]:
                for recall in interaction.get("recall", ()):
                    found.setdefault(recall["type"], set()).add(recall["value"])
        return {value_type: sorted(values) for value_type, values in found.items()}

    def _with_rejected(self, interaction: dict[str, Any], draws: Draws) -> dict[str, Any]:
        kept = {name: value for name, value in interaction.items() if name not in ("think", "answer", "tool_call")}
        chosen = {name: interaction[name] for name in ("think", "answer", "tool_call") if interaction.get(name)}
        rejected = dict(chosen)
        for recall in interaction.get("recall", ()):
            others = [value for value in self._values.get(recall["type"], ()) if value != recall["value"]]
            if others:
                wrong = others[draws.below(len(others))]
                rejected = {name: text.replace(recall["value"], wrong) for name, text in rejected.items()}
        return kept | {"chosen": chosen, "rejected": rejected if rejected != chosen else None}
