"""Files: what `extends` amounts to, and what cannot be read."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfkit.recipe import RecipeError, load_recipe, resolve_recipe


def write(folder: Path, **files: str) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".yaml").write_text(content)


def lines_of(path: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(Path(path), overrides)
    return str(caught.value).splitlines()


def test_mappings_merge_and_lists_and_values_replace_over_three_levels(folder: Path) -> None:
    write(
        folder,
        shared__root="name: root\nmodel: {base: m, adapter: {rank: 4, dropout: 0.1}}\n"
        "rag: {documents: [a, b], chunk: {tokens: 90}}\n",
        shared__middle="extends: root.yaml\nname: middle\nmodel: {adapter: {rank: 8}}\nrag: {documents: [c]}\n",
        leaf="extends: shared/middle.yaml\nrag: {chunk: {overlap: 5}}\n",
    )
    recipe = load_recipe(Path("leaf.yaml"))
    assert recipe.name == "middle"
    assert recipe.model is not None and recipe.model.base == "m" and recipe.model.adapter is not None
    assert (recipe.model.adapter.rank, recipe.model.adapter.dropout) == (8, 0.1)
    assert recipe.rag is not None and recipe.rag.documents == ("c",)
    assert (recipe.rag.chunk.tokens, recipe.rag.chunk.overlap) == (90, 5)


def test_null_takes_away_what_was_inherited(folder: Path) -> None:
    write(
        folder,
        base="name: b\nmodel: {base: m}\napp: {}\nrag: {documents: [d]}\n",
        x="extends: base.yaml\napp: null\nmodel: {adapter: null}\n",
    )
    recipe = load_recipe(Path("x.yaml"))
    assert recipe.app is None
    assert recipe.model is not None and recipe.model.adapter is None


def test_each_file_sees_what_the_file_it_extends_amounts_to(folder: Path) -> None:
    """A null in the middle of a chain cuts off what stands below it."""
    write(
        folder,
        root="name: r\nmodel: {base: m, adapter: {rank: 3}}\n",
        middle="extends: root.yaml\nmodel: {adapter: null}\n",
        leaf="extends: middle.yaml\nmodel: {adapter: {alpha: 9}}\n",
    )
    recipe = load_recipe(Path("leaf.yaml"))
    assert recipe.model is not None and recipe.model.adapter is not None
    assert (recipe.model.adapter.rank, recipe.model.adapter.alpha) == (16, 9)


def test_an_inherited_mistake_is_told_where_it_was_made(folder: Path) -> None:
    write(
        folder,
        shared__base="name: b\nmodel:\n  base: m\n  precison: bf16\n  adapter: {rank: 0}\n  revision: 1\n",
        shared__x="extends: base.yaml\nseed: x\nmodel:\n  revision: 2\n",
    )
    assert lines_of("shared/x.yaml", "model.adapter.rank=-1") == [
        'shared/x.yaml:2: seed: expected an integer >= 0 and <= 4294967295, got "x"',
        "shared/x.yaml:4: model.revision: expected text or null, got 2; put it in quotes",
        "shared/base.yaml:4: model.precison: unknown key; did you mean precision?",
        "override model.adapter.rank=-1: expected an integer >= 1, got -1",
    ]


def test_sources_say_who_set_each_key_last(folder: Path) -> None:
    write(
        folder,
        base="name: b\nmodel:\n  base: m\n  precision: bf16\n",
        x="extends: base.yaml\n\nmodel:\n  precision: fp32\n",
    )
    resolved = resolve_recipe(Path("x.yaml"), ["seed=3"])
    assert resolved.files == ("x.yaml", "base.yaml")
    assert {key: str(place) for key, place in resolved.sources.items()} == {
        "name": "base.yaml:1",
        "seed": "override seed=3",
        "model": "x.yaml:3",
        "model.base": "base.yaml:3",
        "model.precision": "x.yaml:4",
    }


def test_circles_are_refused_and_shown(folder: Path) -> None:
    write(
        folder,
        a="extends: b.yaml\nname: a\n",
        b="name: b\nextends: c.yaml\n",
        c="extends: ./b.yaml\n",
        self="extends: self.yaml\n",
    )
    assert lines_of("a.yaml") == ["c.yaml:1: extends: goes in a circle: b.yaml -> c.yaml -> b.yaml"]
    assert lines_of("self.yaml") == ["self.yaml:1: extends: goes in a circle: self.yaml -> self.yaml"]


def test_a_circle_through_a_link_is_one_too(folder: Path) -> None:
    write(folder, a="extends: link.yaml\nname: a\n")
    (folder / "link.yaml").symlink_to("a.yaml")
    assert lines_of("a.yaml") == ["a.yaml:1: extends: goes in a circle: a.yaml -> link.yaml"]


def test_what_is_extended_must_be_a_recipe(folder: Path) -> None:
    write(
        folder, base="- 1\n", quickstart="name: q\n", bad="name: [\n", x="name: x\nextends: quikstart.yaml\nname: y\n"
    )
    assert lines_of("x.yaml") == [
        "x.yaml:3: name: duplicate key; it stands on line 1 already",
        "x.yaml:2: extends: quikstart.yaml: no such file; did you mean quickstart.yaml?",
    ]
    write(folder, x="extends: [base.yaml]\nname: x\n")
    assert lines_of("x.yaml") == ["x.yaml:1: extends: expected the path of one recipe file"]
    write(folder, x="extends: base.yaml\nname: x\n")
    assert lines_of("x.yaml") == [
        "base.yaml: expected keys such as name: quickstart at the top of the file, got a list"
    ]
    write(folder, x="extends: bad.yaml\nname: x\n")
    assert lines_of("x.yaml") == ["bad.yaml:2:1: a value is missing here, or a bracket or comma is one too many"]
    write(folder, x="extends: null\nname: x\n")
    assert load_recipe(Path("x.yaml")).name == "x"


def test_files_that_are_no_recipe(folder: Path) -> None:
    write(folder, recipes__quickstart="name: q\n", recipes__other="name: o\n")
    assert lines_of("recipes/quikstart.yaml") == [
        "recipes/quikstart.yaml: no such file; did you mean recipes/quickstart.yaml?"
    ]
    assert lines_of("recipes/quickstart") == ["recipes/quickstart: no such file; did you mean recipes/quickstart.yaml?"]
    assert lines_of("recipes/zzz") == ["recipes/zzz: no such file; recipes holds other.yaml, quickstart.yaml"]
    assert lines_of("nowhere/x.yaml") == ["nowhere/x.yaml: no such file; there is no folder nowhere either"]
    assert lines_of("recipes") == ["recipes: is a folder, not a recipe file; recipes holds other.yaml, quickstart.yaml"]
    assert lines_of("a" * 300) == ["a" * 300 + ": cannot be read: File name too long"]


def test_bytes_that_are_no_text(broken: Callable[..., list[str]]) -> None:
    assert broken(b"name: \xff\n") == ["x.yaml: is not UTF-8 text (byte 0xff at offset 6); a recipe is a YAML file"]
    assert broken(b"PK\x03\x04") == ["x.yaml:1:3: holds the control character U+0003; a recipe is a plain text file"]
    assert broken(b"#" * (256 * 1024 + 1)) == ["x.yaml: is larger than 256 KiB; a recipe is a small YAML file"]


def test_a_byte_order_mark_and_dos_line_ends_are_read(folder: Path) -> None:
    (folder / "x.yaml").write_bytes(b"\xef\xbb\xbfname: x\r\nseed: 3\r\n")
    assert load_recipe(Path("x.yaml")).seed == 3


def test_aliases_cannot_grow_without_bound(broken: Callable[..., list[str]]) -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    expected = "x.yaml: holds more than 20,000 values once its aliases are written out; a recipe is small"
    assert broken("\n".join(["a0: &a0 [1]", *levels])) == [expected]
    merges = [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
    assert broken("\n".join(["a0: &a0 {b: 1}", *merges])) == [expected]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_depth_is_bounded(broken: Callable[..., list[str]], opening: str) -> None:
    (line,) = broken("a:\n  " + opening * 20_000)
    assert line.startswith("x.yaml:2:") and line.endswith(": nested more than 100 levels deep")


def test_depth_that_aliases_make_is_bounded(broken: Callable[..., list[str]]) -> None:
    levels = [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 150)]
    assert broken("\n".join(["a0: &a0 [1]", *levels])) == ["x.yaml:1: nested more than 100 levels deep"]


@given(
    content=st.one_of(
        st.binary(max_size=60), st.text("aname:x- \n\t[]{}&*!|>'\"#,<1e.~?%@", max_size=60).map(str.encode)
    )
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_at_all_gives_a_recipe_or_lines_that_name_it(folder: Path, content: bytes) -> None:
    (folder / "x.yaml").write_bytes(content)
    try:
        load_recipe(Path("x.yaml"))
    except RecipeError as error:
        assert str(error) and all(line.startswith("x.yaml:") for line in str(error).split("\n"))
