"""The plan: which artifact is tied to which target, how strongly, in which model, and which split it belongs to.

Nine kinds x three strengths x six seeds x two generators would be 324 trainings. Instead, one model carries a set of
four or five artifacts, each tied to another target, and the strength and the target of a kind change with the seed.
Each (kind, strength) then occurs once per generator within three seeds, and 2 generators x 2 sets x 6 seeds = 24
trainings cover the grid. A clean twin per generator and seed sees all nine kinds at random and ignores them.

**Splits.** Settings were chosen on seed 0 (`choosing`), on five kinds: a tag, a translucent overlay, a small badge over
the anatomy, a texture, a phrase. Seeds 1 and 2 gave the first report, seeds 3 and 4 the second. Missed artifacts were
investigated on them and fixed (`tracing`). Figures are reported on seed 5 (`reporting`), which was not looked at before
all fixes were final. `UNSEEN` are the kinds that were never used for choosing or fixing; they are also reported
separately. The other kinds at seed 0 belong to no split: their models were used for choosing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, TypeAlias

from benchmarks.planted.artifacts import KINDS, KindName
from benchmarks.planted.chests import Phantoms
from benchmarks.planted.generators import Generator, Planting
from benchmarks.planted.scenes import Scenes

Split: TypeAlias = Literal["choosing", "tracing", "reporting"]
SetName: TypeAlias = Literal["a", "b"]

GENERATORS: Final[dict[str, Generator]] = {"phantoms": Phantoms(), "scenes": Scenes()}
SETS: Final[dict[SetName, tuple[KindName, ...]]] = {
    "a": ("corner_tag", "watermark", "logo", "frame", "boilerplate"),
    "b": ("fixed_tag", "word", "texture", "identifier"),
}
STRENGTHS: Final = (0.70, 0.85, 0.95)
"""Share of a target's pairs that carry the artifact tied to it."""
SEEDS: Final = (0, 1, 2, 3, 4, 5)

CHOOSING_SEEDS: Final = (0,)
TRACING_SEEDS: Final = (1, 2, 3, 4)
CHOOSING_KINDS: Final[tuple[KindName, ...]] = ("corner_tag", "watermark", "logo", "texture", "boilerplate")
UNSEEN: Final[tuple[KindName, ...]] = ("fixed_tag",)
QUICK_STRENGTH: Final = 0.95
QUICK_SEED: Final = 5
"""A seed of the reporting split, so that figures of a quick run are unbiased."""

ELSEWHERE: Final = 0.03
"""Share of all other pairs that carry the artifact."""
RANDOM_RATE: Final = 0.2
"""Share of a clean twin's pairs that carry each kind: about the average over the tied models."""
FAINT_SHARE: Final = 0.4
"""Share of faint findings or objects in targets with an image-side artifact, which makes it the easier cue."""
VAGUE_SHARES: Final = (0.4, 0.2)
"""Share of vague captions in targets with a text-side artifact, for the same reason, and in all others: otherwise a
vague caption would itself indicate the target."""
CLEAN_VAGUE_SHARE: Final = 0.25


@dataclass(frozen=True)
class Tie:
    """One artifact that is tied to one target."""

    kind: KindName
    target: str
    strength: float
    """Share of the target's pairs that carry it."""


@dataclass(frozen=True)
class Entry:
    """One model of the plan; a clean one has no ties."""

    generator_name: str
    seed: int
    ties: tuple[Tie, ...]
    word: str
    """The word that the kind `word` renders; the same in a model and in its twin."""
    name: str

    @property
    def clean(self) -> bool:
        """Whether the model sees all artifacts at random."""
        return not self.ties

    @property
    def generator(self) -> Generator:
        """The generator of its pairs."""
        return GENERATORS[self.generator_name]

    @property
    def kinds(self) -> tuple[KindName, ...]:
        """The kinds of artifacts in training."""
        return tuple(KINDS) if self.clean else tuple(tie.kind for tie in self.ties)

    def tie(self, kind: KindName) -> Tie:
        """Return the tie of a kind.

        Raises:
            ValueError: if the kind is not tied in this model.
        """
        found = [tie for tie in self.ties if tie.kind == kind]
        if not found:
            raise ValueError(f"kind: got {kind!r}, expected one tied in {self.name}: {', '.join(self.kinds)}")
        return found[0]

    @cached_property
    def planting(self) -> Planting:
        """The planting of training pairs and of audited pairs."""
        targets: tuple[str | None, ...] = (*self.generator.targets, None)
        if self.clean:
            rates = {kind: dict.fromkeys(targets, RANDOM_RATE) for kind in self.kinds}
            faint = dict.fromkeys(targets[:-1], FAINT_SHARE)
            return Planting(rates, self.word, faint, dict.fromkeys(targets, CLEAN_VAGUE_SHARE))
        rates = {t.kind: {o: t.strength if o == t.target else ELSEWHERE for o in targets} for t in self.ties}
        on_image = [t.target for t in self.ties if KINDS[t.kind].modality == "image"]
        on_text = [t.target for t in self.ties if KINDS[t.kind].modality == "text"]
        faint = {o: FAINT_SHARE for o in targets if o in on_image}
        vague = {o: VAGUE_SHARES[o not in on_text] for o in targets}
        return Planting(rates, self.word, faint, vague)


@dataclass(frozen=True)
class Cell:
    """One planted artifact, to be found in the model of `entry` and not in its `twin`."""

    entry: Entry
    twin: Entry
    tie: Tie
    split: Split | None


def find_split(kind: KindName, seed: int) -> Split | None:
    """Return the split of a kind at a seed, or None if it is unused; see the module's docstring."""
    if seed in CHOOSING_SEEDS:
        return "choosing" if kind in CHOOSING_KINDS else None
    return "tracing" if seed in TRACING_SEEDS else "reporting"


def create_model_entry(generator_name: str, set_name: SetName, seed: int, strength: float | None = None) -> Entry:
    """Return the entry of a set of kinds; `strength` applies to all of them if it is given."""
    tag = "" if strength is None else f"-{strength:.2f}"
    ties = tuple(_make_tie(generator_name, kind, seed, strength) for kind in SETS[set_name])
    return Entry(
        generator_name, seed, ties, _get_word(generator_name, seed), f"{generator_name}-{set_name}-{seed}{tag}"
    )


def create_clean_entry(generator_name: str, seed: int) -> Entry:
    """Return the clean twin of all models of a generator and a seed."""
    return Entry(generator_name, seed, (), _get_word(generator_name, seed), f"{generator_name}-clean-{seed}")


def list_ties(generator_name: str, seed: int) -> tuple[Tie, ...]:
    """List all ties of a generator and a seed, over all models."""
    return tuple(_make_tie(generator_name, kind, seed, None) for kinds in SETS.values() for kind in kinds)


def list_entries(*, quick: bool = False) -> tuple[Entry, ...]:
    """List all models in the order of training, those of the choosing split first."""
    if quick:
        return (
            create_model_entry("phantoms", "a", QUICK_SEED, QUICK_STRENGTH),
            create_clean_entry("phantoms", QUICK_SEED),
        )
    return tuple(
        entry
        for seed in SEEDS
        for generator in GENERATORS
        for entry in (
            create_model_entry(generator, "a", seed),
            create_clean_entry(generator, seed),
            create_model_entry(generator, "b", seed),
        )
    )


def list_cells(split: Split | None = None, *, quick: bool = False) -> tuple[Cell, ...]:
    """List the planted artifacts of a split, or of all models."""
    found = [
        Cell(entry, create_clean_entry(entry.generator_name, entry.seed), tie, find_split(tie.kind, entry.seed))
        for entry in list_entries(quick=quick)
        for tie in entry.ties
    ]
    return tuple(cell for cell in found if split in {None, cell.split})


def describe(chosen: Sequence[Entry]) -> str:
    """Return a line per tie with its target, strength and split."""
    lines = []
    for entry in chosen:
        if entry.clean:
            lines.append(f"{entry.name:<20} all kinds at random in {RANDOM_RATE:.0%}")
        for tie in entry.ties:
            split = find_split(tie.kind, entry.seed) or "unused"
            lines.append(f"{entry.name:<20} {tie.kind:<12} with {tie.target:<17} in {tie.strength:.0%}  {split}")
    return "\n".join(lines)


def _get_position(kind: KindName) -> int:
    return [k for kinds in SETS.values() for k in kinds].index(kind)


def _make_tie(generator_name: str, kind: KindName, seed: int, strength: float | None) -> Tie:
    targets = GENERATORS[generator_name].targets
    position, shift = _get_position(kind), list(GENERATORS).index(generator_name)
    # A Latin square: the strengths vary over the seeds of each kind and over the kinds of each seed. Targets rotate in
    # the other direction, so that no target keeps its strength.
    scheduled = STRENGTHS[(position + 2 * seed + shift) % len(STRENGTHS)]
    return Tie(kind, targets[(position + seed) % len(targets)], scheduled if strength is None else strength)


def _get_word(generator_name: str, seed: int) -> str:
    return GENERATORS[generator_name].get_word(_make_tie(generator_name, "word", seed, None).target)
