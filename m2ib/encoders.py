"""A dual encoder as deployed: weights, preprocessing, tokenizer, and its two towers."""

import bisect
import contextlib
import difflib
import hashlib
import json
import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn

from m2ib.errors import ModelLoadError, UnsupportedModelError
from m2ib.kernels import Kernels
from m2ib.towers import find_image_tower, find_text_tower
from m2ib.towers.base import Tower, at_least_float32, in_weights_precision
from m2ib.towers.check import check_embeddings

Images = Sequence[Image.Image] | Float[Tensor, "images 3 height width"]

_PLAIN = (int, float, str, tuple, type(None))
_NOT_DIGESTED = ("training", "name_or_path")  # a mode, and the path of a Hugging Face tower
_PROBES = ["", "A chest X-ray, 3/4 view: nodule (5 mm)!", "Größe, 大小, حجم", "a " * 200]
_CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


class DualEncoder:
    """A CLIP-like model with its preprocessing and tokenizer, ready for attribution.

    Args:
        model: open_clip's CLIP, CustomTextCLIP or CoCa (its two contrastive towers).
        tokenizer: Callable from a list of texts to (texts, context) token ids.
        preprocess: Callable from a PIL image to (3, height, width); default the model's own evaluation transform.
        name: Name of the model in results.

    Raises:
        UnsupportedModelError: If the engine cannot attribute the model faithfully, with the reason. The check embeds
            one random image and two texts, by the model itself and by its towers cut in the middle.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, preprocess: Any = None, name: str = "") -> None:
        if not isinstance(model, CLIP | CustomTextCLIP | CoCa):
            raise UnsupportedModelError(
                f"model: got {type(model).__name__}, expected open_clip's CLIP, CustomTextCLIP or CoCa"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.preprocess_cfg = PreprocessCfg(**model.visual.preprocess_cfg)
        self.preprocess = preprocess or image_transform_v2(self.preprocess_cfg, is_train=False)
        self.image: Tower = find_image_tower(model)
        self.text: Tower = find_text_tower(model, tokenizer)
        self.kernels = Kernels(self.image.run_suffix, self.text.run_suffix)
        self.max_batch_size = sys.maxsize  # `attribute` lowers it when the device runs out of memory
        self._lock = threading.RLock()
        self._check_towers()

    def compile(self, **options: Any) -> None:
        """Compile both suffixes and the noise by `torch.compile(**options)`.

        Faster where launching kernels limits the speed: on a GPU, over many batches. The first batches take minutes,
        while code for their shapes is compiled (PyTorch caches it for the next process). Maps agree with the plain
        ones up to rounding.

        Raises:
            ModelLoadError: If there is no C++ compiler.
        """
        self.kernels = Kernels.compile_for(self.image, self.text, **options)

    def _check_towers(self) -> None:
        size = self.model.visual.image_size
        shape = (1, 3, size, size) if isinstance(size, int) else (1, 3, *size)

        def pixels() -> Tensor:
            return self.prepare_images(torch.randn(shape, generator=torch.Generator().manual_seed(0)))

        def ids() -> Tensor:
            return self.tokenize(["a photo of two dogs", "x"])

        with self.frozen():
            image = check_embeddings("image", self.image, pixels, self._encode_image)
            text = check_embeddings("text", self.text, ids, self.model.encode_text)
        if image != text:
            raise UnsupportedModelError(
                f"model: its image embeddings have {image} features and its text embeddings {text}; expected the same"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the preprocessed image, in pixels."""
        size = self.preprocess_cfg.size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.parameters()).device

    @cached_property
    def digest(self) -> str:
        """sha256 over weights, structure, preprocessing and tokenizer, independent of the file.

        Structure is each module's class and plain settings, because equal weights with another activation, number of
        heads or pooling are another model. The tokenizer contributes its output for a few texts.
        """
        sha = hashlib.sha256()
        for path, module in self.model.named_modules():
            plain = {
                key: value
                for key, value in vars(module).items()
                if isinstance(value, _PLAIN) and key not in _NOT_DIGESTED
            }
            sha.update(f"{path}\x1f{type(module).__qualname__}\x1f{sorted(plain.items())}\x1e".encode())
        sha.update(self.tokenizer(_PROBES).numpy().data)
        for key, tensor in sorted(self.model.state_dict().items()):
            sha.update(f"{key}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1e".encode())
            sha.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
        sha.update(json.dumps(vars(self.preprocess_cfg), sort_keys=True, default=str).encode())
        return sha.hexdigest()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Set evaluation mode without parameter gradients, and restore everything, also after an exception.

        Leaves the caller's inference mode and autocast, in which gates cannot be fitted. One thread at a time.
        """
        with self._lock, torch.inference_mode(False), torch.autocast(self.device.type, enabled=False):
            training = {module: module.training for module in self.model.modules()}
            trainable = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
            try:
                self.model.eval().requires_grad_(False)
                yield
            finally:
                for module, was_training in training.items():
                    module.training = was_training
                for parameter, was_trainable in trainable.items():
                    parameter.requires_grad_(was_trainable)

    def prepare_images(self, images: Images) -> Float[Tensor, "images 3 height width"]:
        """Preprocess PIL images as deployed, and move them to the device. A tensor counts as preprocessed."""
        if not isinstance(images, Tensor):
            images = self.stack_images([self.preprocess(image) for image in images])
        return images.to(self.device, non_blocking=self.device.type == "cuda")

    def stack_images(self, images: Sequence[Float[Tensor, "3 height width"]]) -> Float[Tensor, "images 3 height width"]:
        """Stack results of `preprocess` into a batch, which may be empty; in pinned memory for a GPU."""
        batch = torch.stack(list(images)) if images else torch.empty(0, 3, *self.image_size)
        return batch.pin_memory() if self.device.type == "cuda" else batch

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "texts context"]:
        """Tokenize as deployed. The tokenizer truncates long texts."""
        ids: Tensor = self.tokenizer(list(texts))
        return ids.to(self.device)

    def count_truncated_characters(self, texts: Sequence[str]) -> list[int]:
        """Count the characters at the end of each text that the tokenizer truncates.

        Without them the text has the same tokens. A text is truncated if one more word changes no token; a binary
        search then finds where it ends.
        """
        ids, longer = self.tokenizer(list(texts)), self.tokenizer([f"{text} x" for text in texts])
        return [
            self._count_truncated(text, own) if torch.equal(own, more) else 0
            for text, own, more in zip(texts, ids, longer, strict=True)
        ]

    def _count_truncated(self, text: str, ids: Int[Tensor, " context"]) -> int:
        return len(text) - bisect.bisect_left(
            range(len(text)), True, key=lambda end: torch.equal(self.tokenizer([text[:end]])[0], ids)
        )

    def decode_tokens(self, ids: Sequence[int]) -> list[str]:
        """Return a readable string for each token id; -1 is a CLS token that the tower appends."""
        decode = getattr(self.tokenizer, "decode", None) or self.tokenizer.tokenizer.decode
        return [decode([token]).strip() if token >= 0 else "<cls>" for token in ids]

    def field_of_view(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return the box (x0, y0, x1, y1) that the model sees of an image of these pixels, in shares of the image.

        Below 0 or above 1 where the preprocessing pads. Follows open_clip's resize modes: `shortest` crops the center,
        `longest` pads, `squash` keeps everything.
        """
        target_h, target_w = self.image_size
        if self.preprocess_cfg.resize_mode == "squash":
            return (0.0, 0.0, 1.0, 1.0)
        pick = max if self.preprocess_cfg.resize_mode == "longest" else min
        ratio = pick(height / target_h, width / target_w)
        view_w, view_h = target_w * ratio / width, target_h * ratio / height
        return ((1 - view_w) / 2, (1 - view_h) / 2, (1 + view_w) / 2, (1 + view_h) / 2)

    @torch.no_grad()
    def embed_images(self, pixels: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images embed"]:
        """Return normalized clean embeddings, by the model's own forward."""
        return F.normalize(at_least_float32(self._encode_image(pixels)), dim=-1)

    def _encode_image(self, pixels: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images embed"]:
        return self.model.encode_image(in_weights_precision(pixels, self.model.visual))

    @torch.no_grad()
    def embed_texts(self, ids: Int[Tensor, "texts context"]) -> Float[Tensor, "texts embed"]:
        """Return normalized clean embeddings, by the model's own forward."""
        return F.normalize(at_least_float32(self.model.encode_text(ids)), dim=-1)


def load_encoder(architecture: str, pretrained: str | None = None, device: str | torch.device = "cpu") -> DualEncoder:
    """Load a model by its open_clip name.

    Args:
        architecture: A name of `open_clip.list_models()`, `hf-hub:org/name`, or `local-dir:/folder` with open_clip's
            configuration and weights.
        pretrained: A tag of the architecture or a local checkpoint file (safetensors, or a state dict that
            `torch.load(weights_only=True)` accepts). Must be None for the two forms with a prefix.
        device: Device of the weights.

    Raises:
        ModelLoadError: If name, weights or file cannot be loaded.
        UnsupportedModelError: If the engine cannot attribute the model.
    """
    prefixed = architecture.startswith((open_clip.factory.HF_HUB_PREFIX, open_clip.factory.LOCAL_DIR_PREFIX))
    if not prefixed and architecture not in open_clip.list_models():
        near = difflib.get_close_matches(architecture, open_clip.list_models(), n=3, cutoff=0.0)
        raise ModelLoadError(
            f"model: got {architecture!r}, expected a name of open_clip.list_models() (nearest: {', '.join(near)}), "
            "hf-hub:org/name or local-dir:/folder"
        )
    if not prefixed and not pretrained:
        raise ModelLoadError(
            f"model {architecture!r}: no weights given; set `pretrained` to a tag of "
            f"open_clip.list_pretrained_tags_by_model({architecture!r}) or a local checkpoint file"
        )
    if prefixed and pretrained:
        raise ModelLoadError(f"model {architecture!r} has its own weights: leave `pretrained` out, got {pretrained!r}")
    looks_like_a_file = "/" in (pretrained or "") or Path(pretrained or "").suffix in _CHECKPOINT_SUFFIXES
    if not prefixed and looks_like_a_file and not Path(str(pretrained)).is_file():
        raise ModelLoadError(f"pretrained: no file at {pretrained!r}; check the path of the checkpoint")
    try:
        with _quiet_open_clip():
            model, _, preprocess = open_clip.create_model_and_transforms(
                architecture, pretrained=pretrained, device=device, weights_only=True, require_pretrained=True
            )
            tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:  # open_clip and torch raise a dozen kinds for a wrong name, file or network
        raise ModelLoadError(
            f"model {architecture!r} with weights {pretrained!r} could not be loaded: {type(error).__name__}: {error}"
        ) from error
    name = architecture if not pretrained else f"{architecture}/{pretrained}"
    return DualEncoder(model.eval(), tokenizer, preprocess, name=name)


@contextlib.contextmanager
def _quiet_open_clip() -> Iterator[None]:
    """Suppress open_clip's log of each loading step on the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        root.setLevel(level)
