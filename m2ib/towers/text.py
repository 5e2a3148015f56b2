"""open_clip's own text transformer, as a part of CLIP or as the TextTransformer of CustomTextCLIP and CoCa."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from m2ib.errors import UnsupportedModelError
from m2ib.towers.attention import BlockwiseTower, run_blocks
from m2ib.towers.base import CONTENT, FIRST_SPECIAL, LAST_SPECIAL, PADDING, HiddenTokens, repeat

APPENDED = -1  # `HiddenTokens.ids` of a token that the tower appends


@dataclass(frozen=True)
class Vocabulary:
    """What a tokenizer says of its ids. pad: of padding. markers: of SOS, EOS, CLS, SEP; None if it does not say."""

    pad: int | None = None
    markers: frozenset[int] | None = None

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> "Vocabulary":
        """The ids that open_clip's own tokenizer, or the Hugging Face tokenizer inside its wrapper, declares."""
        inner = getattr(tokenizer, "tokenizer", tokenizer)
        names = ("sot_token_id", "eot_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
        found = {getattr(inner, name, None) for name in names}
        markers = frozenset(value for value in found if isinstance(value, int))
        pad = getattr(inner, "pad_token_id", None)
        return cls(pad if isinstance(pad, int) else None, markers or None)

    def is_marker(self, ids: Int[Tensor, "*shape"], unknown: bool) -> Bool[Tensor, "*shape"]:
        """Which ids are markers; `unknown` for all if the tokenizer does not say."""
        if self.markers is None:
            return torch.full_like(ids, unknown, dtype=torch.bool)
        return torch.isin(ids, torch.tensor(sorted(self.markers), device=ids.device))


def build_text_tower(text: TextTransformer | CLIP, vocabulary: Vocabulary) -> "CausalTextTower | PaddedTextTower":
    """The tower for a text transformer: cut at the end of the text where that is exact, else at full length."""
    pool_type = _pool_type(text)
    if pool_type not in PaddedTextTower.POOLING and getattr(text, "cls_emb", None) is None:
        raise UnsupportedModelError(
            f"text tower: pooling {pool_type!r} gives no single embedding; "
            f"expected one of {', '.join(PaddedTextTower.POOLING)}"
        )
    causal = text.attn_mask is not None and getattr(text, "cls_emb", None) is None
    if causal and pool_type in ("argmax", "eos"):
        return CausalTextTower(text, vocabulary)
    return PaddedTextTower(text, vocabulary)


def _pool_type(text: TextTransformer | CLIP) -> str:
    return str(text.text_pool_type if isinstance(text, CLIP) else text.pool_type)


def _end_of_text(text: TextTransformer | CLIP, inputs: Int[Tensor, "inputs context"]) -> Int[Tensor, " inputs"]:
    """Index of the end-of-text token, as the model finds it."""
    if _pool_type(text) == "eos":
        inputs = (inputs == (text.text_eos_id if isinstance(text, CLIP) else text.eos_id)).int()
    return inputs.argmax(dim=-1)


class CausalTextTower(BlockwiseTower):
    """A causal text transformer that pools its end-of-text token.

    Texts are cut at that token: exact under the causal mask, as nothing later is ever looked at.
    """

    pooling = "end of text"

    def __init__(self, text: TextTransformer | CLIP, vocabulary: Vocabulary | None = None) -> None:
        self._text = text
        self._vocabulary = vocabulary or Vocabulary()
        self._blocks = text.transformer.resblocks
        self.num_blocks = len(self._blocks)

    def _mask(self, tokens: int) -> Float[Tensor, "tokens tokens"]:
        mask: Tensor = self._text.attn_mask[:tokens, :tokens]
        return mask

    @torch.no_grad()
    def run_prefix(self, inputs: Int[Tensor, "inputs context"], layer: int) -> HiddenTokens:
        """Return the hidden states at the cut, up to the longest text's end."""
        end = _end_of_text(self._text, inputs)
        tokens = int(end.max()) + 1
        ids = inputs[:, :tokens]
        positions = torch.arange(tokens, device=inputs.device).expand(len(inputs), tokens)
        kinds = torch.full(positions.shape, CONTENT, device=inputs.device)
        kinds[:, 0][self._vocabulary.is_marker(ids[:, 0], unknown=True)] = FIRST_SPECIAL
        kinds[positions == end[:, None]] = LAST_SPECIAL
        dtype = self._text.transformer.get_cast_dtype()
        x = self._text.token_embedding(ids).to(dtype)
        x = x + self._text.positional_embedding[:tokens].to(dtype)
        for block in self._blocks[: layer + 1]:
            x = block(x, attn_mask=self._mask(tokens))
        valid = positions <= end[:, None]
        return HiddenTokens(hidden=x, valid=valid, kinds=kinds, grid=None, ids=ids, context={"end": end})

    def run_suffix(
        self, codes: Float[Tensor, "draws inputs tokens width"], tokens: HiddenTokens, layer: int
    ) -> Float[Tensor, "draws inputs embed"]:
        """Return the embeddings of codes at the cut."""
        x = codes.flatten(0, 1).to(tokens.hidden.dtype)
        end = repeat(tokens.context["end"], len(codes))
        x = run_blocks(self._blocks[layer + 1 :], x, self._mask(x.shape[1]), end, self.run_block)[:, 0]
        x = project(self._text.ln_final(x), self._text.text_projection)
        return x.unflatten(0, codes.shape[:2])


class PaddedTextTower(BlockwiseTower):
    """A text transformer whose padding cannot be cut off.

    Bidirectional ones read their padding (MobileCLIP), SigLIP and CLIPA pool the last position, which mostly is
    padding, and CoCa appends a CLS token after it, which reads one position past the text. At the embeddings padding
    says nothing about the text and passes unchanged. Behind the first block words have flown into it, so that what
    is read of it is gated like a special token.
    """

    POOLING: ClassVar = {"argmax": "end of text", "eos": "end of text", "last": "last token", "first": "first token"}

    def __init__(self, text: TextTransformer | CLIP, vocabulary: Vocabulary | None = None) -> None:
        self._text = text
        self._vocabulary = vocabulary or Vocabulary()
        self._appends = getattr(text, "cls_emb", None) is not None
        self._pool_type = _pool_type(text)
        self._blocks = text.transformer.resblocks
        self.num_blocks = len(self._blocks)
        self.pooling = "appended CLS token" if self._appends else self.POOLING[self._pool_type]

    def _embed(self, ids: Int[Tensor, "inputs context"]) -> tuple[Tensor, Tensor | None]:
        """Token embeddings and additive mask, the model's own."""
        text = self._text
        if isinstance(text, TextTransformer):
            x, mask = text._embeds(ids)
            return x, mask
        dtype = text.transformer.get_cast_dtype()
        return text.token_embedding(ids).to(dtype) + text.positional_embedding.to(dtype), text.attn_mask

    def _pooled(self, ids: Int[Tensor, "inputs context"]) -> Int[Tensor, " inputs"]:
        if self._appends or self._pool_type == "last":
            return torch.full_like(ids[:, 0], ids.shape[1] - (not self._appends))
        return torch.zeros_like(ids[:, 0]) if self._pool_type == "first" else _end_of_text(self._text, ids)

    def _kinds(
        self, ids: Int[Tensor, "inputs context"], pooled: Int[Tensor, " inputs"]
    ) -> tuple[Int[Tensor, "inputs tokens"], Bool[Tensor, "inputs tokens"]]:
        """Kinds, and which tokens are valid: the text up to its end, and the pooled token if that is padding."""
        pad = self._vocabulary.pad
        pad = int(getattr(self._text, "pad_id", 0)) if pad is None else pad
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        if self._pool_type in ("argmax", "eos") and not self._appends:
            end = pooled
        else:
            words = ids != pad
            if self._pool_type == "last" and not self._appends:
                words = words & (positions < pooled[:, None])
            end = (words * (positions + 1)).amax(dim=1) - 1
            if self._vocabulary.markers is not None and pad in self._vocabulary.markers:
                end = (end + 1).clamp_max(ids.shape[1] - 1)  # SigLIP pads with EOS: the first one ends the text
        kinds = torch.full(ids.shape, CONTENT, device=ids.device)
        ends = positions == end[:, None]
        kinds[ends & self._vocabulary.is_marker(ids, unknown=False)] = LAST_SPECIAL
        kinds[:, 0][self._vocabulary.is_marker(ids[:, 0], unknown=False)] = FIRST_SPECIAL
        valid = positions <= end[:, None]
        if self._appends:
            kinds = torch.cat([kinds, torch.full_like(kinds[:, :1], LAST_SPECIAL)], dim=1)
            valid = torch.cat([valid, torch.ones_like(valid[:, :1])], dim=1)
        at_pooled = torch.arange(kinds.shape[1], device=ids.device) == pooled[:, None]
        kinds[at_pooled] = FIRST_SPECIAL if self._pool_type == "first" and not self._appends else LAST_SPECIAL
        return kinds, valid | at_pooled

    @staticmethod
    def _read(
        valid: Bool[Tensor, "inputs tokens"], pooled: Int[Tensor, " inputs"], own: Tensor | None, shared: Tensor | None
    ) -> Bool[Tensor, "inputs tokens"]:
        """The positions that the pooled token looks at, by a mask of the text's own or of all texts."""
        if own is not None:
            return ~torch.isneginf(own[torch.arange(len(valid), device=valid.device), 0, pooled])
        return torch.ones_like(valid) if shared is None else ~torch.isneginf(shared[pooled])

    @torch.no_grad()
    def run_prefix(self, inputs: Int[Tensor, "inputs context"], layer: int) -> HiddenTokens:
        """Return the hidden states at the cut, at the tower's full length."""
        pooled = self._pooled(inputs)
        kinds, valid = self._kinds(inputs, pooled)
        context: dict[str, Tensor] = {"pooled": pooled}
        shared: dict[str, Tensor] = {}
        x, mask = self._embed(inputs)
        if mask is not None and mask.ndim == 3:  # (inputs * heads, tokens, tokens)
            context["mask"] = mask.unflatten(0, (len(inputs), -1))
        elif mask is not None:
            shared["mask"] = mask
        for block in self._blocks[: layer + 1]:
            x = block(x, attn_mask=mask)
        if layer >= 0:
            read = self._read(valid, pooled, context.get("mask"), shared.get("mask"))
            kinds, valid = torch.where(read & ~valid, PADDING, kinds), valid | read
        ids = inputs
        if self._appends:
            ids = torch.cat([inputs, torch.full_like(inputs[:, :1], APPENDED)], dim=1)
        return HiddenTokens(hidden=x, valid=valid, kinds=kinds, grid=None, ids=ids, context=context, shared=shared)

    def run_suffix(
        self, codes: Float[Tensor, "draws inputs tokens width"], tokens: HiddenTokens, layer: int
    ) -> Float[Tensor, "draws inputs embed"]:
        """Return the embeddings of codes at the cut."""
        x = codes.flatten(0, 1).to(tokens.hidden.dtype)
        pooled = repeat(tokens.context["pooled"], len(codes))
        rest = self._blocks[layer + 1 :]
        if "mask" in tokens.context:
            mask = repeat(tokens.context["mask"], len(codes)).flatten(0, 1)
            for block in rest:
                x = block(x, attn_mask=mask)
            x = x[torch.arange(len(x), device=x.device), pooled]
        else:
            x = run_blocks(rest, x, tokens.shared.get("mask"), pooled, self.run_block)[:, 0]
        return project(self._text.ln_final(x), self._text.text_projection).unflatten(0, codes.shape[:2])


def project(pooled: Float[Tensor, "codes width"], projection: nn.Module | Tensor | None) -> Tensor:
    """A text tower's projection, in each of the forms that open_clip gives it."""
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Module) else pooled @ projection
