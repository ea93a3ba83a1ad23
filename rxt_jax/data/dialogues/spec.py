"""What a set of dialogues looks like: every difficulty knob, and the presets."""

from dataclasses import dataclass

from rxt_jax.data.dialogues.properties import properties
from rxt_jax.data.dialogues.tools import TOOLS

__all__ = ["SPLITS", "DialogueSpec", "medium", "small", "tiny"]

SPLITS = (
    "train", "iid", "unseen_values", "unseen_keys", "unseen_phrasings", "all_unseen", "longer", "longest",
)  # fmt: skip
"""`train`, and evaluation splits that differ from it in one thing each: `iid` in the draws alone, `unseen_keys` in what
facts are about (things, relatives, names, categories), `all_unseen` in values, keys and phrasings together."""

_SHARES = (
    "recall_share", "absence_share", "distractor_share", "compare_share", "tool_share", "hop_share", "first_share",
    "history_share", "summary_share", "think_share", "internal_share", "updates", "withdrawals", "several_facts_share",
    "echo_probability", "invented_values", "invented_keys", "confusable_share", "same_subject_share",
    "remark_share", "everyday_share", "scene_share", "deeds_share", "unusual_values", "same_value_share",
    "follow_up_share", "pronoun_share", "wrapped_share", "indirect_share", "careless_share", "capitals_share",
    "terse_share", "typo_share",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DialogueSpec:
    """The knobs of one set of dialogues. Shares are of interactions unless said otherwise."""

    interactions: tuple[int, int]
    """Fewest and most interactions of an episode."""
    facts: tuple[int, int]
    """Fewest and most facts of an episode, changes of a fact included."""
    max_distance: int
    """Recall is asked 1 … max_distance interactions after the last mention, a few fill-ins aside; near is likelier."""
    longer_interactions: tuple[int, int] = (18, 28)
    """Of the split `longer`."""
    longer_distance: int = 24
    """Largest distance of the split `longer`, in interactions."""
    longest_interactions: tuple[int, int] = (100, 120)
    """Of the split `longest`."""
    longest_distance: int = 96
    """Largest distance of the split `longest`, in interactions."""
    properties: tuple[str, ...] = ()
    """Names of tables in `phrases/`; empty = all of them, the everyday ones apart (`everyday_share`)."""
    tools: tuple[str, ...] = tuple(TOOLS)
    """Names of the tools that may be called."""
    phrasings: int | None = None
    """User phrasings per property and speech act; None = all."""

    recall_share: float = 0.45
    """Of interactions that ask for what was told."""
    absence_share: float = 0.07
    """Of interactions that ask for what was not told."""
    distractor_share: float = 0.1
    """Of interactions that are small talk."""
    remark_share: float = 0.0
    """Of small talk that comments on what was told, or asks what a memory cannot know (`phrases/remarks.toml`)."""
    compare_share: float = 0.01
    """Of interactions that ask which of two ages is higher."""
    tool_share: float = 0.01
    """Of interactions that begin a tool turn; its result is one more interaction."""
    hop_share: float = 0.01
    """Of interactions that ask about "my sister" what was said about "Ana"."""
    first_share: float = 0.01
    """Of interactions that ask what was said first."""
    history_share: float = 0.1
    """Of distractors that become a question for an overwritten value, where there is one."""
    summary_share: float = 0.05
    """Of episodes that end in a summary of all facts."""
    summary_facts: int = 3
    """Most facts that such a summary lists."""
    updates: float = 0.2
    """Of statements that change a known fact, where there is one nobody asks for later on."""
    withdrawals: float = 0.06
    """Facts an episode takes back, as a share of its facts."""
    several_facts_share: float = 0.12
    """Of statements that hold two facts or three."""
    think_share: float = 0.02
    """Of interactions whose answer begins with a thought."""
    internal_share: float = 0.02
    """Of interactions with an internal instruction before the query."""
    echo_probability: float = 0.85
    """Of acknowledgements that repeat the fact: the rest leaves it to the memory of the query."""
    varied_echo_probability: float | None = None
    """The same for facts that are said in varied ways: of everyday life, scenes and deeds; None = as often."""
    invented_values: float = 0.4
    """Of words in values that no list has, where a word can be anything."""
    invented_keys: float = 0.1
    """Of things and keys that no list has."""
    confusable_share: float = 0.35
    """Of facts that are of the same kind as an earlier one, about somebody or something else."""
    same_subject_share: float = 0.25
    """Of facts about somebody or something that the user has spoken of."""
    everyday_share: float = 0.0
    """Of facts that start a topic of their own: what people do, how they are and what they jot down, with open objects
    ("I bought the lamp at Ikea"; `phrases/doings.toml`, `lives.toml`, `notes.toml`)."""
    scene_share: float = 0.0
    """Of the other facts that are a part of a scene: a flight with its town, time and seat (`phrases/scenes`)."""
    deeds_share: float = 0.0
    """Of the other facts that are a part of a deed: who did what, where, when, with whom (`phrases/deeds.toml`)."""
    unusual_values: float = 0.0
    """Of names, towns and titles with accents, hyphens or more words ("Zoë-Ann", "Dr. Berg", "The Fox in the Hat")."""
    same_value_share: float = 0.03
    """Of facts whose value another fact has as well."""
    follow_up_share: float = 0.4
    """Of questions after a question that only name what is new ("And my horse?")."""
    pronoun_share: float = 0.25
    """Of statements and questions about the subject of the turn before that say he, she or it."""
    wrapped_share: float = 0.3
    """Of statements and questions with a greeting, a marker, a bit of story or thanks around them."""
    indirect_share: float = 0.0
    """Of direct questions that are put in a roundabout way ("you would not happen to know …"), and of facts that are
    taken back in passing."""
    careless_share: float = 0.5
    """Of users who type lower case, without marks or without apostrophes."""
    capitals_share: float = 0.0
    """Of users who type in capitals throughout."""
    terse_share: float = 0.0
    """Of users who type notes instead of sentences ("job: nurse", "job?")."""
    typo_share: float = 0.02
    """Of queries with a slip of the keyboard, never inside a value or a key."""
    text_interactions: int = 2
    """Consecutive interactions of one stage-1 text."""

    def __post_init__(self):
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0 … 1, got {getattr(self, name)}")
        for name in ("interactions", "facts", "longer_interactions", "longest_interactions"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ValueError(f"{name} must be (low, high), 1 <= low <= high, got {(low, high)}")
        for distance, interactions in (
            ("max_distance", "interactions"),
            ("longer_distance", "longer_interactions"),
            ("longest_distance", "longest_interactions"),
        ):
            reach = getattr(self, interactions)[1] - 1
            if not 1 <= getattr(self, distance) <= reach:
                raise ValueError(
                    f"{distance} must lie in 1 … {reach}, the reach of {interactions}, "
                    f"got {getattr(self, distance)}; make the episodes longer or the distance smaller"
                )
        if self.varied_echo_probability is not None and not 0 <= self.varied_echo_probability <= 1:
            raise ValueError(
                f"varied_echo_probability must lie in 0 … 1, or be None, got {self.varied_echo_probability}"
            )
        if self.phrasings is not None and self.phrasings < 1:
            raise ValueError(f"phrasings must be at least 1, or None for all, got {self.phrasings}")
        for name, table in (("properties", properties()), ("tools", TOOLS)):
            unknown = [word for word in getattr(self, name) if word not in table]
            if unknown:
                raise ValueError(f"{name} names unknown {', '.join(unknown)}; known are {', '.join(table)}")
        if self.tool_share and not self.tools:
            raise ValueError("tool_share needs at least one of tools, got none; name one, or set tool_share=0")


def tiny() -> DialogueSpec:
    """Ordinary sentences about a dozen properties, short rows: for tests and quick trials."""
    return DialogueSpec(
        interactions=(4, 10),
        facts=(2, 5),
        max_distance=8,
        properties=(
            "person_name", "pet_name", "person_age", "person_home_city", "person_job", "favourite", "thing_location",
            "thing_colour", "numbered", "house_number", "gift_from_person", "pet_age",
        ),
        phrasings=4,
        think_share=0.04,
        internal_share=0.04,
    )  # fmt: skip


def small() -> DialogueSpec:
    """Everything people say in nine turns or fewer: what the toy learns from."""
    return DialogueSpec(interactions=(9, 9), facts=(2, 6), max_distance=8)


def medium() -> DialogueSpec:
    """Everything, in conversations of up to twenty turns with recall up to eighteen turns back."""
    return DialogueSpec(interactions=(6, 20), facts=(3, 10), max_distance=18, summary_facts=4, text_interactions=3)
