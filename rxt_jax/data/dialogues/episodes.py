"""`Dialogues`: an endless list of episodes, element i a function of (spec, seed, split, i) and of nothing else."""

from collections.abc import Callable
from typing import Any

from rxt_jax.data.dialogues.draws import Draws, stream_key
from rxt_jax.data.dialogues.phrasing import Fact, Phrasebook
from rxt_jax.data.dialogues.plan import Chain, Horizon, Turn, plan_turns
from rxt_jax.data.dialogues.realize import Narrator
from rxt_jax.data.dialogues.script import World
from rxt_jax.data.dialogues.spec import SPLITS, DialogueSpec
from rxt_jax.data.dialogues.typing_habits import draw_habits

__all__ = ["Dialogues", "Plan"]

Plan = Callable[[Draws, DialogueSpec, Horizon, tuple[int, ...]], tuple[list[Turn], list[Chain]]]
"""What draws the timeline of an episode: turns, and the facts that they are about."""

_EPISODES, _TEXTS = 0, 1


class Dialogues:
    """Synthetic conversations of one split: infinite, seekable, resumable at any index.

    `plan` draws the timelines; those of `rxt_jax.data.dialogues.probes` ask for one ability of memory each.
    """

    def __init__(self, spec: DialogueSpec, seed: int = 0, split: str = "train", plan: Plan = plan_turns):
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        self.spec = spec
        self.seed = seed
        self.split = split
        self.plan = plan
        interactions, distance = {
            "longer": (spec.longer_interactions, spec.longer_distance),
            "longest": (spec.longest_interactions, spec.longest_distance),
        }.get(split, (spec.interactions, spec.max_distance))
        self.horizon = Horizon(interactions=interactions, distance=distance)
        self._weights = self.horizon.gap_weights()
        self._book = Phrasebook(spec, held_out=split in ("unseen_phrasings", "all_unseen"))
        self._key = stream_key(seed, SPLITS.index(split), _EPISODES)
        self._text_key = stream_key(seed, SPLITS.index(split), _TEXTS)

    def episode(self, index: int) -> dict[str, Any]:
        """Return episode `index`: `{"id", "split", "interactions"}`."""
        return self.episode_and_facts(index)[0]

    def episode_and_facts(self, index: int) -> tuple[dict[str, Any], list[Fact]]:
        """Return episode `index` and the facts that are told in it, changes of a fact in order."""
        draws = Draws(self._key, index)
        habits = draw_habits(draws, self.spec)
        world = World(
            draws,
            self._book,
            held_out_values=self.split in ("unseen_values", "all_unseen"),
            held_out_keys=self.split in ("unseen_keys", "all_unseen"),
            cased=habits.cased,
        )
        turns, chains = self.plan(draws, self.spec, self.horizon, self._weights)
        world.populate(chains)
        episode = {
            "id": f"{self.split}-{self.seed}-{index}",
            "split": self.split,
            "interactions": Narrator(draws, self._book, world, habits).tell(turns),
        }
        return episode, [chain.fact for chain in sorted(chains, key=lambda chain: chain.first)]

    def text(self, index: int) -> str:
        """Return plain text for stage 1: a few consecutive interactions without control tokens."""
        draws = Draws(self._text_key, index)
        interactions = self.episode(index)["interactions"]
        start = draws.below(max(len(interactions) - self.spec.text_interactions, 0) + 1)
        return " ".join(
            interaction[part]
            for interaction in interactions[start : start + self.spec.text_interactions]
            for part in ("internal", "tool_use", "query", "think", "answer", "tool_call")
            if part in interaction
        )
