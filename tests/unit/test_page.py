import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hostile_run import HOSTILE, IMAGES, hostile_run
from PIL import Image

from noisy_student.evaluation.history import History
from noisy_student.page.charts import wrapped
from noisy_student.page.contents import MAX_CLASSES, Run, confusion, data_rows, differences, pseudo_label_row
from noisy_student.page.pull_request import pull_request
from noisy_student.page.render import page
from noisy_student.store.pictures import picture


@pytest.fixture(scope="module")
def run() -> Run:
    return hostile_run()


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_the_answer_comes_first_and_the_page_needs_no_network(run):
    html = page(run)
    tags = Tags(html)
    assert "The pool helped: +10.00 points" in html.split("<h2")[0]
    assert "Deploy models/iter1" in html.split("<h2")[0]
    addresses = [value for _, own in tags.found for name, value in own.items() if name in ("src", "href") and value]
    assert all(each.startswith(("data:", "#")) for each in addresses)
    assert not re.findall(r"url\((?!#)|@import", html)


def test_names_stand_as_text_whatever_they_contain(run):
    tags = Tags(page(run))
    assert [own for tag, own in tags.found if tag == "script"] == [
        {"type": "application/json", "id": "map-data"},
        {},
    ]
    assert not [own for _, own in tags.found if any(name.startswith("on") for name in own)]
    for name in HOSTILE:
        assert name in tags.text
        assert {"data-filter": name} in [{"data-filter": own.get("data-filter")} for _, own in tags.found]


def test_every_picture_can_be_opened_and_belongs_to_its_classes(run):
    tags = Tags(page(run))
    shown = [own for tag, own in tags.found if tag == "figure" and own.get("class") == "picture"]
    images = [own for tag, own in tags.found if tag == "img" and own.get("src", "").startswith("data:")]
    assert len(shown) == len(images) == 40 + len(run.mistakes)
    assert json.loads(shown[0]["data-classes"]) == [HOSTILE[1], HOSTILE[3], HOSTILE[0], ""]
    assert images[0]["alt"] == run.audits[0].pictures["id"][0]


def test_a_chart_tells_those_who_do_not_see_it(run):
    tags = Tags(page(run))
    charts = [own for _, own in tags.found if own.get("class") == "chart"]
    assert len(charts) == 7
    assert "iter0 80.0 %, iter1 80.0 %, same_size 80.0 %" in charts[0]["aria-label"]


def test_a_long_name_of_a_model_is_broken_and_a_pool_of_unknown_classes_has_no_counts():
    assert wrapped("tf_efficientnet_lite0") == "tf_efficientnet_\nlite0"
    assert wrapped("cnn_16") == "cnn_16"
    card = {"classes": ["a", "b"], "images": {"test": 1234, "pool": 9}, "images_by_class": {"test": {"a": 1234}}}
    assert [row["counts"] for row in data_rows(card)] == [["1,234", "0"], ["", ""]]


def test_the_same_run_gives_the_same_page(run):
    assert page(run) == page(run)


def test_a_run_without_iterations_has_a_page(run):
    alone = History(run.history.rows[:1], run.history.curves[:1], run.history.predictions, run.history.held_out)
    html = page(
        replace(
            run, history=alone, audits=[], controls={}, summary={"iteration": "iter0", "deploy": run.summary["deploy"]}
        )
    )
    assert "it is unknown whether the pool helped" in html
    assert 'id="map"' not in html


def test_many_classes_have_a_list_to_choose_from_and_no_matrix(run):
    many = [*HOSTILE, *(f"{number}" for number in range(MAX_CLASSES))]
    html = page(replace(run, card={**run.card, "classes": many}))
    assert html.count("<option") == len(many) + 1
    assert 'class="confusion"' not in html
    assert "<td>unknown</td>" in html.replace("<bdi>", "").replace("</bdi>", "")  # of classes without test images


def test_a_cell_of_the_confusion_counts_its_images_and_its_pictures(run):
    rows = confusion(run.result.predictions, run.mistakes[1:], HOSTILE)
    assert sum(sum(row["counts"]) for row in rows) == IMAGES
    assert rows[0]["counts"][:2] == [8, 2]  # of ten, two are predicted as another
    assert rows[0]["shown"][:2] == [0, 1]


def test_precision_is_of_the_kept_images_whose_truth_is_known(run):
    row = pseudo_label_row(run.audits[0].figures)
    assert row["right"] == "90.0 % of 10"
    assert row["mended"] == "unknown"


def test_no_id_stands_twice(run):
    ids = [own["id"] for _, own in Tags(page(run)).found if own.get("id")]
    assert len(ids) == len(set(ids))


def test_a_pull_request_has_the_answer_the_table_and_a_chart(run):
    said = pull_request(run.history.rows, run.summary)
    assert said.startswith("**The pool helped: +10.00 points")
    assert "| iteration | model | parameters | accuracy | 95 % | pool kept |" in said
    assert "| iter1 | cnn\\_4 | 10 | 80.0 % | 70.0-90.0 | 50.0 % |" in said
    assert "x-axis [iter0, iter1]" in said
    assert "line [80.0, 80.0]" in said


def test_parameters_that_differ_stand_beside_the_shipped_ones():
    own, shipped = {"a": {"b": None, "c": {}}, "e": 2}, {"a": {"b": True, "c": {}}, "d": 3, "e": 2}
    assert differences(own, shipped) == [
        {"key": "a.b", "value": "null", "default": "true"},
        {"key": "d", "value": "", "default": "3"},
    ]


def test_a_picture_is_no_larger_than_asked_for_and_keeps_its_shape():
    shown = Image.open(io.BytesIO(picture(np.zeros((300, 200, 3), np.uint8))))
    assert shown.size == (64, 96)
    assert Image.open(io.BytesIO(picture(np.zeros((28, 28, 1), np.uint8)))).size == (28, 28)
