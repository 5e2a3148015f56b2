"""An address of a corpus or lake that may contain a secret is refused, and neither shown, stored nor logged."""

import pytest
from typer.testing import CliRunner

import stores
from flows.cli import app

SECRET = "hush-4711"  # of no store
ADDRESSES = {
    f"https://host/data.tar?token={SECRET}": "object storage",
    f"https://host/data.tar?{SECRET}": "object storage",
    f"https://host/data.tar#{SECRET}": "object storage",
    f"https://user:{SECRET}@host/data.tar": "object storage",
    f"s3://bucket/data#{SECRET}": "AWS_ACCESS_KEY_ID",
    f"S3://bucket/data?versionId={SECRET}": "AWS_SECRET_ACCESS_KEY",
    f"gs://bucket/data#{SECRET}": "GOOGLE_APPLICATION_CREDENTIALS",
    f"abfs://container@account.dfs.core.windows.net/data?sig={SECRET}": "AZURE_STORAGE_SAS_TOKEN",
    f"hf://datasets/a/b#{SECRET}": "HF_TOKEN",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_address_with_a_secret_is_refused_with_the_variables_of_its_driver(address, tmp_path, monkeypatch, caplog):
    for what in ("corpus", "lake"):
        with pytest.raises(stores.UrlError) as raised:
            stores.parse_root(address, what)
        assert SECRET not in str(raised.value)
        assert ADDRESSES[address] in str(raised.value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "AUDIT.toml").write_text(f'[corpus]\npath = "{address}"\n[model]\narchitecture = "demo/shortcut"\n')
    for command in (("runs", "--lake", address), ("corpus", address), ("run", "AUDIT.toml"), ("doctor", "AUDIT.toml")):
        result = CliRunner().invoke(app, command)
        assert result.exit_code != 0
        assert SECRET not in result.output + caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["AUDIT.toml"]


def test_patterns_and_local_paths_are_accepted(tmp_path):
    assert stores.parse_root(f"{tmp_path}/a?b#c=d", "corpus") == tmp_path / "a?b#c=d"
    assert stores.parse_root("memory://bucket/shard-?.tar", "corpus").name == "shard-?.tar"
