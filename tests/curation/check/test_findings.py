import pytest

from ascl_lightning.curation.check.findings import KEPT, Finding, Report, SplitSummary, Tally
from ascl_lightning.curation.check.kinds import KINDS

SUMMARY = SplitSummary(3, 5, {1: 1, 2: 2}, (30, 50, 40), 17)


def finding(kind: str, *examples: str, **values) -> Finding:
    return Finding.of(kind, "val", Tally(examples), 7, **values)


def test_a_tally_counts_all_and_keeps_the_first():
    tally = Tally(str(i) for i in range(KEPT + 5))
    assert (tally.count, len(tally.examples), tally.examples[-1]) == (KEPT + 5, KEPT, str(KEPT - 1))


def test_a_finding_has_the_texts_of_its_kind():
    found = finding("leaked_images", "a = b", other="train")
    assert (found.severity, found.count, found.total, found.examples) == ("error", 1, 7, ("a = b",))
    assert (found.things, found.problem) == ("images", "are also in split 'train'")
    assert finding("leaked_images", "a = b", severity="note").severity == "note"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_texts(kind):
    found = finding(kind, "x", other="o", limit=1, words=2, cut=3, share=0.5, reason="r", size=4)
    assert found.problem
    assert found.advice
    assert not {"{", "}"} & set(found.problem + found.advice)


@pytest.mark.parametrize(
    ("kinds", "verdict", "code"),
    [
        ([], "ok", 0),
        (["small_images"], "ok", 0),
        (["tiny_images", "similar_images"], "warnings", 0),
        (["tiny_images", "broken_features"], "errors", 1),
    ],
)
def test_the_verdict_is_that_of_the_worst(kinds, verdict, code):
    report = Report.of({"val": SUMMARY}, ["test"], [finding(kind, "x", limit=1) for kind in kinds])
    assert (report.verdict, report.exit_code) == (verdict, code)


def test_findings_are_sorted_and_empty_ones_left_out():
    kinds = ("similar_images", "tiny_images", "blank_captions", "broken_features", "blank_images")
    found = [finding(kind, "x", limit=1) for kind in kinds]
    report = Report.of({}, [], [*found, finding("unreadable_images")])
    assert [of.kind for of in report.findings] == [
        *("blank_captions", "broken_features"),
        *("tiny_images", "blank_images"),
        "similar_images",
    ]
    assert [report.number(of) for of in ("error", "warning", "note")] == [2, 2, 1]


def test_a_report_as_plain_values():
    plain = Report.of({"val": SUMMARY}, ["test"], [finding("blank_captions", "f, line 2: is blank")]).as_dict()
    assert plain == {
        "verdict": "errors",
        "exit_code": 1,
        "splits": {
            "val": {
                "images": 3,
                "captions": 5,
                "captions_per_image": {1: 1, 2: 2},
                "shorter_side": (30, 50, 40),
                "tokens": 17,
            }
        },
        "missing": ["test"],
        "findings": [
            {
                "kind": "blank_captions",
                "severity": "error",
                "split": "val",
                "other": None,
                "things": "captions",
                "problem": "are blank",
                "advice": KINDS["blank_captions"].advice,
                "count": 1,
                "total": 7,
                "examples": ("f, line 2: is blank",),
            }
        ],
    }
