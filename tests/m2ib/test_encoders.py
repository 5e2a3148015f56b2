"""Dual encoders from a local folder, and the special tokens of their tokenizers."""

import json
from dataclasses import replace

import families
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from m2ib import ModelLoadError, UnsupportedModelError, attribute, calibrate, load_encoder, preset
from m2ib.config import BottleneckConfig
from m2ib.towers.text import Vocabulary

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "no", "large", "nodule", "effusion", "left", "right",
              "pleural", "##s", "##ed", "in", "chest", "port", "##able"]  # fmt: skip
PREPROCESS = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "squash"}


def write_folder(folder, pooler="mean_pooler"):
    """Write a model folder: timm trunk, BERT with a WordPiece vocabulary, weights and preprocessing."""
    import transformers

    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    transformers.BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=32,
    ).save_pretrained(folder)  # fmt: skip
    model_cfg = {
        "embed_dim": 32,
        "vision_cfg": families.IMAGES["SigLIP"],
        "text_cfg": {
            "hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_pooler_type": pooler,
            "hf_proj_type": "mlp", "context_length": 12,
        },
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": PREPROCESS}))
    text_cfg = {key: value for key, value in model_cfg["text_cfg"].items() if key != "hf_model_pretrained"}
    model = open_clip.model.CustomTextCLIP(
        embed_dim=32, vision_cfg=model_cfg["vision_cfg"], text_cfg={**text_cfg, "hf_model_pretrained": False}
    )
    families.randomize(model)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return model


@pytest.mark.parametrize("pooler", ["mean_pooler", "cls_pooler"])
def test_folder_with_timm_trunk_bert_and_tokenizer_loads(tmp_path, pooler):
    written = write_folder(tmp_path, pooler).eval()
    encoder = load_encoder(f"local-dir:{tmp_path}")
    assert encoder.image_size == (16, 24)
    images = [Image.effect_noise((60, 40), 80).convert("RGB"), Image.new("RGB", (30, 90), "teal")]
    texts = ["left pleural effusions in a portable chest", "no nodule"]
    ids = encoder.tokenize(texts)
    with torch.no_grad():
        torch.testing.assert_close(encoder.model.encode_text(ids), written.encode_text(ids))
    config = replace(BottleneckConfig(), steps=2)
    result = attribute(encoder, images, texts, config, calibrate(encoder, images, texts, config))
    assert result.image_map.shape == (2, 2, 3)
    assert list(result.tokens[1]) == ["[CLS]", "no", "nodule", "[SEP]"]
    assert list(result.tokens[0]) == ["[CLS]", "left", "pleural", "effusion", "##s", "in", "a", "port", "##able",
                                      "chest", "[SEP]"]  # fmt: skip
    assert list(result.special[1]) == [True, False, False, True]
    assert (result.text_map[1][1:-1] > 0).all()


def test_folder_without_weights_or_configuration_raises(tmp_path):
    with pytest.raises(ModelLoadError, match="config file missing"):
        load_encoder(f"local-dir:{tmp_path}")


def test_special_tokens_of_bert_are_found(tmp_path):
    write_folder(tmp_path)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    assert Vocabulary.from_tokenizer(tokenizer) == Vocabulary(pad=0, markers=frozenset({2, 3}))


def test_vocabulary_of_open_clips_own_tokenizer():
    assert Vocabulary.from_tokenizer(open_clip.SimpleTokenizer()) == Vocabulary(
        pad=None, markers=frozenset({49406, 49407})
    )


def test_vocabulary_of_a_plain_function():
    assert Vocabulary.from_tokenizer(lambda texts: texts) == Vocabulary()


def test_unsupported_models_are_rejected():
    from m2ib import DualEncoder

    with pytest.raises(UnsupportedModelError, match="got Linear, expected open_clip's CLIP, CustomTextCLIP or CoCa"):
        DualEncoder(torch.nn.Linear(2, 2), None)


def test_towers_of_different_dimensions_are_rejected():
    encoder = families.build("SigLIP", "SigLIP2")
    encoder.model.visual.head = torch.nn.Linear(32, 20)
    with pytest.raises(UnsupportedModelError, match="image embeddings with 20 features and text embeddings with 32"):
        type(encoder)(encoder.model, encoder.tokenizer)


def test_preset_needs_no_calibration_for_a_folder(tmp_path):
    write_folder(tmp_path)
    encoder = load_encoder(f"local-dir:{tmp_path}")
    config = replace(preset("paper"), steps=1, draws=1)
    assert len(attribute(encoder, [Image.new("RGB", (8, 8))], ["nodule"], config)) == 1


def test_truncated_text_is_counted_in_characters(encoder):
    room = encoder.tokenize(["a"]).shape[1] - 2
    full = " ".join(["a"] * room)
    texts = ["", "a dog", full[:-2], full, f"{full} b", f"{full}  a longer end."]
    assert encoder.count_truncated_characters(texts, encoder.tokenize(texts)) == [0, 0, 0, 0, 2, 15]
