"""Requirements of laws and frameworks, paraphrased, and the chapters of a report that answer them. Not legal advice.

Article and paragraph numbers come from secondary sources and must be checked against the original text.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Requirement:
    """One requirement: its source, its content, the keys of the chapters that answer it, and what they leave open."""

    source: str
    text: str
    chapters: tuple[str, ...]
    not_answered: str


EU: Final = "EU AI Act (Regulation 2024/1689)"
NIST: Final = "NIST AI RMF 1.0, Measure"
CFR: Final = "21 CFR Part 11"

REQUIREMENTS: Final[dict[str, tuple[Requirement, ...]]] = {
    EU: (
        Requirement(
            "Annex IV, 2(d)",
            "Origin, scope and main characteristics of the data.",
            ("scope", "gates"),
            "Covers only the corpus of this audit, not the training data, nor how data were collected or labeled.",
        ),
        Requirement(
            "Annex IV, 2(e); Art. 14",
            "Human oversight, and how people can interpret the output of the system.",
            ("alerts", "decisions"),
            "Covers who reviewed this audit and what they decided, not the oversight of the system in use.",
        ),
        Requirement(
            "Annex IV, 2(g)",
            "Test procedures and metrics; test logs and reports, dated and signed by the persons responsible.",
            ("settings", "alerts", "self-audit", "decisions", "provenance"),
            "Covers one kind of test: what the model needs in an image or caption. Not accuracy, robustness,"
            " security, or effects on groups of people.",
        ),
        Requirement(
            "Annex IV, 3; Art. 13",
            "Capabilities and limitations of the system, foreseeable unintended outcomes, and information for users.",
            ("alerts", "limits", "self-audit"),
            "Covers reliance on regions and phrases of this corpus. Not the instructions for use, nor performance"
            " for groups of people.",
        ),
        Requirement(
            "Annex IV, 4",
            "Why the metrics are appropriate for the system.",
            ("limits", "self-audit"),
            "Covers what the metrics mean and how sensitive they are. Whether they suit the intended purpose is for"
            " the provider to argue.",
        ),
        Requirement(
            "Annex IV, 5; Art. 9",
            "Known and foreseeable risks, and tests against metrics and thresholds that were defined beforehand.",
            ("settings", "alerts", "decisions"),
            "Covers one source of risk, not the risk management as a whole, nor whether the thresholds are acceptable"
            " for the purpose.",
        ),
        Requirement(
            "Annex IV, 6",
            "Changes to the system over its lifecycle.",
            ("history", "provenance"),
            "Covers the alert history and the model of each run, not why the model was changed.",
        ),
        Requirement(
            "Art. 10",
            "Data governance, including an examination for biases and gaps.",
            ("scope", "gates", "slices"),
            "Covers rows that were left out, near-duplicates, and slices by word and attribute. Not whether the"
            " corpus represents the people concerned.",
        ),
        Requirement(
            "Art. 12",
            "Automatic recording of events over the lifetime of the system, for traceability.",
            ("decisions", "provenance"),
            "Covers events of audits and reviews, not those of the system in use.",
        ),
        Requirement(
            "Art. 15",
            "An appropriate level of accuracy, robustness and cybersecurity, with declared metrics.",
            ("alerts", "self-audit"),
            "Covers the loss of the score without a region, with an interval. Not accuracy: the corpus has no labels."
            " Attacks were not tested.",
        ),
        Requirement(
            "Art. 18, 19",
            "Retention of documentation for ten years, and of logs for at least six months.",
            ("provenance",),
            "Provides digests to check a stored copy. The provider must store the lake, its corpus and this report.",
        ),
    ),
    NIST: (
        Requirement(
            "Measure 1.1",
            "Metrics are selected for the most significant risks; what is not or cannot be measured is documented.",
            ("limits", "settings"),
            "Covers what this audit cannot detect, not the selection among all risks of the system.",
        ),
        Requirement(
            "Measure 1.3",
            "Internal experts who did not develop the system, or independent assessors, are involved.",
            ("decisions",),
            "Covers names, roles and how identities were established. The report cannot verify independence.",
        ),
        Requirement(
            "Measure 2.1",
            "Test sets, metrics and tools are documented.",
            ("scope", "settings", "provenance"),
            "Complete for this audit; not for other tests of the system.",
        ),
        Requirement(
            "Measure 2.3",
            "Performance is measured and demonstrated for conditions similar to deployment.",
            ("scope", "alerts"),
            "Covers reliance on this corpus. Whether it resembles the deployment, and how well the model performs"
            " there, is not answered.",
        ),
        Requirement(
            "Measure 2.9",
            "The model is explained, validated and documented, and its output is interpreted in its context.",
            ("alerts", "limits", "decisions"),
            "Covers explanations, tests of these explanations, and decisions about them. Not the context of use.",
        ),
        Requirement(
            "Measure 2.11",
            "Fairness and bias are evaluated, and the results documented.",
            ("slices", "alerts"),
            "Covers whether attribution concentrates on a region in a slice by attribute. No metric of fairness.",
        ),
    ),
    CFR: (
        Requirement(
            "11.50",
            "Signed records show the printed name of the signer, the date and time, and the meaning of the"
            " signature, in any human-readable form.",
            ("decisions",),
            "All three are shown for each decision and sign-off. Whether they bind the signer depends on your"
            " procedures (11.100, 11.200).",
        ),
        Requirement(
            "11.10(e)",
            "A computer-generated, time-stamped audit trail in which changes do not obscure earlier records.",
            ("decisions", "provenance"),
            "Provides a hash chain that reveals any change. The clock is that of the machine. The chain does not"
            " reveal that its end was replaced, unless its last digest is stored elsewhere.",
        ),
        Requirement(
            "11.70",
            "Signatures are linked to their records, so that they cannot be transferred to others.",
            ("decisions",),
            "Each signature includes the digest of what was signed. The handwritten signature at the end of this"
            " report does not.",
        ),
    ),
}
