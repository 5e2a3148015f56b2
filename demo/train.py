"""Train the demo models from scratch, and measure how much each relies on the tag.

`python -m demo.train` reproduces the weights, then evaluates them; `--evaluate-only` only evaluates. On CPU a step
takes a fraction of the time if these settings are in the environment before the process starts:
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import open_clip
import torch
from torch import Tensor
from torch.nn import functional

from demo import contrastive
from demo.models import NAMES, VARIED_NAMES, find_folder
from demo.phantoms import CONDITIONS, FAINT, MARKER, SIZE, TAG, Condition, Study, draw_study

ARCHITECTURE: Final[dict[str, Any]] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": SIZE, "patch_size": 10, "width": 128, "layers": 5, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 3},
}
PREPROCESSING: Final[dict[str, Any]] = {
    "size": SIZE,
    "mode": "RGB",
    "mean": [0.35] * 3,
    "std": [0.2] * 3,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}

STEPS: Final = 600
SEED: Final = 2026

HELD_OUT_SEED: Final = 900_001  # makes the images of the evaluation independent of training and of the corpus

Figures: TypeAlias = dict[str, tuple[float, ...]]
"""Measurements of one model, by label: one value, or the values before and after the images are changed."""


# Training


def pixel_batch(images: Sequence[np.ndarray[Any, Any]]) -> Tensor:
    """Convert gray uint8 images to preprocessed pixels, [n, 3, SIZE, SIZE], in the same way as open_clip does."""
    return contrastive.pixel_batch(images, PREPROCESSING)


def train(name: str, steps: int, seed: int, report: Callable[[str], None]) -> dict[str, Tensor]:
    """Train the demo model `name` on random radiographs, and return its weights.

    For `demo/clean` the tag is independent of the finding, for the others it correlates with consolidation. It is in a
    random corner, or varies (`VARIED_NAMES`). `seed` is the seed of the images and of the initial weights.
    `demo/varied-next` has the next seed, but half of its images are those of `demo/varied`. `report` is called with a
    line about the progress every 20 steps.
    """
    retrained = name == "demo/varied-next"
    streams = [np.random.default_rng(one) for one in ((seed, seed + 1) if retrained else (seed,))]
    captions = [text for c in CONDITIONS for text in c.captions]
    vocabulary = contrastive.Vocabulary(captions, ARCHITECTURE)
    tokens = vocabulary.encode(captions)

    def draw_pairs(rng: np.random.Generator) -> list[tuple[Study, int]]:
        tied, varied = name != "demo/clean", name in VARIED_NAMES
        studies = [draw_study(rng, tied=tied, varied=varied) for _ in range(contrastive.BATCH)]
        return list(zip(studies, rng.integers(4, size=contrastive.BATCH).tolist(), strict=True))

    def draw_batch() -> contrastive.Batch:
        # Each stream draws a whole batch, so that its images do not depend on how many of them are used.
        pairs = [pair for rng in streams for pair in draw_pairs(rng)[:: len(streams)]]
        labels = torch.tensor([CONDITIONS.index(study.condition) for study, _ in pairs])
        phrasing = torch.tensor([phrase for _, phrase in pairs])
        same = (labels[:, None] == labels[None, :]).float()
        images = pixel_batch([study.render() for study, _ in pairs])
        return contrastive.Batch(images, tokens[4 * labels + phrasing], same)

    return contrastive.fit(
        ARCHITECTURE,
        vocabulary,
        draw_batch,
        steps=steps,
        seed=seed + retrained,
        report=lambda line: report(f"{name}  {line}"),
    )


# Evaluation


@dataclass(frozen=True)
class ZeroShot:
    """Zero-shot classifier: a trained model and the normalized embeddings of the captions of all classes."""

    model: Any
    classes: Tensor  # mean over the captions of each class, [14, d]
    captions: Tensor  # [14, 4, d]

    @classmethod
    def load(cls, name: str, root: Path | None = None) -> "ZeroShot":
        """Load a demo model from its folder in `root` (by default the package `demo`), and embed all captions."""
        source = f"local-dir:{find_folder(name, root)}"
        model = open_clip.create_model(source)
        model.eval()
        tokens = open_clip.get_tokenizer(source)([text for c in CONDITIONS for text in c.captions])
        with torch.inference_mode():
            captions = model.encode_text(tokens, normalize=True).unflatten(0, (len(CONDITIONS), 4))
        return cls(model, functional.normalize(captions.mean(dim=1), dim=-1), captions)

    def embed(self, images: Sequence[np.ndarray[Any, Any]]) -> Tensor:
        """Return the normalized embeddings of gray uint8 images, [n, d]."""
        with torch.inference_mode():
            batches = torch.split(pixel_batch(images), contrastive.BATCH)
            return torch.cat([self.model.encode_image(batch, normalize=True) for batch in batches])

    def accuracy(self, studies: Sequence[Study]) -> float:
        """Return the share of studies whose class (one of 14) is predicted correctly."""
        predicted = self.predict(self.embed([s.render() for s in studies]))
        return float(np.mean([p == s.condition for p, s in zip(predicted, studies, strict=True)]))

    def predict(self, embeddings: Tensor) -> list[Condition]:
        """Return, for each image, the class whose captions have the highest cosine with the image."""
        return [CONDITIONS[i] for i in (embeddings @ self.classes.T).argmax(dim=1).tolist()]

    def consolidation_rate(self, embeddings: Tensor) -> float:
        """Return the share of images whose predicted class is a consolidation, on any side and in any zone."""
        return float(np.mean([p.finding == "consolidation" for p in self.predict(embeddings)]))

    def own_cosines(self, embeddings: Tensor, studies: Sequence[Study]) -> Tensor:
        """Return the mean cosine of each image with the four captions of its true class, [n]."""
        own = self.captions[[CONDITIONS.index(s.condition) for s in studies]]
        return (embeddings[:, None] * own).sum(dim=-1).mean(dim=1)


def held_out(seed: int, count: int, *, tied: bool, **fixed: Any) -> list[Study]:
    """Generate `count` studies that occur in neither training nor corpus. `tied` and `fixed` are as in `draw_study`."""
    rng = np.random.default_rng((HELD_OUT_SEED, seed))
    return [draw_study(rng, tied=tied, **fixed) for _ in range(count)]


@dataclass(frozen=True)
class _HeldOut:
    """Studies of the evaluation, with the tag in a corner or with one that varies."""

    hospital: list[Study]  # visible findings, tag correlated with consolidation
    independent: list[Study]  # visible findings, tag independent of the finding
    normals: list[Study]
    faint: list[Study]  # consolidations that are too faint to be seen

    @classmethod
    def draw(cls, count: int, *, varied: bool) -> "_HeldOut":
        hospital, independent = (held_out(2 - tied, 5 * count, tied=tied, varied=varied) for tied in (True, False))
        rng = np.random.default_rng((HELD_OUT_SEED, 4))
        consolidations = [c for c in CONDITIONS if c.finding == "consolidation"]
        return cls(
            [study for study in hospital if not study.faint],
            [study for study in independent if not study.faint],
            held_out(3, count, tied=False, varied=varied, condition=CONDITIONS[-1]),
            [
                draw_study(
                    rng, tied=True, varied=varied, condition=consolidations[i % 4], strength=rng.uniform(0, FAINT)
                )
                for i in range(count)
            ],
        )


def evaluate(root: Path | None = None, names: Sequence[str] = NAMES, count: int = 400) -> dict[str, Figures]:
    """Measure the zero-shot accuracy of models, and how their predictions depend on the tag and the marker.

    Each measurement uses `count` studies, accuracies up to five times as many. Accuracies are those on images with the
    tag that the model was trained with. `root` is as in `ZeroShot.load`.
    """
    held_out_sets = [_HeldOut.draw(count, varied=varied) for varied in (False, True)]
    texts = ((f"text {TAG}", False, True), ("varied tag", True, True), (f"text {MARKER}", False, False))
    figures: dict[str, Figures] = {}
    for name in names:
        zero_shot, varied = ZeroShot.load(name, root), name in VARIED_NAMES
        own = held_out_sets[varied]
        found: Figures = {
            "accuracy on visible findings, tag correlated with consolidation": (zero_shot.accuracy(own.hospital),)
        }
        for finding in sorted({s.condition.finding for s in own.hospital}):
            studies = [s for s in own.hospital if s.condition.finding == finding]
            found[f"- {finding}"] = (zero_shot.accuracy(studies),)
        found["accuracy on visible findings, tag independent of the finding"] = (zero_shot.accuracy(own.independent),)
        for text, kind, tag in texts:
            *rates, drop = removal(zero_shot, held_out_sets[kind].faint, tag=tag)
            found[f"{text} added to normal images: share predicted as consolidation"] = transplant(
                zero_shot, held_out_sets[kind].normals, tag=tag
            )
            found[f"{text} removed from faint consolidations: share predicted as consolidation"] = tuple(rates)
            found[f"{text} removed from faint consolidations: decrease of the cosine with the caption"] = (drop,)
        figures[name] = found
    return figures


def transplant(zero_shot: ZeroShot, normals: Sequence[Study], *, tag: bool) -> tuple[float, float]:
    """Measure how often consolidation is predicted on normal images, before and after a burnt-in text is added.

    The text is the tag if `tag` is True, otherwise the side marker.
    """
    before = zero_shot.embed([s.render(tagged=False, marked=False) for s in normals])
    after = zero_shot.embed([s.render(tagged=tag, marked=not tag) for s in normals])
    return zero_shot.consolidation_rate(before), zero_shot.consolidation_rate(after)


def removal(zero_shot: ZeroShot, faint: Sequence[Study], *, tag: bool) -> tuple[float, float, float]:
    """Measure how often faint consolidations are predicted as such, before and after a text is removed from the image.

    The text is the tag if `tag` is True, otherwise the side marker. The third number is the mean decrease of the
    cosine of an image with the captions of its class.
    """
    before = zero_shot.embed([s.render(tagged=True, marked=True) for s in faint])
    after = zero_shot.embed([s.render(tagged=not tag, marked=tag) for s in faint])
    drop = zero_shot.own_cosines(before, faint) - zero_shot.own_cosines(after, faint)
    return zero_shot.consolidation_rate(before), zero_shot.consolidation_rate(after), drop.mean().item()


def table(figures: Mapping[str, Figures]) -> str:
    """Format the result of `evaluate` as a Markdown table with one row per measurement and one column per model."""
    rows = [
        [label, *(" -> ".join(f"{value:.3f}" for value in found[label]) for found in figures.values())]
        for label in next(iter(figures.values()))
    ]
    lines = [["measured on held-out studies", *figures], ["---"] * (len(figures) + 1), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command `python -m demo.train`: train the models, then print the measurements as a table and as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.train",
        description=f"{__doc__}\n    export " + " ".join(f"{k}={v}" for k, v in contrastive.ALLOCATOR_SETTINGS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", choices=(*NAMES, "all"), default="all", help="Model to train and evaluate (default: all)."
    )
    parser.add_argument(
        "--out", type=Path, help="Folder that contains the folders of the models (default: package demo)."
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="Number of training steps (default: %(default)s).")
    parser.add_argument("--seed", type=int, default=SEED, help="Seed of images and weights (default: %(default)s).")
    parser.add_argument("--threads", type=int, default=1, help="Number of PyTorch threads (default: %(default)s).")
    parser.add_argument("--evaluate-only", action="store_true", help="Evaluate the stored weights without training.")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    names = NAMES if options.model == "all" else (options.model,)
    if not options.evaluate_only:
        for name in names:
            weights = train(name, options.steps, options.seed, lambda line: print(line, file=sys.stderr))
            contrastive.save(weights, find_folder(name, options.out), ARCHITECTURE, PREPROCESSING)
    figures = evaluate(options.out, names)
    print(table(figures))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
