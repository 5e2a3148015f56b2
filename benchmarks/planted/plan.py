"""The plan: which artifact is tied to which target, how strongly, in which model, and which split it belongs to.

One model carries a set of four or five artifacts, each tied to another target. The strength and the target of a kind
change with the seed, so that each (kind, strength) occurs once per generator within three seeds, and within six seeds
once with each image tower. A clean twin per generator and seed sees all kinds at random and ignores them.

**Splits.** Settings are chosen, and misses are investigated, on seeds 0 to 5 (`choosing`). Figures are reported on
later seeds (`reporting`), of which nothing is looked at before the audit that is reported is final.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, TypeAlias

from benchmarks.planted.artifacts import KINDS, KindName
from benchmarks.planted.chests import Phantoms
from benchmarks.planted.generators import Generator, Planting
from benchmarks.planted.scenes import Scenes

Split: TypeAlias = Literal["choosing", "reporting"]
SetName: TypeAlias = Literal["a", "b", "c"]
TowerName: TypeAlias = Literal["transformer", "convolutional"]

GENERATORS: Final[dict[str, Generator]] = {"phantoms": Phantoms(), "scenes": Scenes()}
SETS: Final[dict[SetName, tuple[KindName, ...]]] = {
    "a": ("corner_tag", "watermark", "logo", "frame", "boilerplate"),
    "b": ("fixed_tag", "word", "texture", "identifier"),
    "c": ("cast", "background", "copied_tag", "absent_tag"),
}
TOWERS: Final[tuple[TowerName, ...]] = ("transformer", "convolutional")
STRENGTHS: Final = (0.70, 0.85, 0.95)
"""Share of a target's pairs that carry the artifact tied to it."""
SEEDS: Final[dict[Split, range]] = {"choosing": range(6), "reporting": range(6, 12)}
QUICK_STRENGTH: Final = 0.95
QUICK_SEED: Final = 6

ELSEWHERE: Final = 0.03
"""Share of all other pairs that carry the artifact."""
RANDOM_RATE: Final = 0.2
"""Share of a clean twin's pairs that carry each kind: about the average over the tied models."""
RANDOM_ABSENCE: Final = 0.5
"""The same for a kind whose absence is the cue."""
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
    """Share of the target's pairs that carry it, or that lack it if the cue is its absence."""

    def get_rate(self, target: str | None) -> float:
        """Return the share of a target's pairs that carry the artifact."""
        own = target == self.target
        if KINDS[self.kind].by_absence:
            return 1 - self.strength if own else self.strength
        return self.strength if own else ELSEWHERE


@dataclass(frozen=True)
class Entry:
    """One model of the plan; a clean one has no ties."""

    generator_name: str
    seed: int
    ties: tuple[Tie, ...]
    word: str
    """The word that the kind `word` renders; the same in a model and in its twin."""
    name: str
    tower: TowerName

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
            rates = {
                kind: dict.fromkeys(targets, RANDOM_ABSENCE if KINDS[kind].by_absence else RANDOM_RATE)
                for kind in self.kinds
            }
            faint = dict.fromkeys(targets[:-1], FAINT_SHARE)
            return Planting(rates, self.word, faint, dict.fromkeys(targets, CLEAN_VAGUE_SHARE))
        rates = {tie.kind: {target: tie.get_rate(target) for target in targets} for tie in self.ties}
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
    split: Split


def find_split(seed: int) -> Split:
    """Return the split of a seed; see the module's docstring."""
    return "choosing" if seed in SEEDS["choosing"] else "reporting"


def find_tower(generator_name: str, seed: int) -> TowerName:
    """Return the image tower of a generator's models at a seed: both alternate."""
    return TOWERS[(seed + list(GENERATORS).index(generator_name)) % len(TOWERS)]


def create_model_entry(generator_name: str, set_name: SetName, seed: int, strength: float | None = None) -> Entry:
    """Return the entry of a set of kinds; `strength` applies to all of them if it is given."""
    tag = "" if strength is None else f"-{strength:.2f}"
    ties = tuple(_make_tie(generator_name, kind, seed, strength) for kind in SETS[set_name])
    name, tower = f"{generator_name}-{set_name}-{seed}{tag}", find_tower(generator_name, seed)
    return Entry(generator_name, seed, ties, _get_word(generator_name, seed), name, tower)


def create_clean_entry(generator_name: str, seed: int) -> Entry:
    """Return the clean twin of all models of a generator and a seed."""
    name, tower = f"{generator_name}-clean-{seed}", find_tower(generator_name, seed)
    return Entry(generator_name, seed, (), _get_word(generator_name, seed), name, tower)


def list_ties(generator_name: str, seed: int) -> tuple[Tie, ...]:
    """List all ties of a generator and a seed, over all models."""
    return tuple(_make_tie(generator_name, kind, seed, None) for kinds in SETS.values() for kind in kinds)


def list_entries(split: Split | None = None, *, quick: bool = False) -> tuple[Entry, ...]:
    """List the models of a split, or of all, in the order of training, those of the choosing split first."""
    if quick:
        return (
            create_model_entry("phantoms", "a", QUICK_SEED, QUICK_STRENGTH),
            create_clean_entry("phantoms", QUICK_SEED),
        )
    return tuple(
        entry
        for seeds in ([SEEDS[split]] if split else SEEDS.values())
        for seed in seeds
        for generator in GENERATORS
        for entry in (
            create_clean_entry(generator, seed),
            *(create_model_entry(generator, set_name, seed) for set_name in SETS),
        )
    )


def list_cells(split: Split | None = None, *, quick: bool = False) -> tuple[Cell, ...]:
    """List the planted artifacts of a split, or of all models."""
    return tuple(cell for entry in list_entries(split, quick=quick) for cell in make_cells(entry))


def make_cells(entry: Entry) -> Iterator[Cell]:
    """Yield the cells of a model."""
    twin = create_clean_entry(entry.generator_name, entry.seed)
    for tie in entry.ties:
        yield Cell(entry, twin, tie, find_split(entry.seed))


def describe(chosen: Sequence[Entry]) -> str:
    """Return a line per tie with its target, strength and split."""
    lines = []
    for entry in chosen:
        if entry.clean:
            lines.append(f"{entry.name:<20} all kinds at random in {RANDOM_RATE:.0%}, {entry.tower}")
        for tie in entry.ties:
            split = find_split(entry.seed)
            tied = f"{tie.kind:<12} with {tie.target:<17} in {tie.strength:.0%}"
            lines.append(f"{entry.name:<20} {tied}  {entry.tower:<13}  {split}")
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
