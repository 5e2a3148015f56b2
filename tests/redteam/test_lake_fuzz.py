"""Each change of the evidence in a lake is found by verification, or is harmless and explained.

A lake with five runs, decisions, signatures and reports is changed in one place at a time, by a seeded generator. For
each change, one of these holds:

- `verify all` reports a difference, and one of the differences names a file that was changed.
- The change is harmless: what people read from the lake (runs, alerts, decisions, sign-offs) is the same as before, and
  a note of `verify all` names the file, or the file is no evidence (`lock.json`).

No change leads to an exception in verification, a command or a page, to a page with status 500, or, unless there is a
difference, to another headline.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

import sql
from flows import cli
from review.evidence.decisions import Reviewer, countersign, decide, sign_off
from review.evidence.verify import verify
from review.site.app import create_app
from stores import ledger
from stores.keys import PublicKey, SigningKey, create_key, load_key, load_public_key
from tasks.lake.compact import compact_run
from tasks.lake.journal import record_report, record_run_end

ANN, BOB = Reviewer("Ann", "radiologist", "declared"), Reviewer("Bob", "quality", "declared")
CASES, ALL_CASES = 32, 2000
"""Number of changes in the fast tests, and in all tests."""
PARTS = 2
"""Number of tests over which the changes are spread, so that they can run at the same time."""
HUGE = 2**40
NO_EVIDENCE = ("lock.json",)

Generator = np.random.Generator


@dataclass
class Evidence:
    """A lake, copies of it from while it was filled, oldest first, and the key that signed its records."""

    lake: Path
    earlier: list[Path]
    key: SigningKey
    public: PublicKey
    head: str


def fill_lake(folder: Path, make_add_next_run: Callable[..., Any], key: Path) -> Evidence:
    """Fill a lake with five runs: reviewed, compacted, signed off by two people, failed, and one with two reports."""
    lake, signer, earlier = folder / "lake", load_key(key), []
    lake.mkdir()
    add_next_run = make_add_next_run(lake)

    def keep() -> None:
        earlier.append(Path(shutil.copytree(lake, folder / f"earlier-{len(earlier)}")))

    def add(status: str = "completed") -> Any:
        run = add_next_run({"interval": (0.1, 0.2, 0.3)}, {"region": "left"}, status=status)
        run.write_table("attributions", [{"pair_id": "more"}], "part-00001")
        record_run_end(run, signer)
        return run

    def report(run: Any, content: bytes) -> None:
        (run.folder / "report.html").write_bytes(content)
        record_report(run, "report.html", signer)

    runs = [add()]
    report(runs[0], b"<html>the first report</html>")
    first = decide(
        lake, ANN, runs[0].run_id, f"{runs[0].run_id}-0", "benign", "a marker", "review", four_eyes=True, signer=signer
    )
    keep()
    countersign(lake, BOB, first.number, "approval", signer=signer)
    runs.append(add())
    compact_run(runs[0], signer)
    keep()
    signed = sign_off(lake, BOB, runs[1].run_id, "responsibility", "fit for use", four_eyes=True, signer=signer)
    countersign(lake, ANN, signed.number, "approval", "I agree", signer=signer)
    runs += [add("failed"), add()]
    report(runs[1], b"<html>a report</html>")
    keep()
    runs.append(add())
    report(runs[4], b"<html>an early report</html>")
    keep()
    report(runs[4], b"<html>the last report</html>")
    decide(lake, BOB, runs[4].run_id, f"{runs[4].run_id}-1", "confirmed", "it reads the tag", "review", signer=signer)
    head = ledger.read_records(lake)[-1].sha256
    return Evidence(lake, earlier, signer, load_public_key(Path(f"{key}.pub")), head)


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory, make_add_next_run: Callable[..., Any]) -> Evidence:
    folder = tmp_path_factory.mktemp("evidence")
    create_key(folder / "audit.key")
    return fill_lake(folder, make_add_next_run, folder / "audit.key")


# Changes. Each returns the paths, relative to the lake, that it changed.

Change = Callable[[Path, Evidence, Generator], set[str]]


def list_files(lake: Path) -> list[str]:
    return sorted(path.relative_to(lake).as_posix() for path in lake.rglob("*") if path.is_file())


def choose(lake: Path, generator: Generator, count: int = 1, ending: str = "") -> list[str]:
    names = [name for name in list_files(lake) if name.endswith(ending)]
    return [names[index] for index in generator.choice(len(names), count, replace=False)]


def flip_bit(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    (name,) = choose(lake, generator)
    data = bytearray((lake / name).read_bytes())
    data[generator.integers(len(data))] ^= 1 << generator.integers(8)
    (lake / name).write_bytes(data)
    return {name}


def cut(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    (name,) = choose(lake, generator)
    data = (lake / name).read_bytes()
    (lake / name).write_bytes(data[: generator.integers(len(data))])
    return {name}


def append_bytes(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    (name,) = choose(lake, generator)
    with (lake / name).open("ab") as file:
        file.write(generator.bytes(generator.integers(1, 20)))
    return {name}


def delete(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    (name,) = choose(lake, generator)
    (lake / name).unlink()
    return {name}


def move(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    source, target = choose(lake, generator, 2)
    (lake / source).replace(lake / target)
    return {source, target}


def rename(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    (source,) = choose(lake, generator)
    target = source[:-1] + chr(generator.integers(ord("a"), ord("z") + 1))
    if target != source:
        (lake / source).replace(lake / target)
    return {source, target}


def copy(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    source, target = choose(lake, generator, 2)
    shutil.copyfile(lake / source, lake / target)
    return {target}


def copy_beside(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    source, beside = choose(lake, generator, 2)
    target = f"{beside.rpartition('/')[0]}/copy-of-{source.rpartition('/')[2]}"
    shutil.copyfile(lake / source, lake / target)
    return {target}


def swap(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    one, other = choose(lake, generator, 2)
    first, second = (lake / one).read_bytes(), (lake / other).read_bytes()
    (lake / one).write_bytes(second)
    (lake / other).write_bytes(first)
    return {one, other}


def put_special_file(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    (name,) = choose(lake, generator)
    content = (lake / name).read_bytes()
    (lake / name).unlink()
    kind = generator.integers(5)
    if kind == 0:
        os.mkfifo(lake / name)
    elif kind == 4:  # content, then nothing up to a size that fits no memory
        (lake / name).write_bytes(content)
        os.truncate(lake / name, HUGE if name.endswith((".json", "HEAD")) else len(content) + 9)
    elif kind == 1:
        (lake / name).mkdir()
    elif kind == 2:
        (lake / name).symlink_to("/dev/zero")
    else:  # a link to the same content, outside
        outside = evidence.lake.parent / "outside"
        outside.write_bytes(content)
        (lake / name).symlink_to(outside)
    return {name}


VALUES = [None, True, -1, 2**70, 1.5, "", "x", "../../x", "\u202e", [], [None], {}, {"x": 1}, "2026-01-01", "completed"]


def list_places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of each value in a JSON value, and of the value itself."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from list_places(item, (*place, key))


def change_value(value: Any, generator: Generator) -> Any:
    """Replace or delete a value in a JSON value."""
    places = list(list_places(value))
    place = places[generator.integers(len(places))]
    new = VALUES[generator.integers(len(VALUES))]
    if not place:
        return new
    parent = value
    for key in place[:-1]:
        parent = parent[key]
    if generator.integers(4) == 0:
        del parent[place[-1]]
    else:
        parent[place[-1]] = new
    return value


def change_json(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    """Change a value of a manifest, a record or HEAD."""
    names = [name for name in list_files(lake) if name.endswith((".json", "HEAD"))]
    name = names[generator.integers(len(names))]
    value = change_value(json.loads((lake / name).read_bytes()), generator)
    (lake / name).write_bytes(ledger.canonical_json(value))
    return {name}


def change_manifest(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    (name,) = choose(lake, generator, ending="/manifest.json")
    value = change_value(json.loads((lake / name).read_bytes()), generator)
    (lake / name).write_bytes((json.dumps(value, indent=1, sort_keys=True) + "\n").encode())
    return {name}


def change_table(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    """Damage a table, and write the damaged file's sha256 into the manifest."""
    (name,) = choose(lake, generator, ending=".parquet")
    data = bytearray((lake / name).read_bytes())
    data[generator.integers(len(data))] ^= 1 << generator.integers(8)
    (lake / name).write_bytes(data)
    path = lake / "/".join(name.split("/")[:2]) / "manifest.json"
    manifest = json.loads(path.read_bytes())
    for entry in manifest["files"]:
        if entry["path"] == name:
            entry["sha256"] = ledger.sha256(bytes(data))
    path.write_bytes((json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
    return {path.relative_to(lake).as_posix()}


def put_back_file(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    """Put back an older copy of a file, or a file that was deleted since."""
    earlier = evidence.earlier[generator.integers(len(evidence.earlier))]
    names = [name for name in list_files(earlier) if read(lake / name) != (earlier / name).read_bytes()]
    name = names[generator.integers(len(names))]
    (lake / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(earlier / name, lake / name)
    return {name}


def put_back_run(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    """Put back an older copy of a run's folder that differs."""
    earlier = evidence.earlier[0]
    (run,) = (earlier / "runs").iterdir()
    return replace_folder(run, lake / "runs" / run.name, lake)


def put_back_ledger(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    earlier = evidence.earlier[generator.integers(len(evidence.earlier))]
    return replace_folder(earlier / "ledger", lake / "ledger", lake)


def replace_folder(source: Path, target: Path, lake: Path) -> set[str]:
    before = {name: read(lake / name) for name in list_files(lake)}
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)
    return {name for name in {*before, *list_files(lake)} if read(lake / name) != before.get(name)}


def read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() and path.stat().st_size < HUGE else None


def delete_folder(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    folders = [path for path in lake.rglob("*") if path.is_dir()]
    folder = folders[generator.integers(len(folders))]
    names = {name for name in list_files(lake) if (lake / name).is_relative_to(folder)}
    shutil.rmtree(folder)
    return {*names, f"{folder.relative_to(lake)}/"} if names else names


def rename_folder(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    folders = [path for path in lake.rglob("*") if path.is_dir()]
    folder = folders[generator.integers(len(folders))]
    before = set(list_files(lake))
    folder.rename(folder.with_name(folder.name + "x"))
    return before ^ set(list_files(lake))


def swap_runs(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    runs = sorted((lake / "runs").iterdir())
    one, other = (runs[index] for index in generator.choice(len(runs), 2, replace=False))
    one.rename(lake / "aside")
    other.rename(one)
    (lake / "aside").rename(other)
    return {name for name in list_files(lake) if name.startswith((f"runs/{one.name}/", f"runs/{other.name}/"))}


def forge_run(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    """Add a copy of a run as a newer or older one, with a manifest that fits it."""
    runs = sorted((lake / "runs").iterdir())
    source = runs[generator.integers(len(runs))]
    run_id = ("20270101T000000-ffffff", "20250101T000000-000000")[generator.integers(2)]
    shutil.copytree(source, lake / "runs" / run_id)
    path = lake / "runs" / run_id / "manifest.json"
    manifest = json.loads(path.read_text().replace(source.name, run_id))
    manifest.pop("chained", None)
    manifest.pop("earlier_manifests", None)
    if generator.integers(2):
        manifest["started_at"] = "2020-01-01T00:00:00+00:00"
    manifest["status"] = ("completed", "running", "failed", "pruned")[generator.integers(4)]
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return {name for name in list_files(lake) if run_id in name}


def forge_record(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    """Append a record without the key: a changed copy of an earlier one, with a chain and a HEAD that fit."""
    records = ledger.read_records(lake)
    earlier = records[generator.integers(len(records))]
    body = change_value(json.loads(json.dumps(earlier.body)), generator)
    fields = {"number": len(records) + 1, "kind": earlier.kind, "at": records[-1].at, "prev": records[-1].sha256}
    data = ledger.canonical_json(fields | {"body": body if isinstance(body, dict) else {}})
    name = f"ledger/{len(records) + 1:08d}.json"
    (lake / name).write_bytes(data)
    head = {"number": len(records) + 1, "sha256": ledger.sha256(data)}
    (lake / "ledger" / "HEAD").write_bytes(ledger.canonical_json(head))
    return {name}


def rewrite_end(lake: Path, evidence: Evidence, generator: Generator) -> set[str]:
    """Change a record, and rewrite the chain after it and HEAD so that they fit, without the key."""
    records = ledger.read_records(lake)
    start = int(generator.integers(len(records)))
    previous, names = records[start].prev, set()
    for record in records[start:]:
        body = json.loads(json.dumps(record.body))
        if record is records[start]:
            body["n"] = int(generator.integers(100))
        fields = {"number": record.number, "kind": record.kind, "at": record.at, "body": body, "prev": previous}
        data = ledger.canonical_json(fields | {"key_id": record.key_id, "signature": record.signature})
        names.add(f"ledger/{record.number:08d}.json")
        (lake / "ledger" / f"{record.number:08d}.json").write_bytes(data)
        previous = ledger.sha256(data)
    (lake / "ledger" / "HEAD").write_bytes(ledger.canonical_json({"number": len(records), "sha256": previous}))
    return names


CHANGES: list[Change] = [
    *(flip_bit, flip_bit, flip_bit, cut, cut, append_bytes, delete, move, rename, copy, copy_beside, swap),
    *(put_special_file, change_json, change_json, change_manifest, change_manifest, change_manifest, change_table),
    *(put_back_file, put_back_file, put_back_run, put_back_ledger, delete_folder, rename_folder, swap_runs),
    *(forge_run, forge_run, forge_record, rewrite_end),
]
NEED_HEAD = (put_back_ledger,)
"""Changes that are found only if the head of the ledger was noted outside of the lake."""
OLDER_STATES = (put_back_file, put_back_run)
"""Changes after which a run can be in an earlier state: the difference can be another file of the run."""


# What people read


def read_headline(lake: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what pages, commands and reports say first: runs, alerts, decisions and sign-offs."""
    with sql.connect(lake) as connection:
        return {
            view: sql.read_table(connection, f"SELECT * FROM {view} ORDER BY ALL").to_pylist()
            for view in ("runs", "alerts", "alert_history", "decisions", "sign_offs", "signatures")
        }


COMMANDS = (("runs",), ("alerts",), ("sql", "SELECT * FROM alerts"), ("verify", "latest"))
PAGES = ("/", "/runs", "/compare", "/queue")


def use(lake: Path, number: int) -> None:
    """Use the lake with a command or a page. Fails if one raises an exception or answers 500."""
    actions = len(COMMANDS) + len(PAGES)
    if (index := number % actions) < len(COMMANDS):
        result = CliRunner().invoke(cli.app, [*COMMANDS[index], "--lake", str(lake)])
        if not isinstance(result.exception, SystemExit | None):
            raise result.exception
        assert "Traceback" not in result.output
        return
    with TestClient(create_app(lake), base_url="http://127.0.0.1", raise_server_exceptions=True) as client:
        answer = client.get(PAGES[index - len(COMMANDS)])
        assert answer.status_code != 500, answer.text


def place_of(name: str) -> str:
    """Return the folder of the run that a file belongs to, or the file itself if it belongs to none."""
    return "/".join([*name.split("/")[:2], ""]) if name.startswith("runs/") else name


def is_named(names: set[str], lines: list[str]) -> bool:
    return any(name in line for line in lines for name in names)


def check_case(evidence: Evidence, folder: Path, number: int, headline: dict[str, Any], uses: bool = True) -> str:
    """Make change `number` in a copy of the lake, check what is promised of it, and return how it ended.

    `uses`: whether a command or a page also uses the lake, which takes half of the time.
    """
    generator = np.random.default_rng(number)
    change = CHANGES[number % len(CHANGES)]
    lake = Path(shutil.copytree(evidence.lake, folder / "lake"))
    before = {name: (lake / name).read_bytes() for name in list_files(lake)}
    try:
        names = change(lake, evidence, generator)
        after = {name: read(lake / name) for name in list_files(lake)}
        if after == before and not any(path.is_symlink() for path in lake.rglob("*")):
            return "nothing changed"
        head = evidence.head if change in NEED_HEAD else None
        result = verify(lake, "all", public_keys=[evidence.public], head=head)
        if uses:
            use(lake, number)
        what = f"case {number}, {change.__name__} of {sorted(names)}"
        differences = [str(difference) for difference in result.differences]
        if differences:
            places = {place_of(name) for name in names} if change in OLDER_STATES else names
            assert is_named(places, differences), f"{what}: no difference names it: {differences}"
            return "found"
        is_evidence = not all(name.endswith(NO_EVIDENCE) for name in names)
        assert not is_evidence or is_named({place_of(name) for name in names}, result.notes), f"{what}: {result.notes}"
        assert read_headline(lake) == headline, f"{what}: another headline without a difference"
        return "harmless"
    finally:
        shutil.rmtree(lake)


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Counter[str]]:
    """Number of cases by outcome, printed when the tests end."""
    counts: Counter[str] = Counter()
    yield counts
    print(f"\nchanges of a lake: {counts.total()}; " + ", ".join(f"{key}: {n}" for key, n in sorted(counts.items())))


@pytest.mark.parametrize("part", range(PARTS))
def test_each_change_is_found_or_harmless(evidence, tmp_path, outcomes, part):
    headline = read_headline(evidence.lake)
    for number in range(part, CASES, PARTS):
        outcomes[check_case(evidence, tmp_path, number, headline, uses=number % 4 == 0)] += 1


@pytest.mark.slow
def test_each_of_many_changes_is_found_or_harmless(evidence, tmp_path, outcomes):
    headline = read_headline(evidence.lake)
    for number in range(ALL_CASES):
        outcomes[check_case(evidence, tmp_path, number, headline)] += 1


def test_an_older_copy_of_the_whole_lake_is_found_by_the_noted_head(evidence):
    for earlier in evidence.earlier:
        assert verify(earlier, "all", public_keys=[evidence.public]).is_intact
        result = verify(earlier, "all", public_keys=[evidence.public], head=evidence.head)
        assert [difference.file for difference in result.differences] == ["ledger/HEAD"]
