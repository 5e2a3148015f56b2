"""Text towers of open_clip's class HFTextEncoder, which wraps an encoder of Hugging Face's transformers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from torch import Tensor, nn

from m2ib.errors import UnsupportedModelError
from m2ib.towers.base import CONTENT, FIRST_SPECIAL, LAST_SPECIAL, HiddenTokens, Ids, Tower
from m2ib.towers.text import Vocabulary

POOLERS = {
    "MeanPooler": "mean over tokens",
    "ClsPooler": "CLS token",
    "ClsLastHiddenStatePooler": "CLS token",
}


@dataclass(frozen=True)
class Family:
    """How to run the encoders of one family, such as BERT."""

    blocks: Callable[[Any], nn.ModuleList]
    finish: Callable[[Any, Tensor], Tensor]  # applies the layers between the last block and the pooling
    marks_start: bool = True  # whether texts start with a special token (CLS, SOS or a language)
    position_bias: bool = False  # whether the first block computes a position bias that later blocks take


_BERT = Family(blocks=lambda encoder: encoder.encoder.layer, finish=lambda _encoder, x: x)
# Families by `model_type`: all types that open_clip's HFTextEncoder supports (open_clip.hf_configs.arch_dict).
FAMILIES = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "m2m_100": Family(blocks=lambda encoder: encoder.layers, finish=lambda encoder, x: encoder.layer_norm(x)),
    "mt5": Family(
        blocks=lambda encoder: encoder.block,
        finish=lambda encoder, x: encoder.dropout(encoder.final_layer_norm(x)),
        marks_start=False,
        position_bias=True,
    ),
}


class _AtFirstBlockError(Exception):
    """Raised to stop a forward pass at the first block, once the block's inputs have been recorded."""


class HuggingFaceTextTower(Tower):
    """Text tower with an encoder of the class BERT, RoBERTa, XLM-RoBERTa, M2M100 (NLLB) or mT5.

    Token embeddings and the attention mask are recorded as the inputs of the encoder's first block. The encoders mask
    padding, so a batch is truncated to its longest text.
    """

    def __init__(self, text: HFTextEncoder, vocabulary: Vocabulary) -> None:
        kind = text.config.model_type
        pooler = type(text.pooler).__name__
        if kind not in FAMILIES:
            raise UnsupportedModelError(f"text tower: got a {kind!r} encoder, expected one of {', '.join(FAMILIES)}")
        if pooler not in POOLERS:
            raise UnsupportedModelError(f"text tower: got the pooling {pooler}, expected one of {', '.join(POOLERS)}")
        if text.config.pad_token_id is None:
            raise UnsupportedModelError("text tower: got no pad_token_id, expected one in the encoder's configuration")
        self._text = text
        self._family = FAMILIES[kind]
        self._blocks = self._family.blocks(text.transformer)
        self._vocabulary = vocabulary
        self.num_blocks = len(self._blocks)
        self.pooling = POOLERS[pooler]

    def _embed(self, ids: Ids, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the inputs of the first block: hidden states, and the attention mask in the encoder's own format."""
        given: dict[str, Any] = {}

        def take(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            names = ("hidden_states", "attention_mask")
            given.update(zip(names, args, strict=False), **{name: kwargs[name] for name in names if name in kwargs})
            raise _AtFirstBlockError

        handle = self._blocks[0].register_forward_pre_hook(take, with_kwargs=True)
        try:
            self._text.transformer(input_ids=ids, attention_mask=mask)
        except _AtFirstBlockError:
            pass
        finally:
            handle.remove()
        return given["hidden_states"], given.get("attention_mask")

    def _run(self, blocks: Any, x: Tensor, mask: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        for block in blocks:
            out = block(x, mask, bias) if self._family.position_bias else block(x, mask)
            x = out if isinstance(out, Tensor) else out[0]
            bias = out[1] if self._family.position_bias else None
        return x, bias

    @torch.no_grad()
    def run_prefix(self, inputs: Ids, layer: int) -> HiddenTokens:
        """Return the hidden states after block `layer`, truncated to the longest text of the batch."""
        words = inputs != self._text.config.pad_token_id
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        end = (words * (positions + 1)).amax(dim=1) - 1
        tokens = max(int(end.max()) + 1, 1)
        ids, valid = inputs[:, :tokens], words[:, :tokens].clone()
        valid[:, 0] = True  # pooling reads the first token, even if it is padding
        kinds = torch.full(ids.shape, CONTENT, device=ids.device)
        marks = self._vocabulary.is_marker(ids, unknown=True)
        kinds[(positions[:tokens] == end[:, None]) & marks] = LAST_SPECIAL
        if self._family.marks_start:
            kinds[:, 0] = FIRST_SPECIAL  # includes language tokens, which tokenizers do not list as SOS
        attended = words[:, :tokens].long()
        x, mask = self._embed(ids, attended)
        context: dict[str, Tensor] = {"attended": attended}
        shared: dict[str, Tensor] = {}
        if mask is not None:
            (context if len(mask) == len(ids) else shared)["mask"] = mask
        x, bias = self._run(self._blocks[: layer + 1], x, mask, None)
        if bias is not None:
            (context if len(bias) == len(ids) > 1 else shared)["bias"] = bias
        return HiddenTokens(hidden=x, valid=valid, kinds=kinds, grid=None, ids=ids, context=context, shared=shared)

    def _embed_codes(self, x: Tensor, context: dict[str, Tensor], _grid: tuple[int, int] | None, layer: int) -> Tensor:
        x, _ = self._run(self._blocks[layer + 1 :], x, context.get("mask"), context.get("bias"))
        x = self._family.finish(self._text.transformer, x)
        pooled: Tensor = self._text.pooler(self._output(x), context["attended"])
        embedding: Tensor = self._text.proj(pooled)
        return embedding

    def _output(self, x: Tensor) -> Any:
        """Wrap the encoder's last hidden states in the output class that open_clip's poolers expect."""
        from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPoolingAndCrossAttentions

        pooler = getattr(self._text.transformer, "pooler", None)
        if pooler is None:
            return BaseModelOutput(last_hidden_state=x)
        return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=x, pooler_output=pooler(x))
