"""Code that comes with a model: run only where the recipe says so, at one commit, and never else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hfkit.errors import RequestError
from hfkit.models.loading import load_model, load_tokenizer
from hfkit.preflight import _model
from hfkit.recipe import ModelSection, load_recipe

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# A model that is Llama by another name, and leaves a file when its code runs.
CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

Path({trace!r}).touch()


class OwnConfig(LlamaConfig):
    model_type = "own-llama"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def with_code(model: Path, folder: Path, trace: Path, prefix: str = "") -> Path:
    """The model, with code of its own, in `folder`."""
    shutil.copytree(model, folder)
    (folder / "own.py").write_text(CODE.format(trace=str(trace)), encoding="utf-8")
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {
        "model_type": "own-llama",
        "auto_map": {"AutoConfig": f"{prefix}own.OwnConfig", "AutoModelForCausalLM": f"{prefix}own.OwnModel"},
    }
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder


def in_hub_cache(model: Path, home: Path, trace: Path, prefix: str = "") -> None:
    """As if `owner/own` had been fetched at COMMIT into the Hub's cache below `home`."""
    repository = home / "hub" / "models--owner--own"
    repository.mkdir(parents=True)
    with_code(model, repository / "snapshots" / COMMIT, trace, prefix)


def load_in_a_process(home: Path, settings: dict[str, object]) -> subprocess.CompletedProcess[str]:
    """Where the cache lies is read when the library is imported."""
    program = (
        "import json, sys\n"
        "from hfkit.errors import RequestError\n"
        "from hfkit.models.loading import load_model, load_tokenizer\n"
        "from hfkit.recipe import ModelSection\n"
        "settings = ModelSection.model_validate(json.loads(sys.argv[1]))\n"
        "try:\n"
        "    print(type(load_model(settings)[0]).__name__, len(load_tokenizer(settings)))\n"
        "except RequestError as error:\n"
        "    sys.exit(str(error))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, json.dumps(settings)],
        env={"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )


PINNED = {"base": "owner/own", "precision": "fp32", "revision": COMMIT}


def test_code_of_a_pinned_commit_is_run_where_the_recipe_says_so(tiny_model: Path, tmp_path: Path) -> None:
    in_hub_cache(tiny_model, tmp_path, tmp_path / "ran")
    refused = load_in_a_process(tmp_path, PINNED)
    assert "comes with Python code of its own" in refused.stderr and "model.trust_remote_code" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1 and refused.returncode == 1
    assert not (tmp_path / "ran").exists()
    done = load_in_a_process(tmp_path, {**PINNED, "trust_remote_code": True})
    assert done.stdout.startswith("OwnModel "), done.stderr
    assert (tmp_path / "ran").exists()


def test_code_from_another_repository_is_not_run(tiny_model: Path, tmp_path: Path) -> None:
    """The commit pins the model's own repository alone."""
    in_hub_cache(tiny_model, tmp_path, tmp_path / "ran", prefix="owner/other--")
    done = load_in_a_process(tmp_path, {**PINNED, "trust_remote_code": True})
    assert "takes code from another repository (auto_map in config.json)" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_code_in_a_folder_is_not_run(tiny_model: Path, tmp_path: Path) -> None:
    folder = with_code(tiny_model, tmp_path / "model", tmp_path / "ran")
    plain = ModelSection.model_validate({"base": str(folder), "precision": "fp32"})
    with pytest.raises(RequestError, match="comes with Python code of its own"):
        load_model(plain)
    trusting = plain.model_copy(update={"trust_remote_code": True, "revision": COMMIT})
    for load in (load_model, load_tokenizer):
        with pytest.raises(RequestError, match=r"model\.trust_remote_code: .* is a folder, whose code no commit pins"):
            load(trusting)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("trust_remote_code: true", "set revision to that commit's 40 hexadecimal digits"),
        ("trust_remote_code: true, revision: main", "set revision to that commit's 40 hexadecimal digits"),
        (f"trust_remote_code: true, revision: {COMMIT[:-1]}", "set revision to that commit's 40 hexadecimal digits"),
        (f'trust_remote_code: true, revision: "{COMMIT}"', "it needs allow_code: true"),
    ],
)
def test_a_recipe_that_trusts_too_easily_is_refused(tmp_path: Path, lines: str, said: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\nmodel: {{base: owner/own, {lines}}}\n", encoding="utf-8")
    with pytest.raises(RequestError, match=r"x\.yaml:2: model\.trust_remote_code: ") as caught:
        load_recipe(path)
    assert said in str(caught.value)


def test_a_recipe_that_pins_and_allows_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        f'name: x\nallow_code: true\nmodel: {{base: owner/own, trust_remote_code: true, revision: "{COMMIT}"}}\n',
        encoding="utf-8",
    )
    model = load_recipe(path).model
    assert model is not None and model.trust_remote_code


@pytest.mark.parametrize(
    ("model", "hub", "said"),
    [
        ("adapter: null", "", "model.trust_remote_code: all weights of a model with code of its own cannot be trained"),
        ("adapter: {rank: 4}", "hub: {repo: ada/x, weights: merged}", "hub.weights: an adapter is not merged into"),
    ],
)
def test_what_would_leave_a_folder_with_code_that_no_commit_pins_is_refused_at_once(
    tmp_path: Path, model: str, hub: str, said: str
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "name: x\nallow_code: true\n"
        f'model: {{base: owner/own, trust_remote_code: true, revision: "{COMMIT}", {model}}}\n'
        f"data: {{sources: [{{path: x.jsonl}}]}}\ntrain: {{}}\n{hub}\n",
        encoding="utf-8",
    )
    with pytest.raises(RequestError) as caught:
        load_recipe(path)
    assert said in str(caught.value)


def test_pickled_weights_say_how_to_convert_them(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(RequestError, match=r"its weights are pickled, .* save_pretrained, which writes safetensors"):
        load_model(ModelSection.model_validate({"base": str(folder), "precision": "fp32"}))


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


def pickled(model: Path, folder: Path, *extra: tuple[str, object]) -> Path:
    """The model with its weights as `pytorch_model.bin`."""
    import torch
    from safetensors.torch import load_file

    shutil.copytree(model, folder)
    torch.save(dict([*load_file(folder / "model.safetensors").items(), *extra]), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_pickled_weights_are_read_where_the_recipe_says_so_in_words(tiny_model: Path, tmp_path: Path) -> None:
    folder = pickled(tiny_model, tmp_path / "model")
    plain = ModelSection.model_validate({"base": str(folder), "precision": "fp32"})
    with pytest.raises(RequestError, match=r"its weights are pickled, .* say model\.pickled_weights: true"):
        load_model(plain)
    model, _ = load_model(plain.model_copy(update={"pickled_weights": True}))
    safe, _ = load_model(ModelSection.model_validate({"base": str(tiny_model), "precision": "fp32"}))
    assert all((one == other).all() for one, other in zip(model.parameters(), safe.parameters(), strict=True))


def test_code_in_pickled_weights_is_never_run(tiny_model: Path, tmp_path: Path) -> None:
    folder = pickled(tiny_model, tmp_path / "model", ("trap", Trap(tmp_path / "ran")))
    for allowed in (False, True):
        settings = {"base": str(folder), "precision": "fp32", "pickled_weights": allowed}
        with pytest.raises(Exception):  # noqa: B017
            load_model(ModelSection.model_validate(settings))
    assert not (tmp_path / "ran").exists()


def test_safetensors_are_read_where_there_are_both(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    settings = {"base": str(folder), "precision": "fp32", "pickled_weights": True}
    assert load_model(ModelSection.model_validate(settings))[0] is not None


def test_check_takes_pickled_weights_where_the_recipe_says_so(tiny_model: Path, tmp_path: Path) -> None:
    folder = pickled(tiny_model, tmp_path / "model")
    assert _model("model.base", str(folder)).severity == "error"
    assert _model("model.base", str(folder), pickled=True).severity == "ok"
