"""Region shares, slices, rules and explained findings, from rows with hand-computed results."""

import pytest

import sql
from tasks.alert import explain_findings as explain
from tasks.flag import flag
from tasks.settings import AlertsConfig
from tasks.store import corner_boxes


def compute_shares(run):
    with run.connect() as connection:
        rows = sql.rows(connection, "derive/region_shares", run_id=run.run_id)
    return {(row["pair_id"], row["region"]): row for row in rows}


def read_figures(row):
    return row["share"], row["area"], row["nats"]


@pytest.mark.parametrize(
    ("grid", "nats", "cases"),
    [
        (  # patches of a quarter: [[1, 2], [3, 4]]
            (2, 2),
            [1, 2, 3, 4],
            [
                ((0, 0, 0.5, 0.5), (0.1, 0.25, 1)),
                ((0.5, 0, 1, 0.5), (0.2, 0.25, 2)),
                ((0, 0.5, 0.5, 1), (0.3, 0.25, 3)),
                ((0, 0, 1, 1), (1, 1, 10)),
                ((0.25, 0, 0.5, 1), (0.2, 0.25, 2)),  # half of the left patches
                ((0.25, 0.25, 0.75, 0.75), (0.25, 0.25, 2.5)),  # a quarter of each patch
            ],
        ),
        (  # 2 rows of 3 patches, a sixth each: [[1, 2, 3], [4, 5, 6]]
            (2, 3),
            [1, 2, 3, 4, 5, 6],
            [
                ((0, 0, 1 / 3, 0.5), (1 / 21, 1 / 6, 1)),
                ((2 / 3, 0.5, 1, 1), (6 / 21, 1 / 6, 6)),
                ((0, 0.5, 1, 1), (15 / 21, 1 / 2, 15)),
                ((1 / 6, 0, 1 / 2, 1), (6 / 21, 1 / 3, 6)),  # half of the first column, half of the second
            ],
        ),
        ((1, 1), [7], [((0.1, 0.2, 0.3, 0.7), (0.1, 0.1, 0.7))]),
    ],
)
def test_a_share_is_that_of_the_patches_inside_the_box(hand_written_run, grid, nats, cases):
    hand_written_run.add_pairs(["a"])
    hand_written_run.add_attributions([nats], grid)
    hand_written_run.add_regions(*((f"box {number}", box) for number, (box, _) in enumerate(cases)))
    shares = compute_shares(hand_written_run)
    for number, (_, expected) in enumerate(cases):
        assert read_figures(shares["pair-0000", f"box {number}"]) == pytest.approx(expected)


def test_a_region_of_several_boxes_is_their_sum(hand_written_run):
    hand_written_run.add_pairs(["a"])
    hand_written_run.add_attributions([[1, 2, 3, 4]], (2, 2))
    hand_written_run.add_regions(
        ("diagonal", (0, 0, 0.5, 0.5)), ("diagonal", (0.5, 0.5, 1, 1)), ("other", (0, 0, 1, 0.5))
    )
    shares = compute_shares(hand_written_run)
    assert read_figures(shares["pair-0000", "diagonal"]) == pytest.approx((0.5, 0.5, 5))
    assert read_figures(shares["pair-0000", "other"]) == pytest.approx((0.3, 0.5, 3))
    assert len(shares) == 2


def test_boxes_of_one_pair_are_not_those_of_another(hand_written_run):
    hand_written_run.add_pairs(["a", "b"])
    hand_written_run.add_attributions([[1, 2, 3, 4], [4, 3, 2, 1]], (2, 2))
    hand_written_run.add_regions(("all", (0, 0, 0.5, 1)), ("own", (0, 0, 0.5, 0.5), "pair-0001"))
    shares = compute_shares(hand_written_run)
    assert {key: read_figures(row) for key, row in shares.items()} == {
        ("pair-0000", "all"): pytest.approx((0.4, 0.5, 4)),
        ("pair-0001", "all"): pytest.approx((0.6, 0.5, 6)),
        ("pair-0001", "own"): pytest.approx((0.4, 0.25, 4)),
    }


def test_empty_map_has_an_area_but_no_share(hand_written_run):
    hand_written_run.add_pairs(["a"])
    hand_written_run.add_attributions([[0, 0, 0, 0]], (2, 2))
    hand_written_run.add_regions(("box", (0, 0, 0.5, 0.5)))
    row = compute_shares(hand_written_run)["pair-0000", "box"]
    assert row["share"] is None
    assert (row["area"], row["nats"]) == (0.25, 0)


def test_finer_grid_of_the_same_map_has_the_same_shares(hand_written_run):
    hand_written_run.add_pairs(["a", "b"])
    hand_written_run.add_attributions([[1, 2, 3, 4]], (2, 2))
    coarse = [1, 2, 3, 4]
    fine = [coarse[(row // 2) * 2 + column // 2] / 4 for row in range(4) for column in range(4)]
    other = type(hand_written_run)(hand_written_run.lake, "other").begin()
    other.add_pairs(["a"])
    other.add_attributions([fine], (4, 4))
    box = ("box", (0.1, 0.2, 0.83, 0.61))
    hand_written_run.add_regions(box)
    other.add_regions(box)
    assert read_figures(compute_shares(hand_written_run)["pair-0000", "box"]) == pytest.approx(
        read_figures(compute_shares(other)["pair-0000", "box"])
    )


def test_another_run_of_the_lake_adds_nothing(hand_written_run):
    for run in (hand_written_run, type(hand_written_run)(hand_written_run.lake, "other").begin()):
        run.add_pairs(["a"])
        run.add_attributions([[1, 2, 3, 4]], (2, 2))
        run.add_regions(("box", (0, 0, 0.5, 0.5)))
    assert read_figures(compute_shares(hand_written_run)["pair-0000", "box"]) == pytest.approx((0.1, 0.25, 1))


def test_slices_are_the_corpus_the_words_and_the_attributes(hand_written_run):
    hand_written_run.add_pairs(
        ["A left, LEFT lobe's X-ray 2!", "Änderung: naïve"], [{"site": "a", "sex": "f"}, {"site": "b=c"}]
    )
    with hand_written_run.connect() as connection:
        rows = sql.read(connection, "SELECT pair_id, slice_kind, slice FROM pair_slices")
    slices = {
        pair: {(row["slice_kind"], row["slice"]) for row in rows if row["pair_id"] == pair}
        for pair in ("pair-0000", "pair-0001")
    }
    assert slices["pair-0000"] == {
        ("corpus", "all pairs"), *(("word", word) for word in ("a", "left", "lobe", "s", "x", "ray", "2")),
        ("attribute", "site=a"), ("attribute", "sex=f"),
    }  # fmt: skip
    assert slices["pair-0001"] == {
        ("corpus", "all pairs"), ("word", "änderung"), ("word", "naïve"), ("attribute", "site=b=c"),
    }  # fmt: skip
    assert len(rows) == len(slices["pair-0000"]) + len(slices["pair-0001"])  # a repeated word counts once


def test_tokens_are_numbered_from_one_with_their_share_of_the_map(hand_written_run):
    hand_written_run.add_pairs(["a", "b"])
    hand_written_run.add_attributions([[1], [1]], (1, 1))
    with hand_written_run.connect() as connection:
        rows = sql.read(connection, "SELECT * FROM tokens WHERE pair_id = 'pair-0001' ORDER BY position")
    assert [(row["position"], row["token"], row["special"], row["nats"]) for row in rows] == [
        (1, "<start>", True, 0.0),
        (2, "a", False, 2.0),
        (3, "<end>", True, 1.0),
    ]
    assert [row["share"] for row in rows] == pytest.approx([0, 2 / 3, 1 / 3])


def test_tokens_of_an_empty_text_map_have_no_share(hand_written_run):
    hand_written_run.add_pairs(["a"])
    hand_written_run.add_attributions([[1]], (1, 1), text_map=[0.0, 0.0, 0.0], text_nats=0.0)
    with hand_written_run.connect() as connection:
        assert sql.read(connection, "SELECT DISTINCT share FROM tokens") == [{"share": None}]


def test_the_strongest_pairs_have_the_most_nats_in_the_region(hand_written_run):
    hand_written_run.add_pairs(["x"] * 4 + ["y"])
    hand_written_run.add_shares("corner", [0.1, 0.4, None, 0.3, 0.9])
    finding = {"rule": "region_mass", "region": "corner", "slice_kind": "word", "slice": "x"}
    hand_written_run.write_table("findings", [finding])
    with hand_written_run.connect() as connection:
        rows = sql.rows(connection, "derive/strongest_pairs", limit=2, run_id=hand_written_run.run_id)
    assert [row["pair_ids"] for row in rows] == [["pair-0001", "pair-0003"]]


def find_slices(run, factor=2.0, min_pairs=1):
    with run.connect() as connection:
        rows = sql.rows(connection, "rules/region_mass", run_id=run.run_id, factor=factor, min_pairs=min_pairs)
    return {(row["slice_kind"], row["slice"]): row for row in rows}


def test_a_slice_is_found_from_the_factor_on(hand_written_run):
    # Powers of two, so that the threshold itself is met exactly: share / area = 2.
    hand_written_run.add_pairs(["just", "just", "under", "over"])
    hand_written_run.add_shares("corner", [0.25, 0.25, 0.2499, 0.375], area=0.125)
    findings = find_slices(hand_written_run)
    assert {slice_name for kind, slice_name in findings if kind == "word"} == {"just", "over"}
    assert findings["word", "just"]["effect"] == 2
    assert findings["word", "over"]["effect"] == 3
    assert ("word", "just") not in find_slices(hand_written_run, factor=2.001)


def test_a_slice_is_found_from_the_smallest_size_on(hand_written_run):
    hand_written_run.add_pairs(["one"] + ["two"] * 2 + ["three"] * 3)
    hand_written_run.add_shares("corner", [0.5] * 6)
    for size, expected in ((1, {"one", "two", "three"}), (2, {"two", "three"}), (3, {"three"}), (4, set())):
        findings = find_slices(hand_written_run, min_pairs=size)
        assert {slice_name for kind, slice_name in findings if kind == "word"} == expected
    assert ("corpus", "all pairs") in find_slices(hand_written_run, min_pairs=6)
    assert find_slices(hand_written_run, min_pairs=7) == {}


def test_the_corpus_words_and_attributes_are_slices(hand_written_run):
    hand_written_run.add_pairs(
        ["bad", "bad", "good", "good"], [{"site": "a"}, {"site": "b"}, {"site": "a"}, {"site": "b"}]
    )
    hand_written_run.add_shares("corner", [0.9, 0.5, 0.1, 0.1])
    findings = find_slices(hand_written_run)
    # corpus: 1.6 / 4; bad: 1.4 / 2; good: 0.1; site a: 1.0 / 2; site b: 0.6 / 2; each over an area of 0.1
    assert {key: pytest.approx(row["effect"]) for key, row in findings.items()} == {
        ("word", "bad"): 7,
        ("attribute", "site=a"): 5,
        ("corpus", "all pairs"): 4,
        ("attribute", "site=b"): 3,
    }
    assert [row["effect"] for row in findings.values()] == sorted(
        (r["effect"] for r in findings.values()), reverse=True
    )
    assert mean_figures(findings["word", "bad"]) == (2, pytest.approx(0.7), pytest.approx(0.1))


def mean_figures(row):
    return row["n"], row["share"], row["area"]


def test_pairs_without_a_map_or_without_the_region_are_not_counted(hand_written_run):
    hand_written_run.add_pairs(["x", "x", "x", "x"])
    hand_written_run.add_shares("corner", [0.4, None, 0.6])  # the second's map is empty, the fourth has no such region
    assert mean_figures(find_slices(hand_written_run)["word", "x"]) == (2, pytest.approx(0.5), pytest.approx(0.1))


def test_the_effect_is_that_of_the_means(hand_written_run):
    """Regions that differ from pair to pair: mean share over mean area, not the mean of the ratios."""
    hand_written_run.add_pairs(["x", "x"])
    rows = [
        {"pair_id": f"pair-000{number}", "side": "image", "region": "tag", "share": share, "area": area, "nats": 1.0}
        for number, (share, area) in enumerate([(0.6, 0.5), (0.2, 0.05)])
    ]
    hand_written_run.write_table("region_shares", rows)
    assert find_slices(hand_written_run, factor=1.0)["word", "x"]["effect"] == pytest.approx(0.4 / 0.275)


def test_other_runs_do_not_count(hand_written_run):
    other = type(hand_written_run)(hand_written_run.lake, "other").begin()
    other.add_pairs(["x"])
    other.add_shares("corner", [0.9])
    hand_written_run.add_pairs(["x"])
    hand_written_run.add_shares("corner", [0.1])
    assert find_slices(hand_written_run) == {}
    assert find_slices(other)


def explain_findings(run, factor=2.0, min_pairs=2):
    """Store the findings of the rule, and return the slice that explains each one."""
    thresholds = {"run_id": run.run_id, "factor": factor, "min_pairs": min_pairs}
    with run.connect() as connection:
        findings = sql.rows(connection, "rules/region_mass", **thresholds)
    run.write_table("findings", [{**row, "rule": "region_mass"} for row in findings])
    with run.connect() as connection:
        rows = explain(connection, run.run_id, AlertsConfig(factor=factor, min_pairs=min_pairs))
    assert len(rows) == len(findings)
    return {row["slice"]: row["explained_by"] for row in rows}


def test_weaker_slice_of_the_same_pairs_is_explained(hand_written_run):
    # `portable` holds the strong pairs and others that are harmless; so does the corpus.
    hand_written_run.add_pairs(["sick portable"] * 4 + ["portable"] * 4 + ["well"] * 2)
    hand_written_run.add_shares("corner", [0.9] * 4 + [0.1] * 6)
    assert explain_findings(hand_written_run) == {"sick": None, "portable": "sick", "all pairs": "sick"}


def test_an_unrelated_slice_is_independent(hand_written_run):
    hand_written_run.add_pairs(["sick"] * 4 + ["other"] * 4 + ["well"] * 12)
    hand_written_run.add_shares("corner", [0.9] * 4 + [0.5] * 4 + [0.0] * 12)
    explanations = explain_findings(hand_written_run)
    assert (explanations["sick"], explanations["other"]) == (None, None)
    # Without the sick, the corpus is 2 / 16 = 0.125: below the factor.
    assert explanations["all pairs"] == "sick"


def test_a_slice_that_would_be_found_without_the_stronger_one_is_independent(hand_written_run):
    hand_written_run.add_pairs(["sick both"] * 4 + ["both"] * 4)
    hand_written_run.add_shares("corner", [0.9] * 4 + [0.5] * 4)
    explanations = explain_findings(hand_written_run)
    assert explanations == {"sick": None, "both": "all pairs", "all pairs": None}  # the same pairs


@pytest.mark.parametrize(("rest", "expected"), [(1, "sick"), (2, None)])
def test_too_few_pairs_outside_the_stronger_slice_make_it_explained(hand_written_run, rest, expected):
    hand_written_run.add_pairs(["sick the"] * 4 + ["the"] * rest + ["well"] * 40)
    hand_written_run.add_shares("corner", [0.9] * 4 + [0.5] * rest + [0.0] * 40)
    assert explain_findings(hand_written_run, min_pairs=2)["the"] == expected


def test_two_names_for_the_same_pairs_leave_one_alert(hand_written_run):
    """If all figures are equal, the choice of the independent one is deterministic."""
    hand_written_run.add_pairs(["pleural effusion"] * 3 + ["well"] * 20)
    hand_written_run.add_shares("corner", [0.9] * 3 + [0.0] * 20)
    assert explain_findings(hand_written_run) == {"effusion": None, "pleural": "effusion"}


def test_of_two_equal_effects_the_larger_slice_is_independent(hand_written_run):
    hand_written_run.add_pairs(["common rare"] * 2 + ["common"] * 2 + ["well"] * 30)
    hand_written_run.add_shares("corner", [0.5] * 4 + [0.0] * 30)
    assert explain_findings(hand_written_run) == {"common": None, "rare": "common"}


def test_findings_of_another_region_explain_nothing(hand_written_run):
    hand_written_run.add_pairs(["sick"] * 4 + ["sick other"] * 4)
    rows = [
        {"pair_id": f"pair-000{n}", "side": "image", "region": region, "share": share, "area": 0.1, "nats": 1.0}
        for region, share in (("left", 0.9), ("right", 0.5))
        for n in range(8)
    ]
    hand_written_run.write_table("region_shares", rows)
    explain_findings(hand_written_run)
    with hand_written_run.connect() as connection:
        alone = [
            (row["region"], row["slice"])
            for row in explain(connection, hand_written_run.run_id, AlertsConfig(factor=2.0, min_pairs=2))
            if row["explained_by"] is None
        ]
    assert sorted(region for region, _ in alone) == ["left", "right"]


def test_the_strongest_explanation_is_named(hand_written_run):
    hand_written_run.add_pairs(["worst by all"] * 3 + ["by all"] + ["all"] * 8)
    hand_written_run.add_shares("corner", [1.0] * 3 + [0.3] + [0.0] * 8)
    explanations = explain_findings(hand_written_run)
    assert explanations["by"] == "worst"
    assert explanations["all"] == "worst"


def flag_hottest_corner(run, maps, captions, min_pairs=4, **rules):
    """Return the findings of the rule hottest_corner, for corners of a sixteenth of 4 x 4 patches."""
    run.add_pairs(captions)
    run.add_attributions(maps, (4, 4))
    run.write_table(
        "regions",
        [
            {"region": name, "kind": "corner", **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))}
            for name, box in corner_boxes(0.25).items()
        ],
    )
    for _ in range(2):  # a repeated stage has the same result
        flag.fn(run, AlertsConfig(factor=2.0, min_pairs=min_pairs, examples=1, **rules), {})
    with run.connect() as connection:
        return sql.read(connection, "FROM findings WHERE rule = 'hottest_corner' ORDER BY effect DESC")


def make_map(*corners, nats=6.0):
    """Return a map of ones, with `nats` in some corners: 0 top-left, 1 top-right, 2 bottom-left, 3 bottom-right."""
    image_map = [1.0] * 16
    for corner in corners:
        image_map[(0, 3, 12, 15)[corner]] = nats
    return image_map


def test_mass_in_different_corners_is_found_although_no_corner_is(hand_written_run):
    # 6 of 21 nats in one corner, 1 of 21 in the others: each corner holds (6 + 3) / 84 of the sick, 1.7 times its area.
    maps = [make_map(number % 4) for number in range(8)] + [make_map()] * 8
    (finding,) = flag_hottest_corner(hand_written_run, maps, ["sick"] * 8 + ["well"] * 8, min_pairs=5)
    assert (finding["region"], finding["slice"], finding["n"]) == ("hottest corner", "sick", 8)
    assert (finding["share"], finding["area"]) == (pytest.approx(6 / 21), 1 / 16)
    with hand_written_run.connect() as connection:
        boxes = sql.read(connection, "SELECT pair_id, x0, y0 FROM regions WHERE kind = 'hottest' ORDER BY pair_id")
        others = sql.read(connection, "SELECT count(*) AS n FROM findings WHERE rule = 'region_mass'")
    assert [(box["x0"], box["y0"]) for box in boxes[:4]] == [(0, 0), (0.75, 0), (0, 0.75), (0.75, 0.75)]
    assert (len(boxes), others) == (16, [{"n": 0}])


def test_a_maximum_that_all_pairs_have_is_not_found(hand_written_run):
    """Noise has a hottest corner, too: its share is 4.6 times its area in the slice and outside it."""
    maps = [make_map(number % 4) for number in range(16)]
    assert flag_hottest_corner(hand_written_run, maps, ["sick"] * 8 + ["well"] * 8) == []


@pytest.mark.parametrize(("rest", "found"), [(3, 0), (4, 1)])
def test_the_hottest_corner_needs_enough_other_pairs(hand_written_run, rest, found):
    maps = [make_map(number % 4) for number in range(8)] + [make_map()] * rest
    assert len(flag_hottest_corner(hand_written_run, maps, ["sick"] * 8 + ["well"] * rest)) == found


def test_a_corner_that_is_found_by_itself_is_not_found_again(hand_written_run):
    maps = [make_map(0)] * 8 + [make_map()] * 8
    assert flag_hottest_corner(hand_written_run, maps, ["sick"] * 8 + ["well"] * 8) == []
    with hand_written_run.connect() as connection:
        rows = sql.read(connection, "SELECT DISTINCT region FROM findings")
        boxes = sql.read(connection, "SELECT DISTINCT x0, y0 FROM regions WHERE kind = 'hottest'")
    assert rows == [{"region": "corner top-left"}]
    assert {"x0": 0.0, "y0": 0.0} not in boxes


def find_contrasts(run, region, shares, captions, area=0.19):
    """Return the effects of the findings of the rule region_contrast, by slice."""
    run.add_pairs(captions)
    run.add_attributions([[1.0]] * len(captions), (1, 1))
    run.add_shares(region, shares, area)
    with run.connect() as connection:
        rows = sql.rows(connection, "rules/region_contrast", run_id=run.run_id, factor=2.0, min_pairs=4)
    return {row["slice"]: row["effect"] for row in rows}


HALVES = ["sick"] * 4 + ["well"] * 6


def test_a_frame_that_cannot_reach_the_factor_is_compared_with_the_other_pairs(hand_written_run):
    effects = find_contrasts(hand_written_run, "frame", [0.27] * 4 + [0.09] * 6, HALVES)
    assert effects == {"sick": pytest.approx(3)}


@pytest.mark.parametrize(
    ("shares", "why"),
    [
        ([0.18] * 4 + [0.01] * 6, "no more than its area"),
        ([0.27] * 4 + [0.14] * 6, "not twice as much"),
        ([0.39] * 4 + [0.09] * 6, "twice its area: left to region_mass"),
    ],
)
def test_a_frame_is_not_proposed_for(hand_written_run, shares, why):
    assert find_contrasts(hand_written_run, "frame", shares, HALVES) == {}, why


def test_the_outside_of_an_object_is_compared_even_if_it_holds_less_than_its_area(hand_written_run):
    shares = [0.3] * 4 + [0.1] * 6
    assert find_contrasts(hand_written_run, "outside lung", shares, HALVES, area=0.6) == {"sick": pytest.approx(3)}
    finding = {"rule": "region_contrast", "side": "image", "slice_kind": "word", "slice": "sick", "n": 4, "effect": 3.0}
    finding |= {"region": "outside lung", "area": 0.6}
    rows = []
    for share in (0.3, 0.7):  # what no test confirmed is suspected only if attribution concentrates there
        hand_written_run.write_table("findings", [finding | {"share": share}])
        with hand_written_run.connect() as connection:
            rows.append(explain(connection, hand_written_run.run_id, AlertsConfig(factor=2.0, min_pairs=4)))
    assert [len(each) for each in rows] == [0, 1]


def test_a_contrast_needs_enough_other_pairs(hand_written_run):
    assert find_contrasts(hand_written_run, "frame", [0.27] * 7 + [0.09] * 3, ["sick"] * 7 + ["well"] * 3) == {}


def test_a_large_region_is_compared_with_the_other_pairs_and_a_small_one_is_not(hand_written_run, lake):
    assert find_contrasts(hand_written_run, "box", [0.45] * 4 + [0.15] * 6, HALVES, area=0.25) == {
        "sick": pytest.approx(3)
    }
    other = type(hand_written_run)(lake, "other").begin()
    assert find_contrasts(other, "box", [0.45] * 4 + [0.15] * 6, HALVES, area=0.24) == {}


def find_costs(run, drops, captions, area=0.19, share=0.05, min_pairs=4):
    """Return the effects of the findings of the rule region_cost, by slice, for a margin of 0.5."""
    run.add_pairs(captions)
    run.add_attributions([[1.0]] * len(captions), (1, 1))
    run.add_shares("frame", [share] * len(captions), area)
    looked = [{"pair_id": f"pair-{n:04d}", "region": "frame", "margin": 0.5, "drop": d} for n, d in enumerate(drops)]
    run.write_table("screenings", looked)
    with run.connect() as connection:
        rows = sql.rows(connection, "rules/region_cost", run_id=run.run_id, factor=2.0, min_pairs=min_pairs)
    return {row["slice"]: row["effect"] for row in rows}


def test_a_region_that_costs_a_slice_more_than_other_pairs_is_proposed_whatever_its_mass(hand_written_run):
    assert find_costs(hand_written_run, [0.3] * 4 + [0.1] * 6, HALVES) == {
        "sick": pytest.approx(0.6),
        "all pairs": pytest.approx(0.36),  # there are no other pairs
    }


@pytest.mark.parametrize(
    ("drops", "given", "why"),
    [
        ([0.12] * 4 + [0.07] * 6, {}, "not twice what it costs the others"),
        ([0.045] * 4 + [-0.1] * 6, {}, "less than a tenth of the margin"),
        ([0.3] * 4 + [0.1] * 6, {"share": 0.4}, "left to region_mass"),
        ([0.3] * 4 + [0.1] * 6, {"min_pairs": 5}, "too few pairs"),
        ([0.3] * 4, {}, "no other pair was looked at"),
    ],
)
def test_a_region_is_not_proposed_by_its_cost_where(hand_written_run, drops, given, why):
    assert "sick" not in find_costs(hand_written_run, drops, HALVES, **given), why


@pytest.mark.parametrize(
    ("kind", "drops", "expected"),
    [
        ("recurrent", [-0.1] * 4 + [-0.04] * 6, {"sick": 0.2, "all pairs": 0.128}),
        ("recurrent", [-0.1] * 4 + [0.3] * 6, {"sick": 0.2}),
        ("recurrent", [-0.1] * 4, {"sick": 0.2, "all pairs": 0.2}),  # nothing to compare with
        ("recurrent", [-0.1] * 4 + [-0.06] * 6, {"all pairs": 0.152}),
        ("recurrent", [-0.049] * 4, {}),
        ("corner", [-0.1] * 4, {}),
    ],
)
def test_a_mark_whose_cover_raises_the_margin_is_proposed_as_lowering_it(hand_written_run, kind, drops, expected):
    find_costs(hand_written_run, drops, HALVES)
    hand_written_run.add_regions(("frame", (0, 0, 1, 0.19)), kind=kind)
    with hand_written_run.connect() as connection:
        chosen = {"run_id": hand_written_run.run_id, "factor": 2.0, "min_pairs": 4}
        rows = sql.rows(connection, "rules/region_gain", **chosen)
    assert {row["slice"]: row["effect"] for row in rows} == pytest.approx(expected)
    assert {row["direction"] for row in rows} <= {"lowers"}


@pytest.mark.parametrize(
    ("marked", "kind", "expected"),
    [
        # 7 of 8 lack it in the slice, 4 of 16 elsewhere.
        ([*range(7, 8), *range(8, 20)], "recurrent", {"sick": (7, 7 / 8 / (4.5 / 16.5))}),
        ([*range(7, 8), *range(8, 20)], "corner", {}),
        ([*range(7, 8), *range(8, 15)], "recurrent", {}),  # as often as not elsewhere
        ([*range(8, 11)], "recurrent", {}),  # too few others have it
    ],
)
def test_the_absence_of_a_mark_that_most_others_have_is_proposed(hand_written_run, marked, kind, expected):
    hand_written_run.add_pairs(["sick"] * 8 + ["well"] * 16)
    hand_written_run.add_attributions([[2.0]] * 24, (1, 1))
    hand_written_run.add_regions(*(("stamp 1", (0, 0, 0.5, 0.5), f"pair-{n:04d}") for n in marked), kind=kind)
    rows = [{"pair_id": f"pair-{n:04d}", "region": "stamp 1", "share": 0.2, "area": 0.25, "nats": 1.0} for n in marked]
    hand_written_run.write_table("region_shares", [row | {"side": "image"} for row in rows])
    with hand_written_run.connect() as connection:
        chosen = {"run_id": hand_written_run.run_id, "factor": 2.0, "min_pairs": 4}
        found = sql.rows(connection, "rules/overlay_absence", **chosen)
        about = {"run_id": hand_written_run.run_id, "regions": ["absence of stamp 1", "image-wide color"]}
        shares = sql.rows(connection, "derive/shares_without_boxes", **about)
    assert {row["slice"]: (row["n"], pytest.approx(row["effect"])) for row in found} == expected
    assert {(row["region"], row["direction"], row["area"]) for row in found} <= {("absence of stamp 1", "lowers", 0.25)}
    absent = {row["pair_id"]: (row["share"], row["area"]) for row in shares if row["region"] == "absence of stamp 1"}
    assert absent == {f"pair-{n:04d}": (0, 0.25) for n in range(24) if n not in marked}
    assert [(row["share"], row["nats"]) for row in shares if row["region"] == "image-wide color"] == [(1, 2)] * 24


def find_image_wide(run, values, min_pairs=4, captions=("sick",) * 4 + ("well",) * 8):
    run.add_pairs(captions)
    run.add_attributions([[1.0]] * len(captions), (1, 1))
    statistics = [("color", "warmth", value) for value in values] + [("color", "green", 0.0)] * len(values)
    rows = [
        {"pair_id": f"pair-{number % len(values):04d}", "property": name, "statistic": statistic, "value": value}
        for number, (name, statistic, value) in enumerate(statistics)
    ]
    run.write_table("image_statistics", rows)
    with run.connect() as connection:
        found = sql.rows(connection, "rules/image_wide", run_id=run.run_id, factor=2.0, min_pairs=min_pairs)
    return {(row["region"], row["slice"]): row["effect"] for row in found}


def test_slices_whose_images_differ_as_a_whole_are_proposed(hand_written_run):
    # Both have a standard deviation of 1 around their means, as sums of squares: 4 and 8, over 10 degrees of freedom.
    found = find_image_wide(hand_written_run, [2, 4, 2, 4] + [1, -1] * 4)
    difference = 3 / (12 / 10) ** 0.5
    assert found.pop(("image-wide color", "sick")) == pytest.approx(difference, abs=1e-5)
    # The other slice has twice $min_pairs, so that half of its units propose.
    assert [*found] == [("image-wide color", "well")]
    assert found["image-wide color", "well"] == pytest.approx(difference, abs=0.5)


@pytest.mark.parametrize(
    ("values", "given"),
    [([0.8, 2.8, -1.2, 0.8] + [1, -1] * 4, {}), ([2, 4, 2, 4] + [1, -1] * 4, {"min_pairs": 5}), ([1.0] * 12, {})],
)
def test_slices_whose_images_hardly_differ_or_are_few_are_not_proposed(hand_written_run, values, given):
    assert find_image_wide(hand_written_run, values, **given) == {}


@pytest.mark.parametrize(("others", "proposed"), [(3, True), (4, False)])
def test_a_region_that_few_other_pairs_have_is_proposed_by_its_cost_and_frequency(hand_written_run, others, proposed):
    """Half of the sick pairs have it, and `others` of 16 other pairs: too few to compare what covering it costs."""
    hand_written_run.add_pairs(["sick"] * 8 + ["well"] * 16)
    hand_written_run.add_attributions([[1.0]] * 24, (1, 1))
    pairs = [f"pair-{number:04d}" for number in (*range(4), *range(8, 8 + others))]
    shares = [{"pair_id": pair_id, "region": "stamp 1", "share": 0.1, "area": 0.1, "nats": 1.0} for pair_id in pairs]
    hand_written_run.write_table("region_shares", [row | {"side": "image"} for row in shares])
    costs = [{"pair_id": pair_id, "region": "stamp 1", "margin": 0.5, "drop": 0.3} for pair_id in pairs]
    hand_written_run.write_table("screenings", costs)
    with hand_written_run.connect() as connection:
        chosen = {"run_id": hand_written_run.run_id, "factor": 1.7, "min_pairs": 4}
        findings = sql.rows(connection, "rules/region_cost", **chosen)
    # 1/2 of the slice against 7/24 or 8/24 of all pairs
    expected = [("all pairs", 4 + others, 0.6)] + [("sick", 4, 0.6)] * proposed
    assert [(row["slice"], row["n"], pytest.approx(row["effect"])) for row in findings] == expected


def test_a_region_that_was_screened_is_not_compared(hand_written_run):
    find_costs(hand_written_run, [0.0] * 10, HALVES)
    hand_written_run.add_shares("frame", [0.27] * 4 + [0.09] * 6, 0.19)
    with hand_written_run.connect() as connection:
        assert (
            sql.rows(connection, "rules/region_contrast", run_id=hand_written_run.run_id, factor=2.0, min_pairs=4) == []
        )


def test_an_empty_map_has_no_hottest_corner(hand_written_run):
    maps = [[0.0] * 16] + [make_map(number % 4) for number in range(8)] + [make_map()] * 8
    (finding,) = flag_hottest_corner(hand_written_run, maps, ["sick"] * 9 + ["well"] * 8)
    assert finding["n"] == 8


def test_no_findings_give_no_rows(hand_written_run):
    hand_written_run.add_pairs(["x"])
    hand_written_run.add_shares("corner", [0.0])
    assert explain_findings(hand_written_run) == {}


def test_a_large_overlay_is_found_by_its_frequency(hand_written_run):
    hand_written_run.add_pairs(["bad"] * 4 + ["good"] * 12)
    hand_written_run.add_attributions([[1.0]] * 16, (1, 1))
    shares = [{"pair_id": f"pair-{n:04d}", "share": 0.3, "area": 0.25, "nats": 3.0} for n in range(3)]  # of "bad" alone
    stamped = [row | {"region": f"stamp {s}", "side": "image"} for s in (1, 2) for row in shares]
    hand_written_run.write_table("region_shares", stamped)
    hand_written_run.write_table("stamps", [{"region": f"stamp {s}", "area": 0.6, "spread": s == 1} for s in (1, 2)])
    with hand_written_run.connect() as connection:
        chosen = {"run_id": hand_written_run.run_id, "factor": 2.0}
        findings = sql.rows(connection, "rules/spread_stamp", **chosen, min_pairs=3)
        assert sql.rows(connection, "rules/spread_stamp", **chosen, min_pairs=4) == []
    # 3 of 4 against 3 of 16
    assert [(row["region"], row["slice"], row["n"], row["effect"]) for row in findings] == [("stamp 1", "bad", 3, 4)]


def test_the_frequency_of_an_overlay_that_was_screened_is_left_to_its_cost(hand_written_run):
    test_a_large_overlay_is_found_by_its_frequency(hand_written_run)
    costs = [{"pair_id": f"pair-{n:04d}", "region": "stamp 1", "margin": 0.5, "drop": 0.0} for n in range(3)]
    hand_written_run.write_table("screenings", costs)
    with hand_written_run.connect() as connection:
        chosen = {"run_id": hand_written_run.run_id, "factor": 2.0, "min_pairs": 3}
        assert sql.rows(connection, "rules/spread_stamp", **chosen) == []


@pytest.mark.parametrize(("common", "expected"), [(1, None), (3, "horse")])
def test_a_finding_of_other_rules_is_explained_only_if_too_few_pairs_remain(hand_written_run, common, expected):
    """Mass over area of the remaining pairs does not tell whether such a rule would still propose them."""
    both = ["horse castle"] * common
    hand_written_run.add_pairs([*both, *["horse"] * (5 - common), *["castle"] * (4 - common), *["well"] * 20])
    hand_written_run.add_shares("stamp 1", [0.14] * (9 - common) + [0.0] * 20, area=0.12)
    about = {"rule": "spread_stamp", "side": "image", "region": "stamp 1", "slice_kind": "word"}
    figures = {"share": 0.14, "area": 0.12}
    hand_written_run.write_table(
        "findings",
        [
            {**about, **figures, "slice": "horse", "n": 5, "effect": 2.5},
            {**about, **figures, "slice": "castle", "n": 4, "effect": 2.4},
        ],
    )
    with hand_written_run.connect() as connection:
        rows = explain(connection, hand_written_run.run_id, AlertsConfig(factor=2.0, min_pairs=2))
    assert {row["slice"]: row["explained_by"] for row in rows} == {"horse": None, "castle": expected}
