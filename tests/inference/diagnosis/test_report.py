"""The page about a fit: complete in itself, its labels escaped, its pictures described."""

from html.parser import HTMLParser

import pytest

from beliefzoo.inference import BeliefGuide, Diagnosis, ExactFilter, fit, report
from beliefzoo.models import HiddenMarkovModel, LinearGaussianSSM, LocalLevel, Sequences


class Page(HTMLParser):
    """Tags with their attributes, and the words of the page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data


NOTHING = Diagnosis((), {})


def chain(data, parameters="ml"):
    model = HiddenMarkovModel(2, "poisson", ordered=True).scaled_to(data)
    guide = BeliefGuide(model, ExactFilter(), parameters=parameters)
    return fit(model, guide, data, seed=0, progress=False)


def test_a_page_is_complete_in_itself(tmp_path):
    data = Sequences.from_arrays(
        [[1, 0, 1, 9, 8, 9, 0, 1], [9, 9, 1, 0]], labels=["<script>alert(1)</script>", "b"]
    )
    path = report(chain(data), data, tmp_path / "page.html", title="A & B")
    page = Page(path.read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.tags}
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 3  # two sequences, and the residuals
    assert all(one["src"].startswith("data:image/png;base64,") and one["alt"] for one in pictures)
    assert "http" not in {attrs.get("href", "")[:4] for _, attrs in page.tags}
    for words in ("A & B", "rate[1]", "Verdict", "residuals uniform, p", "<script>alert(1)"):
        assert words in page.words
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_of_continuous_states_and_what_is_refused(tmp_path):
    data = Sequences.from_arrays([[1.0, 2.5, 3.0, 2.0, 4.5, 4.0, 5.5, 3.5]])
    model = LinearGaussianSSM(LocalLevel()).scaled_to(data)
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    result = fit(model, guide, data, progress=False)
    text = report(result, data, tmp_path / "level.html", diagnosis=NOTHING).read_text()
    assert "level_variance" in text
    assert "smoothed states" in text
    with pytest.raises(ValueError, match="result"):
        report(guide, data, tmp_path / "no.html")
    with pytest.raises(ValueError, match="folder"):
        report(result, data, tmp_path / "no" / "page.html", diagnosis=NOTHING)
