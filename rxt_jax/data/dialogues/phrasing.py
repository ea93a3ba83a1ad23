"""The phrase book: every sentence a spec and a split can use, and facts put into words with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from rxt_jax.data.dialogues.deeds import deeds
from rxt_jax.data.dialogues.draws import Draws
from rxt_jax.data.dialogues.properties import Property, properties
from rxt_jax.data.dialogues.remarks import Remark, remarks
from rxt_jax.data.dialogues.scenes import question_groups, scenes, told_parts
from rxt_jax.data.dialogues.spec import DialogueSpec
from rxt_jax.data.dialogues.subjects import Forms, Subject
from rxt_jax.data.dialogues.talk import side_of_phrases, talk
from rxt_jax.data.dialogues.templates import needs_bare_noun, render

__all__ = ["Fact", "Phrasebook"]

_USER_LISTS = (
    "state_frames", "openers", "closers", "question_closers", "stories", "ask_frames", "noun_frames", "follow_ups",
    "follow_up_subjects", "change_markers", "corrections", "withdrawals", "joins", "summary", "older", "younger",
    "history", "first", "sums", "copies", "tool_frames", "indirect_frames", "indirect_withdrawals", "notes",
    "note_questions",
)  # fmt: skip
_ACTS = ("state", "change", "ask", "embedded")


@dataclass(slots=True)
class Fact:
    """One value of one property of a subject, as long as it holds. Without a value it is not known, or taken back."""

    topic: Property
    subject: Subject
    value_type: str
    value: str
    key: str = ""
    former: str = ""
    """The value it replaces, empty for a new fact."""

    def say(
        self, template: str, my: str, forms: Forms | None = None, parts: Mapping[str, str] = MappingProxyType({})
    ) -> str:
        """Put the fact into a template as the user ("my") or the model ("your") says it; `parts`: those of a scene."""
        forms = forms or self.subject.forms(my)
        return render(template, forms, self.subject.bare, self.value, self.key, model=my == "your", parts=parts)

    @property
    def slot(self) -> str:
        """What the fact is about, as the user would name it: the same for two facts that cannot both hold."""
        return self.say(self.topic.noun, "my")

    @property
    def has_kin(self) -> bool:
        """Whether the same can be said of something else: another subject, or another key."""
        return self.topic.weight > 0 and (self.subject.kind != "self" or len(self.topic.subjects) > 1 or bool(self.key))

    @property
    def model_noun(self) -> str:
        """What the fact is about, as the model would name it."""
        return self.say(self.topic.noun, "your")

    def shares_scene(self, other: "Fact") -> bool:
        """Whether both are parts of the same scene, which one sentence can tell."""
        mine, its = self.topic.scene, other.topic.scene
        return bool(mine) and mine == its and self.subject == other.subject and self.key == other.key

    def is_told_with(self, other: "Fact") -> bool:
        """Whether both are parts of the same deed, which one sentence tells of."""
        mine, its = self.topic.family, other.topic.family
        return bool(mine) and mine == its and self.subject == other.subject and self.key == other.key

    @property
    def tail(self) -> str:
        """What it adds to a sentence about its deed."""
        return self.say(self.topic.tail, "my")

    @property
    def tell(self) -> str:
        """What the model says of it: the key before the value."""
        return self.say(self.topic.tell, "your")


class Phrasebook:
    """All phrasings of one spec; `held_out` picks the user phrasings that training never hears."""

    def __init__(self, spec: DialogueSpec, held_out: bool):
        self.spec = spec
        self.held_out = held_out
        known = properties()
        # What is named is talked about, also what nobody would say by chance.
        by_chance = [each.name for each in known.values() if each.weight and not each.everyday]
        self.properties = [known[name] for name in spec.properties or by_chance]
        self.weights = [max(each.weight, 1) for each in self.properties]
        self.everyday = [each for each in known.values() if each.everyday]
        self.lists: dict[str, list[Any]] = {name: self._side(talk()[name]) for name in _USER_LISTS}
        self.chat = [(self._side(each["say"]), each["answer"]) for each in talk()["chat"]]
        self.remarks: list[tuple[str, Remark]] = [
            (template, each) for each in (remarks() if spec.remark_share else ()) for template in self._side(each.say)
        ]
        self.instructions = [tuple(each) for each in talk()["instructions"]]
        self.deeds = deeds() if spec.deeds_share else ()
        self.scenes = {each.name: each for each in scenes()} if spec.scene_share else {}
        self.scene_names = tuple(self.scenes)
        self.question_groups = question_groups() if self.scenes else {}
        self._together = {
            name: [(told_parts(template, each), template) for template in self._side(each.together)]
            for name, each in self.scenes.items()
        }
        topics = [
            *known.values(),
            *(each for verb in self.deeds for each in verb),
            *(each for scene in self.scenes.values() for each in scene.parts.values()),
        ]
        self._acts = {(each.name, act): self._side(getattr(each, act)) for each in topics for act in _ACTS}

    def _side(self, items: Any) -> list[Any]:
        return side_of_phrases(items, self.held_out)[: self.spec.phrasings]

    def any(self, draws: Draws, name: str) -> Any:
        """Draw a phrase of `talk.toml`."""
        return draws.choice(self.lists[name])

    def together(self, fact: Fact) -> list[tuple[tuple[str, ...], str]]:
        """List the sentences of a fact's scene that tell it with others: names of the parts, and the template."""
        return [each for each in self._together[fact.topic.scene] if fact.topic.part in each[0]]

    def phrases(self, fact: Fact, act: str) -> list[str]:
        """List the phrases of an act that fit the subject of a fact; may be empty."""
        found = self._acts[fact.topic.name, act]
        return found if fact.subject.bare else [each for each in found if not needs_bare_noun(each)]

    def clause(self, draws: Draws, fact: Fact, act: str, forms: Forms | None = None) -> str:
        """Say an act of the user about a fact; with `forms` (a pronoun) only as far as a phrase names the subject."""
        found = self.phrases(fact, act)
        if forms is not None:
            found = [each for each in found if "{S}" in each or "{P}" in each or "{O}" in each] or found
            found = [each for each in found if not needs_bare_noun(each)] or found
        if not found:
            raise ValueError(
                f"phrases/: [{fact.topic.name}] has no phrase `{act}` for a subject of kind {fact.subject.kind} in "
                f"this split; add some without {{B}}"
            )
        return fact.say(draws.choice(found), "my", forms)
