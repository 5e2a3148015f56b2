"""Ids are checked by pattern wherever they enter: names of folders, URLs, manifests and arguments."""

import json
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import sql
from flows.cli import app
from review.evidence import verify
from review.site.app import create_app

HOSTILE = ('"; filename=x.exe', "a\r\nSet-Cookie: x=1", "\x1b[2J", "..", "<script>", "a b", "x" * 200, "é", "\u202ea")


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != ".."])
def test_hostile_name_of_a_folder_is_damage(add_next_run, name):
    intact, run = add_next_run({"slice": "dense"}), add_next_run({"slice": "clear"})
    path = run.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"run_id": name}))
    run.folder.rename(run.folder.with_name(name))
    with sql.connect(run.lake) as connection:
        assert [row["run_id"] for row in sql.read(connection, "FROM runs")] == [intact.run_id]
        assert [*sql.list_damage(connection)] == [name]
    assert not verify.verify(run.lake, "all").is_intact
    for command in ("runs", "alerts", "verify"):
        output = CliRunner().invoke(app, [command, *(["all"] if command == "verify" else []), "--lake", str(run.lake)])
        assert "\x1b" not in output.stdout + output.stderr
        assert "\r" not in output.stdout + output.stderr
    with TestClient(create_app(run.lake), "http://127.0.0.1:8765", raise_server_exceptions=False) as client:
        assert client.get("/runs").status_code == 200
        assert "<script>" not in client.get("/runs").text
        for page in (f"/runs/{quote(name, safe='')}", f"/runs/{quote(name, safe='')}/report.html"):
            response = client.get(page)
            assert response.status_code == 404
            assert "content-disposition" not in response.headers


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != ".."])  # a client resolves it
def test_hostile_ids_in_urls_are_not_found(add_next_run, name):
    run = add_next_run({"slice": "dense"})
    with TestClient(create_app(run.lake), "http://127.0.0.1:8765", raise_server_exceptions=False) as client:
        for page in ("alerts/{}", "alerts/{}/map", "pairs/{}", "pairs/{}/image", "pairs/{}/thumbnail"):
            response = client.get(f"/runs/{run.run_id}/{page.format(quote(name, safe=''))}")
            assert response.status_code == 404
            assert name not in str(response.headers)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_argument_is_no_run(add_next_run, name):
    run = add_next_run({"slice": "dense"})
    with pytest.raises(sql.LakeError, match="expected the id of a run"):
        sql.connect(run.lake, name)
    for command in ("alerts", "report", "verify", "compact"):
        result = CliRunner().invoke(app, [command, "--lake", str(run.lake), "--", name])
        assert result.exit_code in (1, 2)
        assert "\x1b" not in result.stdout + result.stderr
