"""Names of models and weights are checked without open_clip."""

from pathlib import Path

import open_clip
import pytest

from m2ib import ModelLoadError, check_names
from m2ib.names import list_architectures


def test_architectures_are_those_of_open_clip():
    assert sorted(list_architectures()) == sorted(open_clip.list_models())


@pytest.mark.parametrize(
    ("architecture", "pretrained", "fault"),
    [
        ("ViT-B32", "openai", "architecture: got 'ViT-B32', expected a name .*; nearest: ViT-B-32, "),
        ("local-dir:/no/such/folder", None, "architecture: got 'local-dir:/no/such/folder', which is no folder"),
        (
            "local-dir:ckpt",
            None,
            f"'local-dir:ckpt', which is no folder; correct the path, which is relative to {Path.cwd()}",
        ),
        ("demo/shortcutt", None, "; nearest: demo/shortcut, "),
        ("ViT-B-32", None, "pretrained: got None for the model 'ViT-B-32'"),
        ("hf-hub:org/name", "openai", "pretrained: got 'openai' for the model 'hf-hub:org/name', expected None"),
        ("ViT-B-32", "no/such.safetensors", "pretrained: got 'no/such.safetensors', but there is no such file"),
        ("ViT-B-32", "weights.pt", "pretrained: got 'weights.pt', but there is no such file"),
    ],
)
def test_a_wrong_name_is_reported(architecture, pretrained, fault):
    with pytest.raises(ModelLoadError, match=fault):
        check_names(architecture, pretrained)


def test_names_and_paths_that_exist_are_accepted(tmp_path):
    weights = tmp_path / "weights.pt"
    weights.touch()
    tags = {tag for _, tag in open_clip.list_pretrained()}
    for architecture, pretrained in (
        ("hf-hub:org/name", None), (f"local-dir:{tmp_path}", None), ("ViT-B-32", str(weights)),
        *(("ViT-B-32", tag) for tag in tags),
    ):  # fmt: skip
        check_names(architecture, pretrained)
