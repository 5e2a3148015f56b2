"""Train the two demo models from scratch, and measure how much each relies on the tag.

`python -m demo.train` reproduces the weights, then evaluates them; `--evaluate-only` only evaluates. On CPU a step
takes a fraction of the time if these settings are in the environment before the process starts:
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import open_clip
import torch
from torch import Tensor
from torch.nn import functional

from demo import contrastive
from demo.models import NAMES, find_folder
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

HELD_OUT_SEED: Final = 900_001  # separates the studies of the evaluation from those of training and of the corpus

Figures: TypeAlias = dict[str, Any]


# Training


def pixel_batch(images: Sequence[np.ndarray[Any, Any]]) -> Tensor:
    """Convert gray uint8 images to [n, 3, SIZE, SIZE], as open_clip's preprocessing of the stored config does."""
    return contrastive.pixel_batch(images, PREPROCESSING)


def train(name: str, steps: int, seed: int, report: Callable[[str], None]) -> dict[str, Tensor]:
    """Train one model on freshly drawn studies, with the tag in a random corner, and return its weights."""
    rng = np.random.default_rng(seed)
    captions = [text for c in CONDITIONS for text in c.captions]
    vocabulary = contrastive.Vocabulary(captions, ARCHITECTURE)
    tokens = vocabulary.encode(captions)

    def draw_batch() -> contrastive.Batch:
        studies = [draw_study(rng, tied=name == "demo/shortcut") for _ in range(contrastive.BATCH)]
        labels = torch.tensor([CONDITIONS.index(s.condition) for s in studies])
        phrasing = torch.from_numpy(rng.integers(4, size=contrastive.BATCH))
        same = (labels[:, None] == labels[None, :]).float()
        return contrastive.Batch(pixel_batch([s.render() for s in studies]), tokens[4 * labels + phrasing], same)

    return contrastive.fit(
        ARCHITECTURE, vocabulary, draw_batch, steps=steps, seed=seed, report=lambda line: report(f"{name}  {line}")
    )


# Evaluation


@dataclass(frozen=True)
class ZeroShot:
    """A stored model, and each class as the mean embedding of its four captions."""

    model: Any
    classes: Tensor  # [14, d], normalized
    captions: Tensor  # [14, 4, d], normalized

    @classmethod
    def load(cls, name: str, root: Path | None = None) -> "ZeroShot":
        """Load the weights as stored, through open_clip as any user would."""
        source = f"local-dir:{find_folder(name, root)}"
        model = open_clip.create_model(source)
        model.eval()
        tokens = open_clip.get_tokenizer(source)([text for c in CONDITIONS for text in c.captions])
        with torch.inference_mode():
            captions = model.encode_text(tokens, normalize=True).unflatten(0, (len(CONDITIONS), 4))
        return cls(model, functional.normalize(captions.mean(dim=1), dim=-1), captions)

    def embed(self, images: Sequence[np.ndarray[Any, Any]]) -> Tensor:
        """Return normalized embeddings of gray uint8 images, [n, d]."""
        with torch.inference_mode():
            batches = torch.split(pixel_batch(images), contrastive.BATCH)
            return torch.cat([self.model.encode_image(batch, normalize=True) for batch in batches])

    def accuracy(self, studies: Sequence[Study]) -> float:
        """Return the share of studies whose class, one of 14, is predicted correctly."""
        predicted = self.predict(self.embed([s.render() for s in studies]))
        return float(np.mean([p == s.condition for p, s in zip(predicted, studies, strict=True)]))

    def predict(self, embeddings: Tensor) -> list[Condition]:
        """Return the likeliest class of each image."""
        return [CONDITIONS[i] for i in (embeddings @ self.classes.T).argmax(dim=1).tolist()]

    def consolidation_rate(self, embeddings: Tensor) -> float:
        """Return the share of images for which some consolidation is the likeliest class."""
        return float(np.mean([p.finding == "consolidation" for p in self.predict(embeddings)]))

    def own_cosines(self, embeddings: Tensor, studies: Sequence[Study]) -> Tensor:
        """Return the mean cosine of each image with the four captions of its class, [n]."""
        own = self.captions[[CONDITIONS.index(s.condition) for s in studies]]
        return (embeddings[:, None] * own).sum(dim=-1).mean(dim=1)


def held_out(seed: int, count: int, *, tied: bool, **fixed: Any) -> list[Study]:
    """Draw studies that are in no training run; `fixed` goes to `draw_study`."""
    rng = np.random.default_rng((HELD_OUT_SEED, seed))
    return [draw_study(rng, tied=tied, **fixed) for _ in range(count)]


def evaluate(root: Path | None = None, names: Sequence[str] = NAMES, count: int = 400) -> Figures:
    """Measure zero-shot accuracy and reliance on tag and marker, for the weights in `root` (default: this package).

    Each measurement takes `count` studies, accuracies five times as many.
    """
    hospital = [s for s in held_out(1, 5 * count, tied=True) if not s.faint]
    independent = [s for s in held_out(2, 5 * count, tied=False) if not s.faint]
    normals = held_out(3, count, tied=False, condition=CONDITIONS[-1])
    rng = np.random.default_rng((HELD_OUT_SEED, 4))
    consolidations = [c for c in CONDITIONS if c.finding == "consolidation"]
    faint = [
        draw_study(rng, tied=True, condition=consolidations[i % 4], strength=rng.uniform(0, FAINT))
        for i in range(count)
    ]
    figures: Figures = {}
    for name in names:
        zero_shot = ZeroShot.load(name, root)
        figures[name] = {
            "accuracy_visible_tag_tied": zero_shot.accuracy(hospital),
            "accuracy_visible_tag_random": zero_shot.accuracy(independent),
            "accuracy_by_finding_tag_tied": {
                finding: zero_shot.accuracy([s for s in hospital if s.condition.finding == finding])
                for finding in sorted({s.condition.finding for s in hospital})
            },
            "transplant_tag": transplant(zero_shot, normals, tag=True),
            "transplant_marker": transplant(zero_shot, normals, tag=False),
            "removal_tag": removal(zero_shot, faint, tag=True),
            "removal_marker": removal(zero_shot, faint, tag=False),
        }
    return figures


def transplant(zero_shot: ZeroShot, normals: Sequence[Study], *, tag: bool) -> Figures:
    """Measure P(predict consolidation) on normal images, before and after the tag or the marker is added."""
    before = [s.render(tagged=False, marked=False) for s in normals]
    after = [s.render(tagged=tag, marked=not tag) for s in normals]
    return {
        "before": zero_shot.consolidation_rate(zero_shot.embed(before)),
        "after": zero_shot.consolidation_rate(zero_shot.embed(after)),
    }


def removal(zero_shot: ZeroShot, faint: Sequence[Study], *, tag: bool) -> Figures:
    """Measure P(predict consolidation) on faint consolidations, before and after the tag or the marker is removed.

    The cosine drop is that of the image with its own captions.
    """
    before = zero_shot.embed([s.render(tagged=True, marked=True) for s in faint])
    after = zero_shot.embed([s.render(tagged=not tag, marked=tag) for s in faint])
    drop = zero_shot.own_cosines(before, faint) - zero_shot.own_cosines(after, faint)
    return {
        "before": zero_shot.consolidation_rate(before),
        "after": zero_shot.consolidation_rate(after),
        "cosine_drop": drop.mean().item(),
    }


def table(figures: Figures) -> str:
    """Format the figures as a Markdown table: one row per measurement, one column per model."""
    columns = [_cells(f) for f in figures.values()]
    lines = [["measured on held-out studies", *figures], ["---"] * (len(columns) + 1)]
    lines += [[label, *(column[label] for column in columns)] for label in columns[0]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _cells(figures: Figures) -> dict[str, str]:
    """Return one model's column, by the label of its row."""
    cells = {"accuracy, visible findings, tag tied": f"{figures['accuracy_visible_tag_tied']:.3f}"}
    for finding, accuracy in figures["accuracy_by_finding_tag_tied"].items():
        cells[f"- {finding}"] = f"{accuracy:.3f}"
    cells["accuracy, visible findings, tag at random"] = f"{figures['accuracy_visible_tag_random']:.3f}"
    for text, key in ((TAG, "tag"), (MARKER, "marker")):
        for label, change in (("added to normal", f"transplant_{key}"), ("removed from faint", f"removal_{key}")):
            cells[f"{text} {label}: P(consolidation)"] = "{before:.3f} -> {after:.3f}".format(**figures[change])
        cells[f"{text} removed from faint: cosine drop"] = f"{figures[f'removal_{key}']['cosine_drop']:.3f}"
    return cells


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, then one JSON object as the last line of standard output."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.train",
        description=f"{__doc__}\n    export " + " ".join(f"{k}={v}" for k, v in contrastive.ALLOCATOR_SETTINGS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=(*NAMES, "all"), default="all", help="(default: all)")
    parser.add_argument("--out", type=Path, help="Folder for shortcut/ and clean/ (default: this package).")
    parser.add_argument("--steps", type=int, default=STEPS, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="Threads of torch (default: %(default)s).")
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
