import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest

from ascl_lightning.evaluation.page.charts import Series, histogram_chart, interval_chart, line_chart

FALLING = Series("fused", [100, 50, 25], [40.0, 22.0, 9.5], [38.0, 20.0, 8.0], [42.0, 24.0, 11.0])
LOW = Series("independent", [100, 50, 25], [30.0, 15.0, 6.0])
SVG = "{http://www.w3.org/2000/svg}"


def texts(drawing: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(drawing).iter(f"{SVG}text")]


def test_lines_are_named_in_text_that_stays_text():
    drawing, said = line_chart("Type III", [FALLING, LOW], "% of the words", "R@1, %")
    assert {" fused", " independent", "% of the words", "R@1, %"} <= set(texts(drawing))
    assert said == (
        "Type III; R@1, % over % of the words. fused: 40 at 100, 9.5 at 25. independent: 30 at 100, 6 at 25"
    )


def test_lines_differ_without_their_colours():
    drawing, _ = line_chart("", [FALLING, LOW], "x", "y")
    styles = [element.get("style", "") for element in ElementTree.fromstring(drawing).iter(f"{SVG}path")]
    lines = [style for style in styles if "fill: none" in style and "stroke-width: 1.6" in style]
    of_colour = {
        colour: {re.sub(r".*stroke-dasharray: ([^;]*).*|.*", r"\1", style) for style in lines if colour in style}
        for colour in ("#0072b2", "#d55e00")
    }
    assert of_colour["#0072b2"] == {""}, "unbroken"
    (dashes,) = of_colour["#d55e00"]
    assert dashes


def test_labels_of_meeting_lines_do_not_overlap():
    lines = [Series(f"line {number}", [0, 1], [number, 10.0]) for number in range(5)]
    drawing, _ = line_chart("", lines, "x", "y")
    root = ElementTree.fromstring(drawing)
    heights = [
        float(element.get("y") or element.get("transform").split("translate(")[-1].split()[1].rstrip(")"))
        for element in root.iter(f"{SVG}text")
        if (element.text or "").strip().startswith("line ")
    ]
    assert len(heights) == 5
    # in points, of which the font has 9
    assert min(below - above for above, below in pairwise(sorted(heights))) > 9


def test_the_same_drawing_has_the_same_identifiers_and_another_one_others():
    first, again = (line_chart("a", [FALLING], "x", "y")[0] for _ in range(2))
    other = line_chart("a", [LOW], "x", "y")[0]
    assert first == again
    of_first, of_other = (
        {element.get("id") for element in ElementTree.fromstring(drawing).iter() if element.get("id")}
        for drawing in (first, other)
    )
    assert of_first
    assert not of_first & of_other


@pytest.mark.parametrize("log_x", [False, True])
def test_intervals_are_in_separate_rows(log_x):
    series = [Series("to text", [0, 1], [54.0, 31.0], [50.0, 27.0], [58.0, 35.0]), Series("to image", [1], [28.0])]
    drawing, said = interval_chart("R@1", ["fused", "independent"], series, "%", log_x=log_x)
    assert {"fused", "independent", "to text", "to image", "%"} <= set(texts(drawing))
    assert said == "R@1; %. fused, to text: 54. independent, to text: 31. independent, to image: 28"


def test_every_name_of_a_legend_is_inside_the_drawing():
    names = ["independent", "two stage", "text-only control"]
    drawing, _ = interval_chart("", ["wrong background"], [Series(name, [0], [50.0]) for name in names], "%")
    root = ElementTree.fromstring(drawing)
    width = float(root.get("viewBox", "").split()[2])
    starts = {element.text: float(element.get("x", 0)) for element in root.iter(f"{SVG}text")}
    # a marker stands before each name; letters of this size are about 5 wide
    assert all(20 < starts[name] < width - 5 * len(name) for name in names)


def test_a_histogram_is_described_by_counts_and_means():
    drawing, said = histogram_chart(
        "Scores", [0.0, 0.5, 1.0], {"own": [1, 3], "other": [4, 0], "none": [0, 0]}, "score"
    )
    assert said == "Scores. own: 4 scores, mean 0.62. other: 4 scores, mean 0.25"
    assert {"own", "other", "score"} <= set(texts(drawing))
    assert drawing.count("<pattern") == 2, "hatches"
