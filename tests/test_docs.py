"""The site: every public name has its place. ``make docs`` builds it and runs its examples."""

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

from checkout import ROOT

DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

from making.cards import ZOO, record_of, records  # noqa: E402
from making.names import FACES, pages, public_names, said_of  # noqa: E402

PAGES = sorted(
    path for kind in ("md", "rst") for path in DOCS.rglob(f"*.{kind}") if "_build" not in path.parts
)


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).with_suffix("").as_posix()


def listed(page: Path) -> set[str]:
    """The pages that the lists of contents of a page name."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\{toctree\}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    entries = [line.strip() for line in lines if line.strip() and not line.startswith(":")]
    return {(page.parent / entry).relative_to(DOCS).as_posix() for entry in entries}


@pytest.mark.parametrize("face", FACES)
def test_every_public_name_is_on_a_page(face: str) -> None:
    where = pages()
    named = {x.name for x in public_names() if x.face == face and (face, x.wing) in where}
    module = importlib.import_module(f"beliefzoo.{face}")
    lazy = set(getattr(module, "_WITH_GYMNASIUM", ()))
    assert named == {*module.__all__} | lazy


def test_names_without_a_docstring_of_their_own_are_described() -> None:
    faces = {face: importlib.import_module(f"beliefzoo.{face}") for face in FACES}
    things = [(public, getattr(faces[public.face], public.name)) for public in public_names()]
    aliases = [x for x, thing in things if not (inspect.isclass(thing) or inspect.isroutine(thing))]
    assert {public.name for public in aliases} >= {"Parameters", "Priors"}
    assert all(said_of(public) for public in aliases)


def test_every_page_is_in_one_list_of_contents() -> None:
    found = [entry for page in PAGES for entry in listed(page)]
    assert sorted(found) == sorted({name_of(page) for page in PAGES} - {"index"})


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        (name_of(page), target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:]+\.md)(?:#[\w-]+)?\)", page.read_text("utf-8"))
        if not (page.parent / target).is_file()
    ]
    assert not broken


def test_the_cells_of_pages_are_python() -> None:
    for page in PAGES:
        cells = re.findall(
            r"^```\{code-cell\}.*?\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE
        )
        for cell in cells:
            code = "\n".join(line for line in cell.splitlines() if not line.startswith(":"))
            ast.parse(code, filename=str(page))


def test_the_configuration_names_what_exists() -> None:
    tree = ast.parse((DOCS / "conf.py").read_text(encoding="utf-8"))
    values = {
        target.id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in ("html_extra_path", "html_static_path")
    }
    assert len(values) == 2
    assert all((DOCS / path).exists() for paths in values.values() for path in paths)


def members() -> set[str]:
    """Public models, and public functions that build one under a name of its own."""
    models = importlib.import_module("beliefzoo.models")
    things = {name: getattr(models, name) for name in models.__all__}
    kinds = {
        name
        for name, thing in things.items()
        if inspect.isclass(thing) and issubclass(thing, models.Model)
    }
    builders = {
        name
        for name, thing in things.items()
        if inspect.isfunction(thing)
        and thing.__annotations__.get("return") in kinds
        and name[0].isupper()
    }
    return (kinds | builders) - {"Model"}


def test_every_model_has_a_card() -> None:
    assert sorted(card["member"] for card in records().values()) == sorted(members())


def test_the_gallery_shows_every_card() -> None:
    text = (ZOO / "index.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```\{gallery\}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert sorted(shown.split()) == sorted(records())


def test_a_card_without_a_field_is_refused() -> None:
    page = (ZOO / "pomdp.md").read_text(encoding="utf-8")
    assert record_of(page, "pomdp.md")["member"] == "POMDP"
    with pytest.raises(ValueError, match=r"docs/zoo/pomdp.md: a card needs .* none of \['use'\]"):
        record_of(re.sub(r"  use: >-\n(    .*\n)+", "", page), "pomdp.md")
    with pytest.raises(ValueError, match="a card needs"):
        record_of("# A page without a record", "other.md")


def test_every_card_has_an_example() -> None:
    pages = [(ZOO / f"{name}.md").read_text(encoding="utf-8") for name in records()]
    assert all("\n## Example\n" in page and "```{code-cell}" in page for page in pages)
