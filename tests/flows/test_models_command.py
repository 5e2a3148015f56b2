"""`m2ib-audit models`, in an interpreter of its own: what it prints, and that it does without Prefect."""

import json
import subprocess
import sys

SCRIPT = """
import sys, open_clip
open_clip.list_models = lambda: ["RN50", "roberta-ViT-B-32"]
from flows.cli import app
app(["models"], standalone_mode=False)
app(["models", "--json"], standalone_mode=False)
assert not [name for name in sys.modules if name.split(".")[0] in ("prefect", "great_expectations")]
"""


def test_table_and_json():
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=300)  # noqa: S603
    *table, last = ran.stdout.splitlines()
    assert any("28 x 28" in line for line in table)
    assert table[-1] == "2 of 2 models can be audited with both towers"
    found = json.loads(last)
    assert (found["listed"], found["supported"]) == (2, 2)
    first, second = found["models"]
    assert first["name"] == "RN50"
    assert first["image"] is first["text"] is True
    assert first["reason"] == ""
    assert (first["image_blocks"], first["grid"]) == (16, [28, 28])
    assert second["text_blocks"] is None
    assert "read from the hub" in second["note"]
