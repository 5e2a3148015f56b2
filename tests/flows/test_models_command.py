"""`m2ib-audit models`: the table and the JSON of a list of models."""

import json
import sys
from types import SimpleNamespace

from typer.testing import CliRunner

from flows import cli
from m2ib.towers import catalog
from m2ib.towers.catalog import ModelFacts, TowerFacts


def test_models_are_printed_as_table_and_json(monkeypatch):
    tower = TowerFacts(True, pooling="class token", num_blocks=16, layer=8)
    models = [
        ModelFacts("RN50", TowerFacts(True, "", "attention", 16, 8, (28, 28)), tower),
        ModelFacts("on the hub", tower, TowerFacts(True, note="read from the hub")),
        ModelFacts("other", TowerFacts(False, "no blocks"), tower),
    ]
    # The catalog itself is tested with m2ib: building open_clip's models takes long.
    monkeypatch.setitem(sys.modules, catalog.__name__, SimpleNamespace(describe_models=lambda: iter(models)))
    result = CliRunner().invoke(cli.app, ["models"])
    assert result.exit_code == 0, result.output
    *table, last = result.stdout.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table if line.startswith("│")]
    assert rows == [
        ["RN50", "attention", "8 of 16", "28 x 28", "class token", "8 of 16", ""],
        ["on the hub", "class token", "8 of 16", "", "None", "", "read from the hub"],
        ["other", "no", "", "", "class token", "8 of 16", "no blocks"],
    ]
    assert last == "2 of 3 models can be audited with both towers"
    answer = json.loads(CliRunner().invoke(cli.app, ["models", "--json"]).stdout.splitlines()[-1])
    assert (answer["listed"], answer["supported"]) == (3, 2)
    assert answer["models"][0] == {
        "name": "RN50", "image": True, "text": True, "reason": "", "note": "", "image_pooling": "attention",
        "image_blocks": 16, "image_layer": 8, "grid": [28, 28], "text_pooling": "class token", "text_blocks": 16,
        "text_layer": 8,
    }  # fmt: skip
