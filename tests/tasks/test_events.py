"""Events: untrusted text is sanitized, and an event that is sent again has the same id."""

import json
from datetime import UTC, datetime

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from prefect.utilities.templating import find_placeholders

from review.presentation.formatting import format_alert_update
from tasks.messages import (
    MAX_DIGEST_LINES,
    Links,
    build_alert_event,
    build_digest_event,
    build_failed_start_event,
    build_run_event,
    sanitize,
    select_notifiable,
)

RECORD = {
    "run_id": "r1", "corpus": "/data/{{ x }}", "model": "ViT-B-32/laion", "status": "failed", "reason": "it broke",
    "counts": {"pairs": 9, "attributions": 8, "alerts": 0},
}  # fmt: skip
LINKS = Links("")
TIME = datetime(2026, 1, 1, tzinfo=UTC)
ROW = {
    "run_id": "r1", "life_id": "abc", "alert_id": "r1-0", "life": "new", "why": None, "announced": True, "raised": True,
    "state": "confirmed", "severity": "high", "rule": "region_mass", "side": "image", "region": "corner top-left",
    "slice_kind": "word", "slice": "horse", "explained_by": None, "n": 48, "share": 0.3, "area": 0.05, "effect": 6.0,
    "score_effect": 0.41, "score_low": 0.3, "score_high": 0.5, "margin": 0.62, "effect_before": None,
    "score_effect_before": None, "rank": 1, "first_run": "r1", "last_run": "r1", "runs": 1, "previous_run": None,
    "first_seen": TIME, "last_seen": TIME,
}  # fmt: skip
UNTRUSTED = [
    "{{ token }}", "{{{token}}}", "{%raw%}", "{# c #}", "{{\u200btoken}}", "{\u200b{ token }\u200b}",
    "a\nb\r\nc\x00\x1b[31m",
    "<!channel>", "<http://evil|click>", "[click](http://evil)", "@everyone", "`rm -rf`", "a|b", "\u202eabc", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("text", UNTRUSTED)
def test_untrusted_text_has_no_templates_links_or_mentions(text):
    sanitized = sanitize(f"x {text} y")
    assert not find_placeholders(sanitized)
    assert not set(sanitized) & set("<>@`|\n\r\x00\x1b\u200b\u202e")
    assert not [markup for markup in ("{{", "}}", "{%", "%}", "{#", "#}", "](", "://") if markup in sanitized]
    assert sanitize(sanitized) == sanitized
    sanitized.encode()


def test_ordinary_text_is_unchanged_and_long_text_is_truncated():
    assert sanitize("site=Köln (north), 10 % {a}") == "site=Köln (north), 10 % {a}"
    assert sanitize("x" * 500) == "x" * 159 + "…"


@pytest.mark.parametrize("text", UNTRUSTED[:-1])
@pytest.mark.parametrize("field", ["region", "slice"])
def test_payload_has_exact_names_and_a_sanitized_text(text, field):
    payload = build_alert_event({**ROW, field: text}, RECORD, Links("/lake/report.html")).payload
    assert json.loads(json.dumps(payload))[field] == text
    template = ImmutableSandboxedEnvironment().from_string('{"text": {{ payload.text | tojson }}}')
    assert json.loads(template.render(payload=payload)) == {"text": payload["text"]}
    assert not find_placeholders(payload["text"])


def test_text_of_an_event_equals_the_alert_update():
    assert build_alert_event(ROW, RECORD, LINKS).payload["text"] == format_alert_update(ROW)
    assert "‹b›" in build_alert_event(ROW | {"slice": "<b>"}, RECORD, LINKS).payload["text"]


def test_automations_can_match_on_labels():
    event = build_alert_event(ROW | {"life": "still_firing"}, RECORD, LINKS)
    assert event.event == "m2ib.alert.still-firing"
    assert {key: event.resource[key] for key in event.resource if key.startswith("m2ib.")} == {
        "m2ib.run": "r1", "m2ib.state": "confirmed", "m2ib.severity": "high", "m2ib.side": "image",
    }  # fmt: skip
    assert all(
        isinstance(value, str) for value in build_alert_event(ROW | {"severity": None}, RECORD, LINKS).resource.values()
    )


def test_event_ids_are_stable_and_unique():
    others = [ROW, ROW | {"run_id": "r2"}, ROW | {"life": "worse"}, ROW | {"life_id": "x"}]
    ids = [build_alert_event(row, RECORD, LINKS).event_id for row in others]
    ids += [
        build_run_event(RECORD | facts, LINKS).event_id for facts in ({}, {"reason": "else"}, {"status": "stopped"})
    ]
    assert len(set(ids)) == len(ids)
    assert build_alert_event(dict(ROW), RECORD, Links("elsewhere")).event_id == ids[0]
    assert build_run_event({**RECORD}, LINKS).event_id == ids[4]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"explained_by": "dog"}, False),
        ({"raised": False}, False),
        ({"life": "resolved", "raised": False}, False),
        ({"life": "resolved"}, True),
        ({"life": "resolved", "announced": False}, False),
        ({"life": "resolved", "explained_by": "dog"}, True),  # it was independent before
    ],
)
def test_an_explained_alert_is_not_notifiable(change, expected):
    assert bool(select_notifiable([ROW | change])) == expected


def test_messages_follow_the_rank_of_alerts_as_reports_do():
    rows = [ROW | {"life_id": "b", "rank": 2, "effect": 9.0}, ROW | {"life_id": "a", "rank": 1, "effect": 2.0}]
    gone = [ROW | {"life_id": "c", "life": "resolved", "rank": None}]
    assert [row["life_id"] for row in select_notifiable([*gone, *rows])] == ["a", "b", "c"]


def test_a_digest_counts_all_and_describes_the_most_urgent():
    rows = [ROW | {"life_id": str(number), "life": "still_firing"} for number in range(MAX_DIGEST_LINES)]
    digest = build_digest_event(select_notifiable([*rows, ROW]), RECORD, Links("/report"))
    assert digest.payload["counts"] == {
        "new": 1,
        "worse": 0,
        "still_firing": MAX_DIGEST_LINES,
        "not_seen": 0,
        "resolved": 0,
    }
    assert digest.payload["lines"][0].startswith("NEW")
    assert digest.payload["lines"][-1] == "and 1 more, see the report"
    assert digest.payload["text"].startswith(
        f"1 new, 0 worse, {MAX_DIGEST_LINES} still firing, 0 not seen, 0 resolved\nNEW"
    )


def test_the_event_of_a_run_has_its_reason():
    event = build_run_event(RECORD | {"status": "completed_with_errors", "reason": "shard {{ 1 }}"}, Links("/report"))
    assert event.event == "m2ib.audit.completed-with-errors"
    assert event.payload["text"] == ("run r1 completed with errors: 8 of 9 pairs attributed, 0 alerts; shard { { 1 } }")
    assert event.payload["reason"] == "shard {{ 1 }}"
    assert (
        build_run_event(RECORD | {"status": "running"}, LINKS).event == "m2ib.audit.failed"
    )  # its end could not be stored
    failed_start = build_failed_start_event({"corpus": "s3://b/c/", "model": "m"}, "no such bucket")
    assert (failed_start.event, failed_start.resource["prefect.resource.name"]) == ("m2ib.audit.failed", "c with m")
