import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hostile_run import HOSTILE

from noisy_student.page.comparison import Revision, compared
from noisy_student.page.render import comparison
from noisy_student.store.pictures import picture

IMAGES = 100
PICTURE = picture(np.zeros((8, 8, 1), np.uint8))


def revision(name: str, wrong: range, **params) -> Revision:
    """One that is wrong on the images of those numbers."""
    table = pd.DataFrame({"id": [f"{row}" for row in range(IMAGES)], "actual": HOSTILE[0], "predicted": HOSTILE[0]})
    table.loc[list(wrong), "predicted"] = HOSTILE[1]
    summary = {"iteration": "iter1", "accuracy": 1 - len(wrong) / IMAGES, "parameters": 10}
    mistakes = table.iloc[list(wrong)].assign(confidence=0.5, picture=PICTURE)
    return Revision(name, summary, table, mistakes, {"seed": 0, **params})


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (range(30), range(10), "b is better than a: +20.00 points on 100 test images"),
        (range(10), range(30), "b is worse than a: -20.00 points"),
        (range(10), range(1, 10), "It is unclear whether b is better than a: +1.00 points"),
    ],
)
def test_the_answer_goes_by_the_paired_interval(before, after, said):
    assert compared(revision("a", before), revision("b", after))["answer"].startswith(said)


def test_other_test_images_cannot_be_compared():
    other = revision("b", range(5))
    other.predictions["id"] += "b"
    found = compared(revision("a", range(5)), other)
    assert "have different test images" in found["answer"]
    assert found["flips"] == []
    assert {row[-1] for row in found["figures"]} == {""}


def test_flips_are_counted_both_ways_and_shown():
    found = compared(revision("a", range(0, 10)), revision("b", range(8, 15)))
    mended, spoiled = found["flips"]
    assert (mended["title"], mended["count"], len(mended["pictures"])) == ("Mended by b", 8, 8)
    assert (spoiled["title"], spoiled["count"], len(spoiled["pictures"])) == ("Spoiled by b", 5, 5)
    assert {each["predicted_before"] for each in mended["pictures"]} == {HOSTILE[1]}


def test_what_differs_stands_beside_each_other():
    found = compared(revision("a", range(30), seed=1), revision("b", range(10), seed=2))
    assert found["parameters"] == [["seed", "1", "2"]]
    assert ["accuracy", "70.00 %", "90.00 %", "+20.00 points"] in found["figures"]
    assert ["parameters", "10", "10", "+0"] in found["figures"]


@pytest.mark.parametrize("names", [("figure", "difference"), ("key", "a")])
def test_a_revision_may_be_called_like_a_column(names):
    html = comparison(revision(names[0], range(30), seed=1), revision(names[1], range(10), seed=2))
    head = re.findall(r"<thead><tr>(.*?)</tr>", html)
    assert [row.count("<th") for row in head] == [4, 3]


def test_names_stand_as_text_whatever_they_contain():
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, _: tags.append(tag)
    parser.feed(comparison(revision("a", range(10)), revision("<script>", range(5))))
    assert "script" not in tags
    assert tags.count("img") == 5
