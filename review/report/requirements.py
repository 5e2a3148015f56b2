"""What laws and frameworks ask, in our own words, and where a report answers it: no legal advice.

Article and paragraph numbers were read in secondary sources; whoever relies on a row checks the text itself.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Ask:
    """One requirement: where it stands, what it asks, which chapters of the report answer it, and what is left."""

    source: str
    asked: str
    chapters: tuple[str, ...]
    left: str


EU: Final = "EU AI Act (Regulation 2024/1689)"
NIST: Final = "NIST AI RMF 1.0, Measure"
CFR: Final = "21 CFR Part 11"

ASKED: Final[dict[str, tuple[Ask, ...]]] = {
    EU: (
        Ask(
            "Annex IV, 2(d)",
            "Where the data come from, what they cover, and their main characteristics.",
            ("scope", "gates"),
            "The corpus of this audit only: not the data that the model was trained on, nor how they were collected or"
            " labelled.",
        ),
        Ask(
            "Annex IV, 2(e); Art. 14",
            "How people can oversee the system and understand what it puts out.",
            ("alerts", "decisions"),
            "Who looked at this audit, and what they decided. Not how the system is overseen where it is used.",
        ),
        Ask(
            "Annex IV, 2(g)",
            "How it was tested and by which measures; logs and reports of the tests, dated and signed by those"
            " responsible.",
            ("fixed", "alerts", "self-audit", "decisions", "provenance"),
            "One kind of test: what the model needs in an image or caption. Not accuracy, robustness, security, or"
            " effects on groups of people.",
        ),
        Ask(
            "Annex IV, 3; Art. 13",
            "What the system can and cannot do, which unintended outcomes are to be expected, and what users have to"
            " know.",
            ("alerts", "limits", "self-audit"),
            "Reliance on places and phrases of this corpus. Not the instructions for use, nor performance for groups of"
            " people.",
        ),
        Ask(
            "Annex IV, 4",
            "Why the measures that were used suit the system.",
            ("limits", "self-audit"),
            "What the measures mean and how much they find. Whether they suit the intended purpose is for the provider"
            " to argue.",
        ),
        Ask(
            "Annex IV, 5; Art. 9",
            "Risks that are known and foreseeable, and tests against measures and thresholds that were set beforehand.",
            ("fixed", "alerts", "decisions"),
            "One source of risk. Not the risk management as a whole, nor whether the thresholds are acceptable for the"
            " purpose.",
        ),
        Ask(
            "Annex IV, 6",
            "What was changed over the life of the system.",
            ("lives", "provenance"),
            "What became of alerts from run to run, and which model each run saw. Not why the model was changed.",
        ),
        Ask(
            "Art. 10",
            "How data are governed, and that they were examined for biases and gaps.",
            ("scope", "gates", "weighed"),
            "Rows that were left out, look-alikes, and slices by word and attribute. Not whether the corpus represents"
            " those concerned.",
        ),
        Ask(
            "Art. 12",
            "Events are recorded automatically over the life of the system, so that what happened can be traced.",
            ("decisions", "provenance"),
            "The events of audits and reviews. Not those of the system in use.",
        ),
        Ask(
            "Art. 15",
            "A suitable level of accuracy, robustness and security, with the measures declared.",
            ("alerts", "self-audit"),
            "What the score loses without a region, with an interval. No accuracy: the corpus has no labels. No attack"
            " was tried.",
        ),
        Ask(
            "Art. 18, 19",
            "Documentation is kept for ten years, and logs for six months at least.",
            ("provenance",),
            "Digests by which a kept copy can be checked. Keeping the lake, its corpus and this report is for the"
            " provider to do.",
        ),
    ),
    NIST: (
        Ask(
            "Measure 1.1",
            "Measures are chosen by the risks that matter most; what is not or cannot be measured is written down.",
            ("limits", "fixed"),
            "What this audit cannot see. Not the choice among all risks of the system.",
        ),
        Ask(
            "Measure 1.3",
            "People who did not build the system, or independent assessors, take part in its assessment.",
            ("decisions",),
            "Names, roles and how their identity is known. Whether they are independent the report cannot know.",
        ),
        Ask(
            "Measure 2.1",
            "Test sets, measures and tools are documented.",
            ("scope", "fixed", "provenance"),
            "Complete for this audit; not for other tests of the system.",
        ),
        Ask(
            "Measure 2.3",
            "Performance is measured, and shown for conditions like those of its use.",
            ("scope", "alerts"),
            "Reliance on this corpus. Whether the corpus is like the use, and how well the model performs there, is not"
            " answered.",
        ),
        Ask(
            "Measure 2.9",
            "The model is explained, validated and documented, and its output is interpreted in its context.",
            ("alerts", "limits", "decisions"),
            "Explanations with tests of whether they hold, and what people made of them. Not the context of use.",
        ),
        Ask(
            "Measure 2.11",
            "Fairness and bias are evaluated, and the results documented.",
            ("weighed", "alerts"),
            "Whether attention goes astray in a slice by attribute. No measure of fairness between groups.",
        ),
    ),
    CFR: (
        Ask(
            "11.50",
            "A signed record shows the signer’s printed name, date and time, and what the signature means, wherever"
            " people can read it.",
            ("decisions",),
            "All three are shown for each decision and sign-off. Whether they bind the signer is for your procedures"
            " (11.100, 11.200) to say.",
        ),
        Ask(
            "11.10(e)",
            "An audit trail that a computer writes and dates, and in which nothing hides what stood there before.",
            ("decisions", "provenance"),
            "A chain of records in which any change is found. The clock is the machine’s own, and a chain does not show"
            " that its end was cut off and made anew unless its last digest is kept elsewhere.",
        ),
        Ask(
            "11.70",
            "A signature cannot be taken from one record and put under another.",
            ("decisions",),
            "Each signature names the digest of what was signed. The handwritten line at the end of this report does"
            " not.",
        ),
    ),
}
