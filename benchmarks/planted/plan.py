"""The grid: which artefact is tied to what, how strongly, in which model, and what each of them may be used for.

Nine kinds x three strengths x six seeds x two generators would be 324 trainings. Instead one model carries a set of
four or five artefacts, each tied to another target; a kind meets another strength and another target at each seed. So
each (kind, strength) is there once a generator within three seeds, and 2 generators x 2 sets x 6 seeds = 24 trainings
cover the grid. A clean twin for each generator and seed saw all nine kinds at random: it ignores them, on the same
images.

**Splits.** Settings were chosen on seed 0 and there on five kinds only, which are of every sort: a tag, a translucent
overlay, a small badge over the anatomy, a texture, a phrase. Seeds 1 and 2 gave the first report, seeds 3 and 4 the
second; why they missed what they missed was traced on them and mended, so that they count as looked at: `tracing`.
Figures are reported on seed 5, of which nothing was seen before all that was settled. `UNSEEN` are the kinds on which
nothing was ever chosen or mended, to be reported on their own, too. The kinds at seed 0 that were not chosen on belong
to no split. They are trained, because their models carry them beside the others, and stay unused: to report them would
be to report on models chosen on.
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
"""Share of a target's pairs that carry the artefact tied to it."""
SEEDS: Final = (0, 1, 2, 3, 4, 5)

CHOOSING_SEEDS: Final = (0,)
TRACING_SEEDS: Final = (1, 2, 3, 4)
CHOOSING_KINDS: Final[tuple[KindName, ...]] = ("corner_tag", "watermark", "logo", "texture", "boilerplate")
UNSEEN: Final[tuple[KindName, ...]] = ("fixed_tag",)
QUICK_STRENGTH: Final = 0.95
QUICK_SEED: Final = 5
"""A seed of the reporting split, so that figures of a quick run are honest as well."""

ELSEWHERE: Final = 0.03
"""Share of all other pairs that carry it."""
RANDOM_RATE: Final = 0.2
"""Share of a clean twin's pairs that carry an artefact, each kind by itself: about what the ties make on average."""
FAINT_SHARE: Final = 0.4
"""Share of faint findings or objects where an image-side artefact is tied: it makes the artefact the easier cue."""
VAGUE_SHARES: Final = (0.4, 0.2)
"""Share of vague captions where a text-side artefact is tied, for the same reason, and elsewhere: without the latter,
vagueness itself would tell the target."""
CLEAN_VAGUE_SHARE: Final = 0.25


@dataclass(frozen=True)
class Tie:
    """One artefact that goes with one target."""

    kind: KindName
    target: str
    strength: float
    """Share of the target's pairs that carry it."""


@dataclass(frozen=True)
class Entry:
    """One model to be trained; a clean one has no ties."""

    generator_name: str
    seed: int
    ties: tuple[Tie, ...]
    word: str
    """What the kind `word` renders: the same in a model and in its twin."""
    name: str

    @property
    def clean(self) -> bool:
        """Whether it saw all artefacts at random."""
        return not self.ties

    @property
    def generator(self) -> Generator:
        """What draws its pairs."""
        return GENERATORS[self.generator_name]

    @property
    def kinds(self) -> tuple[KindName, ...]:
        """The artefacts that the model saw in training."""
        return tuple(KINDS) if self.clean else tuple(tie.kind for tie in self.ties)

    def tie(self, kind: KindName) -> Tie:
        """Look up what an artefact is tied to.

        Raises:
            ValueError: if it is tied to nothing in this model.
        """
        found = [tie for tie in self.ties if tie.kind == kind]
        if not found:
            raise ValueError(f"kind: got {kind!r}, expected one tied in {self.name}: {', '.join(self.kinds)}")
        return found[0]

    @cached_property
    def planting(self) -> Planting:
        """The shares of everything in the training pairs; draw audited pairs with the same."""
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
    """One planted artefact of the grid: what is to be found in `entry` and not in `twin`."""

    entry: Entry
    twin: Entry
    tie: Tie
    split: Split | None

    @property
    def unseen(self) -> bool:
        """Whether nothing was chosen or mended on its kind."""
        return self.tie.kind in UNSEEN


def split_of(kind: KindName, seed: int) -> Split | None:
    """What a kind at a seed may be used for; None: for nothing. The module's docstring says why."""
    if seed in CHOOSING_SEEDS:
        return "choosing" if kind in CHOOSING_KINDS else None
    return "tracing" if seed in TRACING_SEEDS else "reporting"


def artefact_entry(generator_name: str, set_name: SetName, seed: int, strength: float | None = None) -> Entry:
    """Build the model of a set of kinds, all of one strength where it is given."""
    tag = "" if strength is None else f"-{strength:.2f}"
    ties = tuple(_tie(generator_name, kind, seed, strength) for kind in SETS[set_name])
    return Entry(generator_name, seed, ties, _word(generator_name, seed), f"{generator_name}-{set_name}-{seed}{tag}")


def clean_entry(generator_name: str, seed: int) -> Entry:
    """Build the clean twin of all artefact models of a generator and a seed."""
    return Entry(generator_name, seed, (), _word(generator_name, seed), f"{generator_name}-clean-{seed}")


def ties_at(generator_name: str, seed: int) -> tuple[Tie, ...]:
    """List all ties of a generator and a seed, whichever model carries them."""
    return tuple(_tie(generator_name, kind, seed, None) for kinds in SETS.values() for kind in kinds)


def entries(*, quick: bool = False) -> tuple[Entry, ...]:
    """All models, in the order of training: what settings are chosen on comes first."""
    if quick:
        return (artefact_entry("phantoms", "a", QUICK_SEED, QUICK_STRENGTH), clean_entry("phantoms", QUICK_SEED))
    return tuple(
        entry
        for seed in SEEDS
        for generator in GENERATORS
        for entry in (
            artefact_entry(generator, "a", seed),
            clean_entry(generator, seed),
            artefact_entry(generator, "b", seed),
        )
    )


def cells(split: Split | None = None, *, quick: bool = False) -> tuple[Cell, ...]:
    """The planted artefacts of a split, or of all models where no split is named."""
    found = [
        Cell(entry, clean_entry(entry.generator_name, entry.seed), tie, split_of(tie.kind, entry.seed))
        for entry in entries(quick=quick)
        for tie in entry.ties
    ]
    return tuple(cell for cell in found if split in {None, cell.split})


def describe(chosen: Sequence[Entry]) -> str:
    """Say what is tied to what, and which split it belongs to, a line each."""
    lines = []
    for entry in chosen:
        if entry.clean:
            lines.append(f"{entry.name:<20} all kinds at random in {RANDOM_RATE:.0%}")
        for tie in entry.ties:
            split = split_of(tie.kind, entry.seed) or "unused"
            lines.append(f"{entry.name:<20} {tie.kind:<12} with {tie.target:<17} in {tie.strength:.0%}  {split}")
    return "\n".join(lines)


def _position(kind: KindName) -> int:
    return [k for kinds in SETS.values() for k in kinds].index(kind)


def _tie(generator_name: str, kind: KindName, seed: int, strength: float | None) -> Tie:
    targets = GENERATORS[generator_name].targets
    position, shift = _position(kind), list(GENERATORS).index(generator_name)
    # A Latin square: over the seeds each kind runs through the strengths, and over a set's kinds each seed does.
    # Targets turn the other way round, so that no target keeps its strength.
    drawn = STRENGTHS[(position + 2 * seed + shift) % len(STRENGTHS)]
    return Tie(kind, targets[(position + seed) % len(targets)], drawn if strength is None else strength)


def _word(generator_name: str, seed: int) -> str:
    return GENERATORS[generator_name].word_of(_tie(generator_name, "word", seed, None).target)
