"""What a set of dialogues looks like: every difficulty knob, and the presets."""

from dataclasses import dataclass

from rxt_jax.data.dialogues.attributes import ATTRIBUTES, TOOLS

__all__ = ["SPLITS", "DialogueSpec", "medium", "small", "tiny"]

SPLITS = ("train", "iid", "unseen_values", "unseen_phrasings", "longer")
"""`train`, and four evaluation splits that differ from it in one thing each (`iid`: in the draws alone)."""

_SHARES = (
    "recall_share", "absence_share", "distractor_share", "compare_share", "tool_share", "hop_share", "count_share",
    "first_share", "history_share", "similar_share", "summary_share", "think_share", "internal_share", "updates",
    "two_facts_share", "echo_probability", "filler_share", "noise",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DialogueSpec:
    """The knobs of one set of dialogues. Shares are of interactions unless said otherwise."""

    interactions: tuple[int, int]
    facts: tuple[int, int]
    """Facts of one episode, changes of a fact included."""
    max_distance: int
    """Recall is asked 1 … max_distance interactions after the last mention, a few fill-ins aside; near is likelier."""
    longer_interactions: tuple[int, int]
    """Of the split `longer`."""
    longer_distance: int
    attributes: tuple[str, ...]
    tools: tuple[str, ...] = ()
    values_per_type: int | None = None
    """Values of a type in use; None = the whole inventory."""
    phrasings: int | None = None
    """User phrasings per attribute and speech act in training; None = all."""
    answer_phrasings: int | None = None

    recall_share: float = 0.45
    absence_share: float = 0.05
    distractor_share: float = 0.1
    compare_share: float = 0.03
    tool_share: float = 0.03
    """Of interactions that begin a tool turn; its result is one more interaction."""
    hop_share: float = 0.0
    count_share: float = 0.0
    first_share: float = 0.0
    history_share: float = 0.0
    """Of distractors that become a question for an overwritten value, where there is one."""
    similar_share: float = 0.0
    """Of distractors that state a fact of the same type about somebody else."""
    summary_share: float = 0.2
    """Of episodes that end in a summary of all facts."""
    summary_facts: int = 3
    updates: float = 0.2
    """Of statements that change a known fact, where there is one nobody asks for later on."""
    two_facts_share: float = 0.1
    """Of statements that hold two facts."""
    think_share: float = 0.05
    internal_share: float = 0.05
    echo_probability: float = 0.5
    """Of acknowledgements that repeat the value: the rest leaves it to the memory of the query."""
    filler_share: float = 0.0
    """Of statements and questions wrapped in a discourse marker or a bit of story."""
    noise: float = 0.0
    """Of queries with a slip of the keyboard, never inside a value."""
    text_interactions: int = 2
    """Consecutive interactions of one stage-1 text."""

    def __post_init__(self):
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0 … 1, got {getattr(self, name)}")
        for name in ("interactions", "facts", "longer_interactions"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ValueError(f"{name} must be (low, high), 1 <= low <= high, got {(low, high)}")
        for distance, interactions in (
            ("max_distance", "interactions"),
            ("longer_distance", "longer_interactions"),
        ):
            reach = getattr(self, interactions)[1] - 1
            if not 1 <= getattr(self, distance) <= reach:
                raise ValueError(
                    f"{distance} must lie in 1 … {reach}, the reach of {interactions}, "
                    f"got {getattr(self, distance)}; make the episodes longer or the distance smaller"
                )
        for name in ("values_per_type", "phrasings", "answer_phrasings"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or None for all, got {value}")
        self._check_attributes()

    def _check_attributes(self) -> None:
        if not self.attributes:
            raise ValueError("attributes is empty: name at least one, see attributes.ATTRIBUTES")
        for name, table in (("attributes", ATTRIBUTES), ("tools", TOOLS)):
            unknown = [word for word in getattr(self, name) if word not in table]
            if unknown:
                raise ValueError(f"{name} names unknown {', '.join(unknown)}; known are {', '.join(table)}")
        types = [ATTRIBUTES[slot].value_type for slot in self.attributes]
        # One may be taken by a tool, or both are needed.
        for share, value_type in (("compare_share", "number"), ("hop_share", "name")):
            if getattr(self, share) > 0 and types.count(value_type) < 2:
                raise ValueError(
                    f"{share} needs two attributes of type {value_type}, got {types.count(value_type)} among "
                    f"{', '.join(self.attributes)}; add one, or set {share}=0"
                )
        for tool in self.tools:
            if not set(TOOLS[tool].sources) & set(self.attributes):
                raise ValueError(
                    f"tool {tool} takes its argument from {', '.join(TOOLS[tool].sources)}, got attributes "
                    f"{', '.join(self.attributes)}; add one of them, or leave the tool out"
                )


_TINY_ATTRIBUTES = (
    "cat", "dog", "sister", "home", "trip", "job", "food", "animal", "house_number", "locker_number",
)  # fmt: skip
_SMALL_ATTRIBUTES = (
    *_TINY_ATTRIBUTES, "brother", "birthplace", "mother_job", "book", "allergy", "seat_number", "door_code", "key",
    "wallet", "meeting", "car", "coat", "aunt_gift", "opinion",
)  # fmt: skip


def tiny() -> DialogueSpec:
    """Ten attributes, a few dozen values each, short rows: half a million parameters learn it in minutes."""
    return DialogueSpec(
        interactions=(4, 10),
        facts=(2, 5),
        max_distance=8,
        longer_interactions=(18, 28),
        longer_distance=24,
        attributes=_TINY_ATTRIBUTES,
        tools=("hotel", "order"),
        values_per_type=32,
        phrasings=3,
        answer_phrasings=1,
        recall_share=0.5,
        absence_share=0.04,
        distractor_share=0.06,
        compare_share=0.02,
        tool_share=0.02,
        summary_share=0.1,
        summary_facts=3,
        updates=0.2,
        two_facts_share=0.05,
        think_share=0.04,
        internal_share=0.04,
    )


def small() -> DialogueSpec:
    """Twenty-four attributes of all types and every kind of turn but noise, recall up to twelve interactions back."""
    return DialogueSpec(
        interactions=(6, 16),
        facts=(3, 8),
        max_distance=12,
        longer_interactions=(24, 40),
        longer_distance=32,
        attributes=_SMALL_ATTRIBUTES,
        tools=("hotel", "order", "post"),
        values_per_type=96,
        phrasings=6,
        answer_phrasings=2,
        distractor_share=0.12,
        hop_share=0.02,
        count_share=0.02,
        first_share=0.01,
        history_share=0.3,
        similar_share=0.1,
        filler_share=0.1,
    )


def medium() -> DialogueSpec:
    """All attributes, values and phrasings, with noise and near distractors, recall up to twenty interactions back."""
    return DialogueSpec(
        interactions=(8, 24),
        facts=(4, 14),
        max_distance=20,
        longer_interactions=(32, 64),
        longer_distance=48,
        attributes=tuple(ATTRIBUTES),
        tools=tuple(TOOLS),
        distractor_share=0.15,
        hop_share=0.03,
        count_share=0.02,
        first_share=0.01,
        history_share=0.3,
        similar_share=0.25,
        summary_facts=6,
        filler_share=0.25,
        noise=0.1,
        text_interactions=3,
    )
