"""Who saw what: the log of reads is complete, private, bounded, and beside the lake."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from flows import cli
from review.site import reads
from review.site.app import create_app
from review.site.reads import ReadsError, ReadsLog, get_folder
from review.site.settings import ReviewSettings
from tasks.lake.journal import record_run_end

RUN = "20260101T000000-aaaaaa"
OTHER = "20260102T000000-aaaaaa"


def read_lines(folder):
    return [json.loads(line) for path in sorted(folder.glob("reads*.jsonl")) for line in path.read_text().splitlines()]


def test_each_read_of_a_signed_in_user_is_logged_before_its_answer(serve, users_file, tmp_path):
    folder = tmp_path / "reads"
    site = serve(users=users_file, reads=folder)
    rita = site.sign_in("rita") | {"Sec-Fetch-Site": "none"}
    paths = [
        "/",
        f"/runs/{RUN}/pairs?words=secret",
        f"/runs/{RUN}/pairs/pair-0001",
        f"/runs/{RUN}/pairs/pair-0002/thumbnail",
        f"/runs/{RUN}/pairs?format=csv",
        f"/compare?left={RUN}&right={OTHER}&pair=pair-0003",
        "/sql?q=SELECT%20caption%20FROM%20pairs",
        f"/runs/{RUN}/report.html",
    ]
    for number, path in enumerate(paths, start=1):
        assert site.get(path, rita).status == 200
        assert len(read_lines(folder)) == number
    for path, headers in (("/", {}), ("/runs/none", rita), ("/static/page.css", rita), ("/sign-in", {})):
        site.get(path, headers)
    lines = read_lines(folder)
    assert len(lines) == len(paths)
    assert {(line["user"], line["identity"], line["client"]) for line in lines} == {("rita", "password", "127.0.0.1")}
    assert [line.get("pair") for line in lines] == [None, None, "pair-0001", "pair-0002", None, "pair-0003", None, None]
    assert [line.get("run") for line in lines] == [None, *[RUN] * 5, None, RUN]
    assert lines[5]["other_run"] == OTHER
    assert [line.get("format") for line in lines] == [None] * 4 + ["csv", None, None, "html"]
    text = (folder / "reads.jsonl").read_text()
    assert "secret" not in text
    assert "caption" not in text
    assert (stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE((folder / "reads.jsonl").stat().st_mode)) == (
        0o700,
        0o600,
    )
    for path in ("/reads.jsonl", "/../reads/reads.jsonl", "/static/..%2f..%2freads.jsonl", "/lake.reads/reads.jsonl"):
        assert site.get(path, rita).status in (400, 404)
    answer = site.get("/sql?q=" + quote(f"SELECT content FROM read_text('{folder}/reads.jsonl')"), rita).text
    assert "The query failed" in answer
    assert "thumbnail" not in answer


def test_users_of_a_proxy_are_logged_and_visitors_without_a_name_are_not(serve, tmp_path, audited_lake):
    folder = tmp_path / "reads"
    site = serve(proxy_header="X-User", proxy_from=("127.0.0.1",), reads=folder)
    site.get("/", {"X-User": "Ada Lovelace", "X-Forwarded-For": "192.0.2.7\t, 198.51.100.1"})
    (line,) = read_lines(folder)
    assert (line["user"], line["identity"], line["client"]) == ("Ada Lovelace", "proxy", "198.51.100.1")
    for settings in ({}, {"allow_anonymous_read": True}):
        assert serve(**settings, reads=tmp_path / "none").get("/").status == 200
    assert not (tmp_path / "none").exists()


def test_log_is_beside_the_lake_and_never_in_it(tmp_path, users_file, audited_lake):
    assert get_folder(audited_lake) == audited_lake.parent / "lake.reads"
    for folder in (audited_lake, audited_lake / "runs" / "reads"):
        with pytest.raises(ReadsError, match="which is in the lake"):
            ReadsLog(folder, audited_lake)
    (tmp_path / "file").touch()
    with pytest.raises(ReadsError, match=r"cannot be written to .*--reads FOLDER"):
        create_app(audited_lake, ReviewSettings(users=users_file, reads=tmp_path / "file"))


def test_log_is_bounded_also_by_several_sites(tmp_path, audited_lake, monkeypatch):
    monkeypatch.setattr(reads, "MAX_BYTES", 5000)
    monkeypatch.setattr(reads, "MAX_FILES", 4)
    logs = [ReadsLog(tmp_path / "reads", audited_lake) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: logs[number % 4].add(page=f"/{number}\n{{", user="x" * 10_000), range(400)))
    sizes = [path.stat().st_size for path in (tmp_path / "reads").iterdir()]
    assert len(sizes) == 4
    assert max(sizes) < 5000 + 300
    lines = read_lines(tmp_path / "reads")
    assert len({line["page"] for line in lines}) == len(lines) > 40


def test_full_disk_keeps_nobody_out(tmp_path, audited_lake, caplog):
    log = ReadsLog(tmp_path / "reads", audited_lake)
    (tmp_path / "reads" / "reads.jsonl").unlink()
    (tmp_path / "reads" / "reads.jsonl").symlink_to("/dev/full")
    log.add(page="/")
    assert "the log of reads cannot be written" in caplog.text


def test_erasing_a_pair_erases_its_id_from_the_log(tmp_path, audited_lake):
    log = ReadsLog(tmp_path / "reads", audited_lake)
    for number in range(6):
        log.add(page="/pair", user="ada", pair=f"pair-{number % 3}")
    with (tmp_path / "reads" / "reads.jsonl").open("a") as file:
        file.write("edited by hand\n")
    assert log.erase_pairs(["pair-1", "pair-9"]) == 2
    text = (tmp_path / "reads" / "reads.jsonl").read_text()
    assert "pair-1" not in text
    assert text.count(reads.ERASED) == 2
    assert text.count("pair-2") == 2
    assert text.endswith("edited by hand\n")


def test_command_erases_the_log_beside_the_lake(tmp_path, make_add_next_run):
    lake = tmp_path / "lake"
    record_run_end(make_add_next_run(lake)())
    log = ReadsLog(get_folder(lake), lake)
    log.add(page="/pair", user="ada", pair="pair-0001")
    log.add(page="/pair", user="ada", pair="pair-0002")
    command = ["erase", "--lake", str(lake), "--pair", "pair-0001", "--reason", "request 1", "--yes"]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    assert [line["pair"] for line in read_lines(get_folder(lake))] == ["[erased]", "pair-0002"]
