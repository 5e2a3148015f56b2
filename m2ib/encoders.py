"""Load a CLIP-like model with its own preprocessing and tokenizer, and prepare its two towers for attribution."""

import bisect
import contextlib
import hashlib
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.utils import to_2tuple
from PIL import Image
from torch import Tensor, nn

from m2ib.arguments import IMAGES, TEXTS, check_argument
from m2ib.devices import check_device, copy_to
from m2ib.errors import ModelLoadError, UnsupportedModelError
from m2ib.kernels import Kernels
from m2ib.names import MODELS, check_names
from m2ib.towers import find_image_tower, find_text_tower
from m2ib.towers.base import Tower, at_least_float32, in_weights_precision
from m2ib.towers.check import check_embeddings

Images = Sequence[Image.Image] | UInt8[np.ndarray, "images height width 3"] | Float[Tensor, "images 3 height width"]
"""PIL images, or images that `DualEncoder.resize` returned, or preprocessed images."""

_PLAIN = (int, float, str, tuple, type(None))
_NOT_DIGESTED = ("training", "name_or_path")  # training mode, and path of a Hugging Face tower
_PROBES = ["", "A chest X-ray, 3/4 view: nodule (5 mm)!", "Größe, 大小, حجم", "a " * 200]


class DualEncoder:
    """A CLIP-like model with its preprocessing and tokenizer, ready for attribution.

    Args:
        model: open_clip's CLIP, CustomTextCLIP or CoCa. Of CoCa only the two contrastive towers are used.
        tokenizer: Function that maps a list of texts to token ids (texts, context).
        name: Name of the model in results.

    Raises:
        UnsupportedModelError: If the model cannot be attributed correctly. To check this, one random image and two
            texts are embedded by the model itself and by each tower split into two halves.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, name: str = "") -> None:
        if not isinstance(model, CLIP | CustomTextCLIP | CoCa):
            raise UnsupportedModelError(
                f"model: got {type(model).__name__}, expected open_clip's CLIP, CustomTextCLIP or CoCa"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.preprocess_cfg = PreprocessCfg(**model.visual.preprocess_cfg)
        *self._resize, _, normalize = image_transform_v2(self.preprocess_cfg, is_train=False).transforms
        self._mean, self._std = (torch.tensor(values)[:, None, None] for values in (normalize.mean, normalize.std))
        self.image: Tower = find_image_tower(model)
        self.text: Tower = find_text_tower(model, tokenizer)
        self.kernels = Kernels(self.image.run_suffix, self.text.run_suffix)
        self.max_batch_size = sys.maxsize  # `attribute` lowers it when the device runs out of memory
        self._words: dict[int, str] = {-1: "<cls>"}  # readable strings of token ids that have occurred
        self._lock = threading.RLock()
        self._check_towers()

    def __repr__(self) -> str:
        height, width = self.image_size
        return (
            f"DualEncoder({self.name!r}, image {height} x {width} pixels, {self.image.num_blocks} blocks, "
            f"text {self.text.num_blocks} blocks, on {self.device})"
        )

    def compile(self, **options: Any) -> None:
        """Compile the noise generator, the gates and the blocks after them with `torch.compile(**options)`.

        Compiled code is faster on a GPU over many batches, where launching kernels limits the speed. The first batches
        take minutes, because their shapes are compiled (PyTorch caches the code for the next process). Maps of compiled
        and uncompiled code agree up to rounding.

        Raises:
            ModelLoadError: If no C++ compiler is installed.
        """
        self.kernels = Kernels.compile_for(self.image, self.text, **options)

    def _check_towers(self) -> None:
        shape = (1, 3, *to_2tuple(self.model.visual.image_size))

        def pixels() -> Tensor:
            return self.prepare_images(torch.randn(shape, generator=torch.Generator().manual_seed(0)))

        def ids() -> Tensor:
            return self.tokenize(["a photo of two dogs", "x"])

        with self.frozen():
            image = check_embeddings("image", self.image, pixels, self._encode_image)
            text = check_embeddings("text", self.text, ids, self.model.encode_text)
        if image != text:
            raise UnsupportedModelError(
                f"model: got image embeddings with {image} features and text embeddings with {text}, expected as many"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the preprocessed image, in pixels."""
        height, width = to_2tuple(self.preprocess_cfg.size)
        return height, width

    @property
    def device(self) -> torch.device:
        """Device of the model weights."""
        return next(self.model.parameters()).device

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the model: hexadecimal digest of weights, modules, preprocessing and tokenizer.

        The digest does not depend on the checkpoint file. For each module it includes the class and all attributes that
        are numbers, strings, tuples or None, because equal weights with a different activation, number of heads or
        pooling are a different model. The tokenizer is represented by the token ids of a few fixed texts.
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
        """Set the model to evaluation mode and turn off gradients of its parameters, within a `with` block.

        The previous modes and gradient flags are restored on exit, also after an exception. Within the block, inference
        mode and autocast are off, because gates cannot be fitted in them. Only one thread at a time enters the block.
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

    def resize(self, image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
        """Resize an image to the model's input size, by the model's transform without its normalization.

        Calls no PyTorch operation, so that many threads can read images while one thread computes.
        """
        height, width = self.image_size
        for step in self._resize:
            image = step(image)
            if image.size == (width, height) and image.mode == "RGB":
                break  # cropping and converting would only copy the pixels
        return np.asarray(image)

    def prepare_images(self, images: Images) -> Float[Tensor, "images 3 height width"]:
        """Resize and normalize images as the model's transform does, and move them to the model's device.

        The result is bit-equal to that of open_clip's transform. A tensor of preprocessed images is only moved.
        """
        if not isinstance(images, Tensor):
            if not isinstance(images, np.ndarray):
                check_argument("images", images, Image.Image, IMAGES, is_list=True)
                images = np.stack([self.resize(image) for image in images])
            return self._normalize(copy_to(self.device, torch.from_numpy(images)))
        return copy_to(self.device, images)

    def _normalize(self, pixels: UInt8[Tensor, "images height width 3"]) -> Float[Tensor, "images 3 height width"]:
        values = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        # On a GPU, division by a Python number would multiply by its reciprocal, which differs in the last bit.
        full = torch.full((), 255.0, device=values.device)
        mean, std = (moment.to(values.device, non_blocking=True) for moment in (self._mean, self._std))
        return values.div_(full).sub_(mean).div_(std)

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "texts context"]:
        """Convert texts to token ids with the model's own tokenizer, which truncates long texts."""
        check_argument("texts", texts, str, TEXTS, is_list=True)
        ids: Tensor = self.tokenizer(list(texts))
        return copy_to(self.device, ids)

    def count_truncated_characters(self, texts: Sequence[str], ids: Int[Tensor, "texts context"]) -> list[int]:
        """Count the characters that the tokenizer truncates at the end of each text, given the token ids of the texts.

        A text is truncated if appending a word does not change its token ids. A binary search then finds the shortest
        beginning of the text with the same token ids. A text whose last two token ids are padding has room for a word.
        """
        padding = self.tokenizer([""])[0, -1]
        cut = [0] * len(texts)
        for i in (ids[:, -2:] != padding).any(dim=1).nonzero().flatten().tolist():
            if torch.equal(ids[i], self.tokenizer([f"{texts[i]} x"])[0]):
                cut[i] = self._count_truncated(texts[i], ids[i])
        return cut

    def _count_truncated(self, text: str, ids: Int[Tensor, " context"]) -> int:
        return len(text) - bisect.bisect_left(
            range(len(text)), True, key=lambda end: torch.equal(self.tokenizer([text[:end]])[0], ids)
        )

    def decode_tokens(self, ids: Sequence[int]) -> list[str]:
        """Return a readable string for each token id. The id -1 stands for a CLS token that the text tower appends."""
        for token in {*ids} - self._words.keys():
            self._words[token] = self._decode([token]).strip()
        return [self._words[token] for token in ids]

    def _decode(self, ids: Sequence[int]) -> str:
        decode = getattr(self.tokenizer, "decode", None) or self.tokenizer.tokenizer.decode
        return str(decode(ids))

    def field_of_view(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return the part of an image that remains after the preprocessing.

        The part follows from open_clip's resize mode: `shortest` crops the center, `longest` pads, and `squash` keeps
        the whole image. It is a box (x0, y0, x1, y1) in shares of the width and height of the original image, which are
        given in pixels. Values below 0 or above 1 are padding.
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
        """Return the normalized embeddings of preprocessed images, computed by the model without a bottleneck."""
        check_argument("pixels", pixels, Tensor, "the tensor that encoder.prepare_images(images) returns")
        return F.normalize(at_least_float32(self._encode_image(pixels)), dim=-1)

    def _encode_image(self, pixels: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images embed"]:
        return self.model.encode_image(in_weights_precision(pixels, self.model.visual))

    @torch.no_grad()
    def embed_texts(self, ids: Int[Tensor, "texts context"]) -> Float[Tensor, "texts embed"]:
        """Return the normalized embeddings of token ids, computed by the model without a bottleneck."""
        check_argument("ids", ids, Tensor, "the tensor that encoder.tokenize(texts) returns")
        return F.normalize(at_least_float32(self.model.encode_text(ids)), dim=-1)


def load_encoder(architecture: str, pretrained: str | None = None, device: str | torch.device = "cpu") -> DualEncoder:
    """Load a model by its open_clip name.

    Args:
        architecture: Name from `open_clip.list_models()`, or `hf-hub:org/name` for a model on the Hugging Face Hub, or
            `local-dir:/folder` for a folder with open_clip's configuration and weights, or a name that an installed
            package declares in the entry point group `m2ib.models`, such as `demo/clean`.
        pretrained: open_clip's tag for weights of the architecture, or the path of a checkpoint file (safetensors, or a
            state dict that `torch.load(weights_only=True)` accepts). Must be None unless the name is from
            `open_clip.list_models()`.
        device: Device to load the weights to.

    Raises:
        ModelLoadError: If the name or device is unknown, or the configuration or weights cannot be loaded.
        UnsupportedModelError: If the model cannot be attributed correctly.
    """
    check_device(device)
    known, packaged = open_clip.list_models(), entry_points(group=MODELS, name=architecture)
    has_tags = architecture in known and not packaged
    if pretrained or not has_tags:
        check_names(architecture, pretrained, known)
    is_file = pretrained is not None and Path(pretrained).is_file()
    if has_tags and not is_file and not (pretrained and open_clip.get_pretrained_cfg(architecture, pretrained)):
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise ModelLoadError(
            f"pretrained: got {pretrained!r} for the model {architecture!r}, expected the path of a checkpoint file or "
            f"a tag: {', '.join(tags) or 'the model has none'}"
        )
    try:
        with _quiet_open_clip():
            source = f"local-dir:{packaged[architecture].load()}" if packaged else architecture
            model, _, _ = open_clip.create_model_and_transforms(
                source, pretrained=pretrained, device=device, weights_only=True, require_pretrained=True
            )
            tokenizer = open_clip.get_tokenizer(source)
    except Exception as error:  # open_clip and torch raise a dozen kinds for a wrong name, file or network
        what = f"The model {architecture!r} with weights {pretrained!r}"
        if misfit := _describe_misfit(str(error)):
            raise ModelLoadError(
                f"{what} could not be loaded: the weights do not fit the architecture. Tensors {misfit}"
            ) from error
        reason = f"{type(error).__name__}: {error}"
        if is_file:
            reason = reason.partition(". ")[0].partition("\n")[0]  # PyTorch goes on to advise to run the file's code
            raise ModelLoadError(
                f"pretrained: got the file {pretrained!r}, which cannot be loaded as weights ({reason}), expected "
                "safetensors, or a state dict that torch.load(weights_only=True) accepts; check that the file is "
                "complete, or write it again with torch.save(model.state_dict(), path)"
            ) from error
        raise ModelLoadError(f"{what} could not be loaded: {reason}") from error
    name = architecture if not pretrained else f"{architecture}/{pretrained}"
    return DualEncoder(model.eval(), tokenizer, name=name)


def _describe_misfit(message: str) -> str:
    """Summarize PyTorch's message about weights that do not fit a model, which names all of them. Empty for others."""

    def keys(kind: str) -> list[str]:
        line = re.search(rf"{kind} key\(s\) in state_dict: (.*)", message)
        return re.findall(r'"([^"]+)"', line[1]) if line else []

    missing, unexpected = keys("Missing"), keys("Unexpected")
    sizes = re.findall(r"size mismatch for (\S+): .*?torch\.Size\((.*?)\).*?torch\.Size\((.*?)\)", message)
    reshaped = [f"{name}: got {got}, expected {expected}" for name, got, expected in sizes]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    counted = "; ".join(
        f"{fault}: {len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for fault, names in faults.items()
        if names
    )
    if not counted:
        return ""
    prefixes = [key.removesuffix(name) for key in unexpected[:1] for name in missing if key.endswith(f".{name}")]
    if prefixes:
        return f"{counted}. Remove the prefix {min(prefixes, key=len)!r} from the keys of the checkpoint."
    return f"{counted}. Name the architecture that the checkpoint was trained with."


@contextlib.contextmanager
def _quiet_open_clip() -> Iterator[None]:
    """Suppress the messages below WARNING that open_clip logs on the root logger while it loads a model."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        root.setLevel(level)
