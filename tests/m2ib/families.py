"""Tiny random models of every family of towers, of the same classes as the real ones, and where their blocks are.

A pair of towers is named by its two families. Nothing is downloaded: timm's trunks are registered under names of their
own with tiny widths, Hugging Face encoders are built from a configuration in a folder.
"""

import tempfile
import zlib
from pathlib import Path

import open_clip
import timm
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transform import PreprocessCfg
from oracle import map_of_one_pair
from timm.models import register_model
from timm.models.vitamin import GeGluMlp, VitCfg, _create_vitamin

from m2ib import DualEncoder
from m2ib.noise import KeyedNoise
from m2ib.towers.base import CONTENT, PADDING

EMBED = 32
CONTEXT = 10
TEXTS = ["a nodule", "no acute finding in a portable chest radiograph at all", "effusion"]


class WordTokenizer:
    """Ids by a checksum of each word, in the form of open_clip's HFTokenizer: the inner tokenizer knows the markers."""

    WORDS, BASE = 80, 10

    def __init__(self, context=CONTEXT, pad=0, eos=1, start=None, strip_sep=False):
        self.context, self.tokenizer, self._strip = context, self, strip_sep
        self.pad_token_id, self.eos_token_id, self.cls_token_id = pad, eos, start

    def __call__(self, texts):
        rows = []
        for text in texts:
            words = [self.BASE + zlib.crc32(word.encode()) % self.WORDS for word in text.split()]
            start = [] if self.cls_token_id is None else [self.cls_token_id]
            row = start + words[: self.context - 1 - len(start)]
            row += [0 if self._strip else self.eos_token_id]
            rows.append(row + [self.pad_token_id] * (self.context - len(row)))
        return torch.tensor(rows)

    def decode(self, ids):
        return f"w{ids[0]} "


def _timm(name, **tiny):
    """Register a tiny variant of a timm model under the name `m2ib_<name>`."""

    def build(pretrained=False, **kwargs):
        kwargs = {key: value for key, value in kwargs.items() if "pretrained" not in key and key != "cache_dir"}
        return timm.create_model(name, pretrained=False, **(tiny | kwargs))

    build.__name__ = f"m2ib_{name}"
    register_model(build)
    return build.__name__


def _vitamin(pretrained=False, **kwargs):
    kwargs = {key: value for key, value in kwargs.items() if "pretrained" not in key and key != "cache_dir"}
    cfg = VitCfg(embed_dim=(8, 16, 32), depths=(1, 2, 1), stem_width=8)
    arguments = {
        "embed_dim": 32, "depth": 3, "num_heads": 2, "mlp_layer": GeGluMlp, "mlp_ratio": 2.0, "class_token": False,
        "global_pool": "avg", "img_size": (32, 48), "embed_cfg": cfg,
    }  # fmt: skip
    return _create_vitamin("vitamin_small_224", **(arguments | kwargs))


_vitamin.__name__ = "m2ib_vitamin"
register_model(_vitamin)

_VIT = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_size": 8, "img_size": (16, 24)}
_STAGES = {"depths": (1, 1, 2, 1), "dims": (8, 16, 16, 24)}


def _trunk(name, size, pool="avg", proj="linear"):
    return {"timm_model_name": name, "image_size": size, "timm_pool": pool, "timm_proj": proj}


_OPEN_CLIP = {"image_size": (20, 30), "patch_size": 10, "width": 32, "layers": 3, "head_width": 16}
IMAGES = {
    "ViT": _OPEN_CLIP,
    "CLIPA ViT": _OPEN_CLIP | {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
    "CoCa ViT": _OPEN_CLIP
    | {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 2, "output_tokens": True},
    "custom ViT": _OPEN_CLIP | {"qk_norm": True, "scale_fc": True, "ls_init_value": 0.5},
    "SigLIP": _trunk(_timm("vit_base_patch16_siglip_256", **_VIT), (16, 24), "map", "none"),
    "timm ViT with registers": _trunk(
        _timm("vit_base_patch16_clip_224", reg_tokens=2, **_VIT), (16, 24), "token", None
    ),
    "average-pooled timm ViT": _trunk(_timm("vit_medium_patch16_gap_256", **_VIT), (16, 24), "", "mlp"),
    "MobileCLIP-B": _trunk(
        _timm("vit_base_mci_224", depth=2, img_size=(32, 48), num_heads=4), (32, 48), "token", None
    ),
    "EVA": _trunk(_timm("eva02_base_patch16_clip_224", **_VIT), (16, 24), "token", None),
    "EVA with mixed rotary": _trunk(_timm("vit_small_patch16_rope_mixed_224", **_VIT), (16, 24), "token", None),
    "PE": _trunk(
        _timm("vit_pe_core_tiny_patch16_384", attn_pool_num_heads=2, **_VIT), (16, 24), "map", None
    ),
    "relative positions": _trunk(
        _timm("vit_relpos_medium_patch16_cls_224", shared_rel_pos=True, **_VIT), (16, 24), "", "linear"
    ),
    "ViTamin": _trunk("m2ib_vitamin", (32, 48), "", "linear"),
    "ConvNeXt": _trunk(_timm("convnext_tiny", **_STAGES), (64, 96), "", "mlp"),
    "ModifiedResNet": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 8, "head_width": 64},
    "FastViT": _trunk(
        _timm("fastvit_mci0", layers=(1, 1, 1, 1), embed_dims=(8, 16, 16, 32)), (64, 96), "avg", None
    ),
    "Swin": _trunk(
        _timm("swin_tiny_patch4_window7_224", embed_dim=8, depths=(1, 2), num_heads=(2, 2), img_size=(32, 48),
              window_size=4),
        (32, 48), "",
    ),
    "SwinV2": _trunk(
        _timm("swinv2_tiny_window8_256", embed_dim=8, depths=(1, 2), num_heads=(2, 2), img_size=(32, 48),
              window_size=4),
        (32, 48), "",
    ),
    "ResNet": _trunk(_timm("resnet50", layers=(1, 1, 1, 1), channels=(8, 8, 8, 16)), (64, 96), "rot_attn", None),
}  # fmt: skip

_OWN = {"context_length": CONTEXT, "vocab_size": 100, "width": 32, "heads": 2, "layers": 3}
_BERT = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
         "intermediate_size": 48, "max_position_embeddings": 40, "pad_token_id": 0}  # fmt: skip
_ENCODERS = {
    "BERT, mean": ({"model_type": "bert", **_BERT}, "mean_pooler"),
    "BERT, CLS": ({"model_type": "bert", **_BERT}, "cls_pooler"),
    "RoBERTa": ({"model_type": "roberta", **_BERT, "pad_token_id": 1}, "mean_pooler"),
    "XLM-RoBERTa": ({"model_type": "xlm-roberta", **_BERT, "pad_token_id": 1}, "cls_last_hidden_state_pooler"),
    "mT5": (
        {"model_type": "mt5", "vocab_size": 100, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 3, "num_heads": 2,
         "num_decoder_layers": 1, "is_encoder_decoder": True, "pad_token_id": 0},
        "mean_pooler",
    ),
    "NLLB": (
        {"model_type": "m2m_100", "vocab_size": 100, "d_model": 32, "encoder_layers": 3, "decoder_layers": 1,
         "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
         "is_encoder_decoder": True, "pad_token_id": 1, "scale_embedding": True, "max_position_embeddings": 40},
        "cls_pooler",
    ),
}  # fmt: skip
_CLIP_WORDS = {**_OWN, "vocab_size": 49408}


def _clip_tokenizer():
    return open_clip.SimpleTokenizer(context_length=CONTEXT)


TEXT_TOWERS = {
    "causal": (_CLIP_WORDS, _clip_tokenizer),
    "causal, end by id": ({**_OWN, "pool_type": "eos", "eos_id": 2}, lambda: WordTokenizer(pad=1, eos=2, start=3)),
    "bidirectional, end of text": ({**_CLIP_WORDS, "no_causal_mask": True}, _clip_tokenizer),
    "SigLIP, padded with EOS": (
        {**_OWN, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        lambda: WordTokenizer(pad=1, eos=1),
    ),
    "SigLIP2": (
        {**_OWN, "no_causal_mask": True, "pool_type": "last", "proj_type": "none"},
        lambda: WordTokenizer(pad=0, eos=1),
    ),
    "CLIPA": (
        {**_OWN, "no_causal_mask": True, "pool_type": "last"},
        lambda: WordTokenizer(pad=0, eos=2, start=3, strip_sep=True),
    ),
    "CoCa": ({**_CLIP_WORDS, "embed_cls": True, "output_tokens": True}, _clip_tokenizer),
    "BERT, mean": (None, lambda: WordTokenizer(pad=0, eos=2, start=3)),
    "BERT, CLS": (None, lambda: WordTokenizer(pad=0, eos=2, start=3)),
    "RoBERTa": (None, lambda: WordTokenizer(pad=1, eos=2, start=0)),
    "XLM-RoBERTa": (None, lambda: WordTokenizer(pad=1, eos=2, start=0)),
    "mT5": (None, lambda: WordTokenizer(pad=0, eos=1)),
    "NLLB": (None, lambda: WordTokenizer(pad=1, eos=2, start=5)),
}

# Each image family with a text family, so that both lists are covered.
PAIRS = [
    ("ViT", "causal"), ("CLIPA ViT", "CLIPA"), ("CoCa ViT", "CoCa"), ("custom ViT", "causal, end by id"),
    ("SigLIP", "SigLIP, padded with EOS"), ("timm ViT with registers", "BERT, mean"),
    ("average-pooled timm ViT", "RoBERTa"), ("MobileCLIP-B", "bidirectional, end of text"), ("EVA", "BERT, CLS"),
    ("EVA with mixed rotary", "XLM-RoBERTa"), ("PE", "causal"), ("relative positions", "mT5"), ("ViTamin", "NLLB"),
    ("ConvNeXt", "SigLIP2"), ("ModifiedResNet", "causal"), ("FastViT", "bidirectional, end of text"),
    ("Swin", "causal"), ("SwinV2", "mT5"), ("ResNet", "NLLB"),
]  # fmt: skip


def randomize(model, seed=0):
    """Randomize weights so that every part of a model matters: initial weights are often zero or very small."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                std = min(max((2 / parameter[0].numel()) ** 0.5, 0.1), 0.5)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
            elif parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.2)
    return model


def encoder_folder(name, folder):
    """Write the configuration of a Hugging Face encoder; returns the text_cfg of open_clip for it."""
    import transformers

    config, pooler = _ENCODERS[name]
    kind = transformers.AutoConfig.for_model(**config)
    kind.save_pretrained(folder)
    return {
        "hf_model_name": str(folder), "hf_model_pretrained": False, "hf_pooler_type": pooler, "hf_proj_type": "mlp",
        "hf_tokenizer_name": str(folder), "context_length": CONTEXT,
    }  # fmt: skip


def build(image, text, kind=None, seed=0):
    """A DualEncoder of an image family and a text family."""
    vision_cfg = IMAGES[image]
    text_cfg, tokenizer = TEXT_TOWERS[text]
    if kind is None:
        kind = CoCa if image == "CoCa ViT" else CLIP if (image, text) == ("ViT", "causal") else CustomTextCLIP
    decoder = {"width": 32, "heads": 2, "layers": 1, "context_length": CONTEXT}
    extra = {"multimodal_cfg": decoder} if kind is CoCa else {}
    torch.manual_seed(seed)  # `randomize` leaves some initial values as they are
    with tempfile.TemporaryDirectory() as folder:
        text_cfg = text_cfg or encoder_folder(text, Path(folder))
        model = kind(embed_dim=EMBED, vision_cfg=vision_cfg, text_cfg=text_cfg, quick_gelu=image == "ViT", **extra)
    randomize(model, seed)
    size = model.visual.image_size
    model.visual.preprocess_cfg = vars(PreprocessCfg(size=size, mean=(0.5,) * 3, std=(0.25,) * 3))
    return DualEncoder(model.eval(), tokenizer(), name=f"{image} | {text}")


def pixels(encoder, count=2, seed=1):
    """Return random preprocessed images, each with a different tint, since pooled noise is very similar."""
    height, width = encoder.image_size
    generator = torch.Generator().manual_seed(seed)
    tints = 2 * torch.randn(count, 3, 1, 1, generator=generator)
    return tints + torch.randn(count, 3, height, width, generator=generator)


def image_blocks(visual):
    """Return the blocks of an image tower and the layout of their outputs: tokens, nchw or nhwc."""
    if hasattr(visual, "transformer"):
        return list(visual.transformer.resblocks), "tokens"
    trunk = getattr(visual, "trunk", visual)
    if hasattr(trunk, "layer1"):
        return [*trunk.layer1, *trunk.layer2, *trunk.layer3, *trunk.layer4], "nchw"
    if hasattr(trunk, "stages"):
        return [block for stage in trunk.stages for block in stage.blocks], "nchw"
    if hasattr(trunk, "layers"):
        return [block for stage in trunk.layers for block in stage.blocks], "nhwc"
    backbone = getattr(trunk.patch_embed, "backbone", None)
    if hasattr(backbone, "stages"):  # maps, then tokens: the layout is read off the hidden state
        return [block for stage in backbone.stages for block in stage] + list(trunk.blocks), "nchw"
    return list(trunk.blocks), "tokens"


def text_blocks(model):
    """Return the blocks of a text tower."""
    text = getattr(model, "text", model).transformer
    for path in ("resblocks", "encoder.layer", "block", "layers"):
        found = text
        for part in path.split("."):
            found = getattr(found, part, None)
        if found is not None:
            return list(found)
    raise LookupError(type(text))


def oracle_map(encoder, tower, config, inputs, target, key, statistics=None):
    """The oracle's nats per token, and its cosine, of one input of the image or text tower."""
    gate, part, model = getattr(config, tower), getattr(encoder, tower), encoder.model
    layer = gate.resolve_layer(part.num_blocks)
    tokens = part.run_prefix(inputs, layer)
    length, width = int(tokens.valid[0].nonzero().max()) + 1, tokens.hidden.shape[2]
    kinds, valid = tokens.kinds[0, :length], tokens.valid[0, :length]
    mean, std = 0.0, 1.0
    if gate.statistics != "unit":
        cells = torch.arange(length) if gate.statistics == "position" else kinds
        moments = getattr(statistics, tower)
        mean, std = (one[cells].to(tokens.hidden.dtype) for one in (moments.mean, moments.std))
    noise = KeyedNoise(config.seed, [key], tower)
    draws = [
        noise.draw(step, config.draws, config.antithetic, length, width)[:, 0].to(tokens.hidden.dtype)
        for step in range(1, config.steps + 2)
    ]
    if tower == "image":
        (blocks, maps), embed = image_blocks(model.visual), model.encode_image
    else:
        blocks, maps, embed = text_blocks(model), "nchw", model.encode_text
    assert len(blocks) == part.num_blocks
    special = kinds != CONTENT
    gated = valid if gate.special == "learned" else valid & ~special
    return map_of_one_pair(
        model, blocks, layer, lambda: embed(inputs), target, draws, gate.beta, mean=mean, std=std,
        gated=gated, closed=special if gate.special == "closed" else torch.zeros_like(special),
        priced=gated & (kinds != PADDING), steps=config.steps, learning_rate=config.learning_rate,
        initial_alpha=config.initial_alpha, maps=maps,
    )  # fmt: skip
