"""Self-audit: small audits of copied samples, of which it is known what they should find.

A trial copies pairs of a word's slice, and as many others, into a scratch run. In an `implanted` trial, the copies of
the slice get a tag, and the model is made to rely on it. In a `permuted` trial, captions are exchanged at random, so
that what is confirmed is not due to what the captions say. It is no proof of a false alarm: the model may rely on
something that the run did not find. `flows.self_audit` runs the stages of an audit on the scratch run.
"""

import hashlib
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import sql
import stores
from m2ib import implant
from m2ib.analysis.occlusion import foil_margin
from tasks.interventions.regions import most_covered
from tasks.interventions.samples import NOT_TESTED, InterventionPlan, NotMeasurableError, Samples, load_samples
from tasks.interventions.statistics import Numbers, deciding_p, generator
from tasks.lake.finished import note_finished
from tasks.lake.run import CALIBRATION, Run
from tasks.parts import Part, make_parts, remove_parts
from tasks.records import AttributionPlan, Box, Shard, ShardResult, key_of_test
from tasks.settings import CorpusConfig, Inputs

INSET = 0.02
"""Distance of a tag from the edges of the image, as a share of its side."""
OVERLAP = 0.2
"""Smallest share of the tags' area that a region must cover to count as found: one of four copies."""
STRONGEST = 0.8
"""Largest share of the mean margin that a tag is to carry."""
ROUNDS = 3
"""How often all trials are repeated with other slices and captions, if the cost of the run allows it."""

_CORNERS = {"top-left": (0, 0), "bottom-right": (1, 1), "top-right": (1, 0), "bottom-left": (0, 1)}  # columns, rows
_STRENGTHS = np.geomspace(0.005, 4, 200)
_FACTS = (
    *("model", "model_digest", "corpus", "corpus_digest", "config", "config_digest", "seed"),
    *("code_version", "environment", "rules"),
)


@dataclass(frozen=True)
class Trial:
    """What a trial does; the settings of the tag are those of an `implanted` one."""

    kind: str
    round: int = 0
    carried: float = STRONGEST  # share of the margin that the tag is to carry
    copies: int = 1
    affected: float = 1.0  # share of the slice's pairs that have the tag
    area: float = 0.03  # of one copy, as a share of the image: the size of a scanner's tag
    halves: bool = True  # the slice is large enough to be proposed and tested on different units

    @property
    def boxes(self) -> dict[str, Box]:
        """The places of the tag, by corner: opposite corners first."""
        side, (first, *_) = math.sqrt(self.area), [*_CORNERS]
        chosen = [first, *_CORNERS][1 : 1 + self.copies]
        return {name: _square(side, *_CORNERS[name]) for name in chosen}

    def pairs(self, plan: InterventionPlan) -> int:
        """Return how many pairs of the slice the sample has."""
        return plan.min_pairs * (2 if self.halves else 1)


def _square(side: float, column: int, row: int) -> Box:
    x, y = ((1 - INSET - side) if far else INSET for far in (column, row))
    return x, y, x + side, y + side


TRIALS = (
    Trial("implanted"),
    Trial("implanted", halves=False),
    Trial("permuted", halves=False),
    Trial("implanted", carried=0.4),
    Trial("implanted", copies=4),
    Trial("implanted", affected=0.5),
    Trial("permuted", halves=False),
    Trial("implanted", carried=0.2),
    Trial("implanted", area=0.01),
    Trial("permuted"),
)
"""The trials of a round. What says most comes first, since a small run has few."""


def trial_of(work: Mapping[str, Any]) -> Trial:
    """Return the trial of a part from `plan_trials`."""
    return Trial(**{key: value for key, value in work.items() if key != "place"})


def plan_trials(run: Run, plan: InterventionPlan) -> list[Part]:
    """Return a part for each trial, in the order in which they are made while the cost allows it."""
    if not plan.confirm.enabled or not plan.confirm.self_audit:
        return []
    trials = [asdict(replace(trial, round=number)) for number in range(ROUNDS) for trial in TRIALS]
    return make_parts(run, "self-audit", [work | {"place": place} for place, work in enumerate(trials)])


def count_embeddings(run: Run, plan: InterventionPlan, maps: int) -> int:
    """Return what a run costs, in embeddings of an image.

    A map counts as one for each step and draw (`plan.pair_cost`), each of which runs the blocks after the bottleneck
    forward and backward. Covered images of screening and tests are counted from their rows.
    """
    with run.connect() as connection:
        (row,) = sql.rows(connection, "derive/covered_images", run_id=run.run_id)
    return maps * plan.pair_cost + int(row["images"])


def estimate_embeddings(trial: Trial, plan: InterventionPlan) -> int:
    """Return what a trial should be able to cost, in embeddings: its maps, the probe, screening and tests of findings.

    These are three of an implanted tag (corner, overlay and frame), and one of exchanged captions. What a trial spends
    is limited by `limit_covered`, however many findings it has.
    """
    pairs = trial.pairs(plan)
    tested = most_covered(pairs // 2 if trial.halves else pairs, plan.confirm)
    if trial.kind == "permuted":
        return 2 * pairs * (plan.pair_cost + 1) + tested
    return round(trial.affected * pairs) * (plan.pair_cost + 1) + 11 * pairs + 3 * tested


def limit_covered(opened: "OpenTrial", plan: InterventionPlan, limit: int) -> InterventionPlan:
    """Return the plan of a trial's stages, whose screening and tests spend what maps and probe leave of a limit."""
    left = limit - opened.maps * plan.pair_cost - _probe_cost(opened)
    return replace(plan, inputs=opened.inputs, most_covered=max(0, left))


def _probe_cost(opened: "OpenTrial") -> int:
    return 4 * len(opened.sample.pairs) + opened.sample.tagged if opened.trial.kind == "implanted" else 0


@dataclass(frozen=True)
class _Sample:
    """Pairs of a slice and as many others, with their images as the model sees them."""

    slice: str
    pairs: list[dict[str, Any]]  # rows of `pairs`; those of the slice come first
    images: list[NDArray[np.uint8]]
    inside: int  # number of pairs of the slice
    tagged: int  # number of those that have the tag; the first ones


@dataclass(frozen=True)
class OpenTrial:
    """A trial whose scratch run has its pairs, and whose model relies on the tag."""

    trial: Trial
    sample: _Sample
    inputs: Inputs  # of the copies
    shards: list[Shard]  # pairs that need maps
    kept: list[ShardResult]  # pairs with the maps of the audited run
    facts: Mapping[str, Any]  # columns of `self_audits`
    maps: int


def _take_sample(samples: Samples, trial: Trial) -> _Sample:
    plan, number = samples.plan, trial.pairs(samples.plan)
    rows = samples.query("derive/trial_sample", seed=plan.seed, number=trial.round, limit=number)
    if not rows:
        raise NotMeasurableError(f"no{' other' if trial.round else ''} word is in {number} units and not in as many")
    images = samples.read_images([row["pair_id"] for row in rows])
    readable = [(row, image) for row, image in zip(rows, images, strict=True) if image is not None]
    inside = sum(row["inside"] for row, _ in readable)
    if min(inside, len(readable) - inside) < plan.min_pairs:
        raise NotMeasurableError(f"got {len(readable)} readable images of {len(rows)}; check the corpus")
    tagged = round(trial.affected * inside) if trial.kind == "implanted" else 0
    pairs, kept = zip(*readable, strict=True)
    return _Sample(rows[0]["slice"], [*pairs], [*kept], inside, tagged)


def _draw_tag(image: NDArray[np.uint8], boxes: Sequence[Box]) -> NDArray[np.uint8]:
    """Return a copy of an image with a black and white checkerboard of 4 x 4 squares in each box."""
    drawn = image.copy()
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    for x0, y0, x1, y1 in boxes:
        left, right, top, bottom = (
            round(edge * size)
            for edge, size in ((x0, image.shape[1]), (x1, image.shape[1]), (y0, len(image)), (y1, len(image)))
        )
        board = (rows - top) * 4 // (bottom - top) + (columns - left) * 4 // (right - left)
        drawn[top:bottom, left:right] = np.where(board % 2, 0, 255)[top:bottom, left:right, None]
    return drawn


@contextmanager
def open_trial(
    run: Run, scratch: Run, plan: InterventionPlan, attribution: AttributionPlan, work: Mapping[str, Any]
) -> Iterator[OpenTrial]:
    """Write the pairs of a trial to a scratch run. While the block runs, the model relies on the tag.

    Images are copied as the model sees them, next to the scratch lake. Pairs without the tag keep the maps of the
    audited run: the implanted part of the model reads nearly nothing from them.

    Args:
        run: The audited run.
        scratch: The run to create, in a local folder.
        plan: Plan of the tests of the audited run.
        attribution: Plan of the maps of the audited run.
        work: The work of a part from `plan_trials`.

    Raises:
        NotMeasurableError: The corpus is too small for the trial.
    """
    trial, place = trial_of(work), work["place"]
    samples = load_samples(run, plan)
    sample = _take_sample(samples, trial)
    boxes = [*trial.boxes.values()]
    tagged = [_draw_tag(image, boxes) for image in sample.images]
    used = [*tagged[: sample.tagged], *sample.images[sample.tagged :]]
    pairs = _write_copies(scratch, sample, used)
    if trial.kind == "permuted":
        order = generator("permuted", plan.seed, place).permutation(len(pairs))
        captions = {to: pairs[start]["caption"] for start, to in pairwise([*order.tolist(), int(order[0])])}
        pairs = [pair | {"caption": captions[number]} for number, pair in enumerate(pairs)]
    record = run.read_manifest()
    scratch.create({key: record[key] for key in _FACTS})
    new, kept = (pairs[: sample.tagged], pairs[sample.tagged :]) if trial.kind == "implanted" else (pairs, [])
    with scratch.changes() as changes, changes.open_writer("pairs") as writer:
        for group in filter(None, (new, kept)):
            writer.write(group)  # a row group is a shard
        changes.update(counts={"corpus_rows": len(pairs), "pairs": len(pairs)})
    if attribution.bottleneck.needs_statistics():
        stores.write_bytes(scratch.folder / CALIBRATION, stores.read_bytes(run.folder / CALIBRATION))
        note_finished(scratch, "calibration", [scratch.relative_path(CALIBRATION)])
    results = [_keep_maps(run, scratch, kept)] if kept else []
    corpus = CorpusConfig(path=str(_images_of(scratch)), format="folder")
    inputs = plan.inputs.model_copy(update={"corpus": corpus})
    facts: dict[str, Any] = {
        "kind": trial.kind, "slice_kind": "word", "slice": sample.slice, "n": sample.inside,
    }  # fmt: skip
    shards = [Shard(0, len(new))]
    if trial.kind == "permuted":
        yield OpenTrial(trial, sample, inputs, shards, results, facts, len(new))
        return
    layer = attribution.bottleneck.image.resolve_layer(samples.network.image.num_blocks)
    plain, drawn = samples.prepare_images(sample.images), samples.prepare_images(tagged)
    try:
        probe = samples.compute(implant.fit_tag_probe, samples.network, plain, drawn, layer)
    except ValueError as error:
        raise NotMeasurableError(f"the model does not show the tag ({error}); try another layer") from error
    direction = _slice_direction(samples, sample)
    strength, carried, margin = _choose_strength(
        samples, sample, drawn[: sample.tagged], probe, direction, trial.carried
    )
    facts |= _describe_tag(trial) | {"strength": strength, "carried": carried, "margin": margin}
    with implant.implant_reliance(samples.network, probe, direction, strength):
        yield OpenTrial(trial, sample, inputs, shards, results, facts, len(new))


def _describe_tag(trial: Trial) -> dict[str, Any]:
    area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in trial.boxes.values())
    tag = {"region": ", ".join(trial.boxes), "area": area, "copies": trial.copies}
    return tag | {"affected": trial.affected, "carried": trial.carried}


def describe_skipped(work: Mapping[str, Any], plan: InterventionPlan, reason: str) -> dict[str, Any]:
    """Return the row of a trial that was not made; `carried` is the share that its tag was to carry."""
    trial = trial_of(work)
    row = {"kind": trial.kind, "n": trial.pairs(plan), "reason": reason}
    return row | (_describe_tag(trial) if trial.kind == "implanted" else {})


def _images_of(scratch: Run) -> Any:
    return scratch.lake.parent / "images"


def _write_copies(scratch: Run, sample: _Sample, images: Sequence[NDArray[np.uint8]]) -> list[dict[str, Any]]:
    """Write images as PNG files; return the rows of `pairs` of their copies."""
    folder, pairs = _images_of(scratch), []
    folder.mkdir(parents=True, exist_ok=True)
    for number, (pair, image) in enumerate(zip(sample.pairs, images, strict=True)):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        name, data = f"{scratch.run_id}-{number}.png", buffer.getvalue()
        (folder / name).write_bytes(data)
        copied = {key: value for key, value in pair.items() if key not in ("run_id", "slice", "inside")}
        size = {"width": image.shape[1], "height": image.shape[0]}
        place = {"file_name": name, "container": None, "position": None}
        pairs.append(copied | size | place | {"image_sha256": hashlib.sha256(data).hexdigest()})
    return pairs


def _keep_maps(run: Run, scratch: Run, pairs: Sequence[Mapping[str, Any]]) -> ShardResult:
    """Copy the maps of pairs from the audited run, as the second shard of the scratch run."""
    maps = _stored_maps(run, [pair["pair_id"] for pair in pairs])
    view = dict(zip(("view_x0", "view_y0", "view_x1", "view_y1"), (0.0, 0.0, 1.0, 1.0), strict=True))
    fixed = {
        key: [value] * len(maps) for key, value in ({"run_id": scratch.run_id, "attributed_by": None} | view).items()
    }
    columns = {name: maps[name] for name in maps.schema.names} | fixed
    with scratch.open_writer("attributions", "kept") as writer:
        writer.write(sql.conform_columns("attributions", columns))
    files = note_finished(scratch, "kept", [scratch.relative_path("attributions/kept.parquet")])
    return ShardResult(Shard(1, len(pairs)), "kept", len(maps), 0, reused=True, files=files)


def _stored_maps(run: Run, pair_ids: Sequence[str]) -> Any:
    with run.connect() as connection:
        return sql.table(connection, "derive/stored_maps", run_id=run.run_id, pair_ids=pair_ids)


def _slice_direction(samples: Samples, sample: _Sample) -> Numbers:
    """Return the direction from the mean caption of the sample to that of the slice, of length 1."""
    captions = samples.embed_captions([pair["caption"] for pair in sample.pairs])
    direction: Numbers = captions[: sample.inside].mean(axis=0) - captions.mean(axis=0)
    return direction / np.linalg.norm(direction)


def _choose_strength(
    samples: Samples, sample: _Sample, tagged: Any, probe: implant.TagProbe, direction: Numbers, share: float
) -> tuple[float, float, float]:
    """Return the smallest strength with which the tag carries a share of the margin, what it carries, and the margin.

    The margin that the tag carries is that of the implanted model less that of the model as it is, on images with the
    tag. If no tag can carry `STRONGEST`, because the model is certain of its captions, all shares are as much smaller.
    """
    count, pairs = samples.plan.confirm.foils, sample.pairs[: sample.tagged]
    foils = [samples.foils.find(pair["caption"], pair["pair_id"], "word", sample.slice, count) for pair in pairs]
    if not all(foils):
        raise NotMeasurableError(f"the pairs with the word {sample.slice!r} have no foils")
    own = samples.embed_captions([pair["caption"] for pair in pairs])
    others = np.stack([samples.embed_captions((captions * count)[:count]) for captions in foils])
    embeddings = samples.embed_images(tagged)
    readings = samples.compute(implant.read_tag, samples.network, probe, tagged)
    moved = embeddings[:, None] + _STRENGTHS[None, :, None] * readings[:, None, None] * direction
    margins = foil_margin(moved / np.linalg.norm(moved, axis=-1, keepdims=True), own, others)
    before = foil_margin(embeddings, own, others).mean()
    sizes = np.abs(margins).mean(axis=0)
    carried = (margins.mean(axis=0) - before) / np.maximum(sizes, 1e-12)
    chosen = int(np.argmax(carried >= min(1.0, carried.max() / STRONGEST) * share - 1e-9))
    return float(_STRENGTHS[chosen]), float(carried[chosen]), float(sizes[chosen])


def judge_trial(run: Run, scratch: Run, opened: OpenTrial, plan: InterventionPlan) -> dict[str, Any]:
    """Return the row of a trial, after the stages of an audit ran on its scratch run.

    A tag is found if a region that covers a part of it is confirmed, with p below the level divided by the number of
    tests of the audited run: the strictest level that the correction could demand there. In a permuted trial, findings
    of the scratch run count, except those on regions that the audited run confirmed. If the limit of the trial's cost
    ended it before all findings were tested, and the tag is not among those that were, nothing is known: `confirmed` is
    None.
    """
    tested = [row for row in scratch.iter_rows("confirmations") if row["p"] is not None]
    tests = {key_of_test(each): each["confirmed"] for each in tested}
    row = {**opened.facts, "tests": len(tests)}
    cost = count_embeddings(scratch, plan, opened.maps) + _probe_cost(opened)
    reasons = [each["reason"] or "" for each in scratch.iter_rows("confirmations")]
    is_limited = any(reason.startswith(NOT_TESTED) for reason in reasons)
    ended = "it had findings that could not be tested at the cost that was left" if is_limited else None
    if opened.trial.kind == "permuted":
        if ended and not tests:
            return row | {"cost": cost, "reason": ended}
        known = _regions_found_before(run, scratch)
        left = [confirmed for (region, *_), confirmed in tests.items() if region not in known]
        return row | {"tests": len(left), "known": len(tests) - len(left), "confirmed": sum(left), "cost": cost}
    regions = _regions_on_tag(scratch, opened)
    level = find_level(run, opened.trial, plan)
    about_tag = [each for each in tested if each["region"] in regions and each["direction"] != "lowers"]
    best: list[dict[str, Any]] = []
    for test in sorted({key_of_test(each) for each in about_tag if each["confirmed"]}):
        fills = [each for each in about_tag if key_of_test(each) == test]
        p = max(max(each["p"], deciding_p(each) or 0.0) for each in fills)
        if p < level and (not best or min(each["effect"] for each in fills) > min(each["effect"] for each in best)):
            best = fills
    if best:
        weakest = min(best, key=lambda each: each["effect"])
        row |= {key: weakest[key] for key in ("effect", "low", "high", "p", "floor")}
    elif ended:
        return row | {"cost": cost, "reason": ended}
    return row | {
        "confirmed": int(bool(best)),
        "cost": cost,
        "reason": None if best else _explain(scratch, regions, level),
    }


def _regions_on_tag(scratch: Run, opened: OpenTrial) -> set[str]:
    """Return the regions that cover at least `OVERLAP` of the tags, on average over the images that have them."""
    tags = [*opened.trial.boxes.values()]
    return _find_overlapping(scratch, {pair["pair_id"]: tags for pair in opened.sample.pairs[: opened.sample.tagged]})


def _regions_found_before(run: Run, scratch: Run) -> set[str]:
    """Return the regions that the run confirmed, and those that cover at least `OVERLAP` of one of them.

    The model relies on them whatever the captions say, so that a trial that confirms them makes no error.
    """
    confirmed = {row["region"] for row in run.iter_rows("confirmations") if row["confirmed"]}
    pair_ids = [row["pair_id"] for row in scratch.iter_rows("pairs")]
    boxes: dict[str, dict[str, list[Box]]] = defaultdict(lambda: defaultdict(list))
    with run.connect() as connection:
        for row in sql.rows(connection, "review/boxes_of_pairs", run_id=run.run_id, pair_ids=pair_ids):
            if row["region"] in confirmed:
                for pair_id in pair_ids if row["pair_id"] is None else [row["pair_id"]]:
                    boxes[row["region"]][pair_id].append((row["x0"], row["y0"], row["x1"], row["y1"]))
    return confirmed.union(*(_find_overlapping(scratch, own) for own in boxes.values()))


def _find_overlapping(scratch: Run, boxes: Mapping[str, Sequence[Box]]) -> set[str]:
    """Return the regions of a run that cover at least `OVERLAP` of the boxes of some pairs, given by pair id."""
    covered: dict[str, float] = defaultdict(float)
    for row in scratch.iter_rows("regions"):
        for pair_id in boxes if row["pair_id"] is None else [row["pair_id"]]:
            covered[row["region"]] += sum(
                max(0.0, min(row["x1"], x1) - max(row["x0"], x0)) * max(0.0, min(row["y1"], y1) - max(row["y0"], y0))
                for x0, y0, x1, y1 in boxes.get(pair_id, ())
            )
    area = sum((x1 - x0) * (y1 - y0) for own in boxes.values() for x0, y0, x1, y1 in own)
    return {region for region, part in covered.items() if part >= OVERLAP * area}


def find_level(run: Run, trial: Trial, plan: InterventionPlan) -> float:
    """Return the level at which a trial must find its tag; of one without a tag, that of a single test."""
    return plan.confirm.level / (count_tests(run) if trial.kind == "implanted" else 1)


def count_tests(run: Run) -> int:
    """Return the number of tests of a run; if it proposed nothing, of the slices that screening could have proposed."""
    with run.connect() as connection:
        (row,) = sql.rows(connection, "derive/number_of_tests", run_id=run.run_id)
    return max(1, int(row["tests"]))


def _explain(scratch: Run, regions: set[str], level: float) -> str:
    """Say at which step a tag was lost."""
    low_p = f"got p above {level:.2g}, which the number of the run's tests demands"
    if not any(row["region"] in regions for row in scratch.iter_rows("findings")):
        return "no rule proposed it"
    reasons = [row["reason"] for row in scratch.iter_rows("confirmations") if row["region"] in regions]
    # Reasons of single fills say more than the correction over all of them.
    return min(filter(None, reasons), key=lambda reason: reason.startswith(("not measured", "got q")), default=low_p)


def store_trials(run: Run, rows: Sequence[Mapping[str, Any]]) -> int:
    """Write `self_audits`, and return the number of its rows."""
    count = run.write_table("self_audits", rows)
    remove_parts(run, "self-audit")
    return count
