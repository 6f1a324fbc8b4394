"""`hfkit doctor`: what this machine can do, and what is amiss with the installation."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING

import pytest

from hfkit import __version__
from hfkit.models.embedded import MODELS, PREFIX, cached_folder
from hfkit.verbs import doctor
from hfkit.verbs.doctor import faiss_problems

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Cli


@pytest.mark.parametrize(("cpu", "gpu"), [("1.13.0", None), (None, "1.13.0")])
def test_one_faiss_that_loads_is_no_problem(cpu: str | None, gpu: str | None) -> None:
    assert faiss_problems(cpu, gpu, None) == []


@pytest.mark.parametrize("loads", [None, "undefined symbol"])
def test_both_packages_of_faiss_are_one_problem_whether_or_not_it_loads(loads: str | None) -> None:
    (problem,) = faiss_problems("1.13.2", "1.13.0", loads)
    assert "faiss-cpu 1.13.2" in problem and "faiss-gpu 1.13.0" in problem
    assert "pip uninstall faiss-cpu faiss-gpu" in problem
    assert "hfkit[cpu]" in problem and "hfkit[gpu]" in problem


def test_no_faiss_says_which_extras_there_are() -> None:
    (problem,) = faiss_problems(None, None, "No module named 'faiss'")
    assert "not installed" in problem and "hfkit[cpu]" in problem and "hfkit[gpu]" in problem


@pytest.mark.parametrize(("cpu", "gpu", "extra"), [("1.13", None, "hfkit[cpu]"), (None, "1.13", "hfkit[gpu]")])
def test_a_faiss_that_does_not_load_says_why_and_what_to_install(cpu: str | None, gpu: str | None, extra: str) -> None:
    (problem,) = faiss_problems(cpu, gpu, "libcudart.so.12: cannot open shared object file")
    assert "libcudart.so.12" in problem and extra in problem and "--force-reinstall" in problem


def test_a_problem_is_printed_and_makes_the_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: "1.13.0")
    assert doctor.run(Namespace(json=False)) == 1
    out = capsys.readouterr().out
    assert "PROBLEM: " in out and "no problems found" not in out
    assert doctor.run(Namespace(json=True)) == 1
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 1


def test_a_faiss_that_is_not_there_or_is_half_there_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType

    monkeypatch.setitem(sys.modules, "faiss", None)
    assert doctor._faiss_loads() is not None
    monkeypatch.setitem(sys.modules, "faiss", ModuleType("faiss"))
    assert "IndexFlatIP" in str(doctor._faiss_loads())


def test_doctor_says_what_there_is(cli: Cli, workplace: Path) -> None:
    done = cli("doctor", env={"XDG_CACHE_HOME": str(workplace / "cache")})
    assert done.code == 0, done.out + done.err
    assert f"hfkit {__version__}" in done.out
    assert "processor: " in done.out and "model.precision=auto means " in done.out
    assert done.out.count("not fetched yet") == len(MODELS)
    assert "no problems found" in done.out


def test_the_document_of_doctor(cli: Cli, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = workplace / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    first, second = MODELS.values()
    cached_folder(first).mkdir(parents=True)
    done = cli("doctor", "--json", env={"XDG_CACHE_HOME": str(cache)})
    assert done.code == 0 and done.err == ""
    assert done.document["problems"] == []
    assert done.document["precision"] in ("bf16", "fp32") and done.document["precision_reason"]
    assert done.document["hardware"]["cores"] >= 1 and done.document["hardware"]["memory_bytes"] > 0
    assert {"torch", "transformers", "peft", "numpy"} <= done.document["versions"].keys()
    assert done.document["embedded_models"] == {
        PREFIX + first.name: str(cached_folder(first)),
        PREFIX + second.name: "not fetched yet",
    }
