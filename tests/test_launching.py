"""Many processes: the command that starts them, what is refused, and how they fail together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from hfkit.errors import RequestError, WorkError
from hfkit.launched import launched_processes
from hfkit.launching import CONFIGS, find_config, launch_command, shipped_configs
from hfkit.noticeboard import FailedElsewhere, NoticeBoard
from hfkit.processes import Processes, current_processes

if TYPE_CHECKING:
    from tests.conftest import Cli, Done, Ranks, RecipeWriter

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = sorted(path.stem for path in (ROOT / CONFIGS).glob("*.yaml"))
OF_A_LAUNCH = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION",
    "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE",
)  # fmt: skip


@pytest.fixture
def no_launch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in OF_A_LAUNCH:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def test_processes_are_what_the_launcher_says(no_launch: pytest.MonkeyPatch) -> None:
    assert current_processes() == Processes(0, 1, 0)
    for name, number in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        no_launch.setenv(name, number)
    assert current_processes() == Processes(5, 8, 1)
    assert not current_processes().is_main and current_processes().are_many


@pytest.mark.parametrize("rank", ["8", "-1", "first"])
def test_numbers_that_do_not_fit_are_refused(rank: str, no_launch: pytest.MonkeyPatch) -> None:
    no_launch.setenv("RANK", rank)
    no_launch.setenv("WORLD_SIZE", "8")
    with pytest.raises(RequestError, match="RANK="):
        current_processes()


def test_one_process_where_several_were_asked_for_is_refused(no_launch: pytest.MonkeyPatch) -> None:
    no_launch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert not launched_processes().are_many
    no_launch.setenv("MASTER_PORT", "29500")
    with pytest.raises(RequestError, match=r"asked for several processes and started one.*--launch cpu --processes 2"):
        launched_processes()


def test_mpirun_is_refused(no_launch: pytest.MonkeyPatch) -> None:
    no_launch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(RequestError, match="mpirun"):
        launched_processes()


def test_fsdp_without_a_gpu_is_refused(no_launch: pytest.MonkeyPatch, no_gpu: None) -> None:
    no_launch.setenv("ACCELERATE_USE_FSDP", "true")
    no_launch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RequestError, match=r"on a CPU Accelerate would keep all weights on each process \(DDP\)"):
        launched_processes()
    with pytest.raises(RequestError, match="FSDP was asked for and there is no GPU"):
        launch_command("fsdp2", 2, ["train", "x.yaml"])


def test_deepspeed_that_is_not_installed_is_refused(no_launch: pytest.MonkeyPatch) -> None:
    no_launch.setattr("hfkit.launched.find_spec", lambda name: None)
    no_launch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(RequestError, match="DeepSpeed was asked for and is not installed"):
        launched_processes()


def test_what_accelerate_does_without_a_word_is_still_so(tiny_recipe: RecipeWriter) -> None:
    """The real launcher, asked for two processes with --cpu: hfkit says what is amiss and does nothing."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    recipe = tiny_recipe()
    done = subprocess.run([*command, "-m", "hfkit", "train", str(recipe)], capture_output=True, text=True)
    assert done.returncode != 0
    assert "accelerate launch was asked for several processes and started one" in done.stderr
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_configuration_says_its_command_and_is_understood_by_accelerate(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    path = ROOT / CONFIGS / f"{name}.yaml"
    head = "".join(line for line in path.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    for needed in (f"--config_file accelerate_configs/{name}.yaml", "--launch", "Hardware:", "hfkit train"):
        assert needed in head
    read = load_config_from_file(str(path))
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert read.num_processes == written["num_processes"] and read.num_machines == written["num_machines"]
    # The recipe decides on the number format, and one source of it is enough.
    assert written["mixed_precision"] == "no"


def test_all_promised_configurations_are_shipped() -> None:
    assert {"cpu", "single_gpu", "ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3", "multi_node"} <= set(SHIPPED)
    assert shipped_configs()[1] == ROOT / CONFIGS


def test_the_command_is_a_list_and_can_be_typed(workplace: Path, no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = launch_command("cpu", 2, ["train", "my recipe.yaml", "name=two words"])
    config = str(ROOT / CONFIGS / "cpu.yaml")
    assert list(command.arguments) == [
        *("--config_file", config, "--num_processes", "2", "--multi_gpu", "--main_process_port", "0"),
        *("-m", "hfkit", "train", "my recipe.yaml", "name=two words"),
    ]
    assert str(command) == (
        f"CUDA_VISIBLE_DEVICES='' accelerate launch --config_file {config} --num_processes 2 --multi_gpu "
        "--main_process_port 0 "
        "-m hfkit train 'my recipe.yaml' 'name=two words'"
    )
    assert "--multi_gpu" not in launch_command("cpu", None, ["train", "x.yaml"]).arguments


def test_processes_on_the_cpu_share_its_cores(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    # A GPU that there is must not be found.
    unseen = {"CUDA_VISIBLE_DEVICES": ""}
    assert launch_command("cpu", 4, []).environment == {**unseen, "OMP_NUM_THREADS": "2"}
    assert launch_command("cpu", 1, []).environment == unseen


def test_a_configuration_of_one_s_own(workplace: Path, no_gpu: None) -> None:
    (workplace / "mine.yaml").write_text("distributed_type: MULTI_CPU\nnum_processes: 2\nuse_cpu: true\n")
    with pytest.raises(RequestError, match="Accelerate starts one process for MULTI_CPU"):
        launch_command("mine.yaml", None, [])
    (workplace / "mine.yaml").write_text("distributed_type: MULTI_GPU\nnum_processes: 4\nnum_machines: 2\n")
    with pytest.raises(RequestError, match="wants 2 GPUs on this machine, which has 0"):
        launch_command("mine.yaml", None, [])
    (workplace / "mine.yaml").write_text("- broken")
    with pytest.raises(RequestError, match=r"mine\.yaml: not a configuration"):
        launch_command("mine.yaml", None, [])
    (workplace / CONFIGS).mkdir()
    (workplace / CONFIGS / "cpu.yaml").write_text("use_cpu: true\n")
    assert find_config("cpu") == Path(CONFIGS) / "cpu.yaml"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--launch", "dpp"], "there are cpu, ddp, deepspeed_zero2"),
        (["--launch", "missing.yaml"], "missing.yaml: no such file"),
        (["--launch", "cpu", "--processes", "0"], "0 is too few"),
        (["--processes", "2"], "say how they are launched with --launch"),
        (["--launch", "cpu", "train.epochs=-1"], "train.epochs"),
    ],
)
def test_a_wrong_request_starts_nothing(arguments: list[str], text: str, tiny_recipe: RecipeWriter, cli: Cli) -> None:
    done = cli("train", tiny_recipe(), *arguments)
    assert done.code == 2 and text in done.err and "Traceback" not in done.err
    assert "accelerate launch" not in done.err and not Path("runs").exists()


def test_a_launch_of_two_processes(finished: Path, cold_cli: Cli) -> None:
    """The whole way through Accelerate's launcher; the second time there is nothing to do, for any of them."""
    shutil.rmtree("runs/tiny/train")
    done = cold_cli("train", finished, "--launch", "cpu", "--processes", "2", "--json")
    assert done.code == 0, done.err
    assert "accelerate launch --config_file" in done.err.splitlines()[0]
    assert done.document["recipe"] == "tiny"
    assert json.loads(Path("runs/tiny/train/artifact.json").read_text())["result"]["processes"] == 2
    before = Path("runs/tiny/train/artifact.json").stat().st_mtime_ns
    again = cold_cli("train", finished, "--launch", "cpu", "--processes", "2")
    assert again.code == 0, again.err
    assert again.err.count("train: nothing changed, kept") == 1
    assert Path("runs/tiny/train/artifact.json").stat().st_mtime_ns == before


def test_only_the_main_process_writes_and_speaks(tiny_recipe: RecipeWriter, ranks: Ranks) -> None:
    """Every stage before training is made once, while the other process waits."""
    main, other = [process.wait() for process in ranks(2, "train", tiny_recipe())]
    assert main.code == other.code == 0, (main.err, other.err)
    assert other.out == "" and "hfkit:" not in other.err and "running" not in other.err
    assert [main.err.count(f"{stage}: running") for stage in ("index", "data", "train")] == [1, 1, 1]
    assert {path.name for path in Path("runs/tiny/logs").iterdir()} == {
        "index.log", "data.log", "train.log", "train.rank-1.log",
    }  # fmt: skip
    assert not list(Path("runs/tiny").glob(".*.partial"))


def test_a_failure_is_told_once_and_ends_all(finished: Path, ranks: Ranks) -> None:
    """Here of all alike: a learning rate with which the loss is no longer a number."""
    ended = [
        p.wait() for p in ranks(2, "train", finished, "train.learning_rate=1.0e+30", "train.max_grad_norm=1.0e+30")
    ]
    assert [done.code for done in ended] == [1, 1], [done.err for done in ended]
    said = "".join(done.err for done in ended)
    assert said.count("hfkit: ") == 1 and "Traceback" not in said
    assert "at step" in said or "another process" in said


def test_a_wrong_recipe_is_told_once_with_its_exit_code(tiny_recipe: RecipeWriter, ranks: Ranks) -> None:
    ended = [process.wait() for process in ranks(2, "train", tiny_recipe(train={"epochs": -1}))]
    assert [done.code for done in ended] == [2, 2]
    assert sum("train.epochs" in done.err for done in ended) == 1


def test_processes_that_read_different_recipes_are_refused(finished: Path, cli: Cli, ranks: Ranks) -> None:
    other = finished.with_name("other.yaml")
    other.write_text(finished.read_text(encoding="utf-8").replace("seed: 7", "seed: 8"), encoding="utf-8")
    shutil.rmtree("runs/tiny/train")

    class Split:
        """The second process is given another file."""

        started = 0

        def __str__(self) -> str:
            self.started += 1
            return str(finished if self.started == 1 else other)

    ended = [process.wait() for process in ranks(2, "train", Split())]
    assert ended[1].code == 2, ended[1].err
    assert sum("another recipe than process 0" in done.err for done in ended) == 1
    assert ended[0].code == 1 and not Path("runs/tiny/train").exists()


def test_killing_the_main_process_ends_the_other(finished: Path, ranks: Ranks, patiently: Callable[..., None]) -> None:
    shutil.rmtree("runs/tiny/train")
    main, other = ranks(2, "train", finished, "train.epochs=200")
    patiently(lambda: bool(list(Path("runs/tiny/.train.partial").glob(".checkpoints/checkpoint-*"))), "a checkpoint")
    main.kill(signal.SIGKILL)
    assert main.wait().code == -signal.SIGKILL
    left = other.wait()
    assert left.code == 1 and "Traceback" not in left.err, left.err
    assert not Path("runs/tiny/train").exists()


def test_a_failure_elsewhere_ends_a_wait() -> None:
    from torch.distributed import HashStore

    store = HashStore()
    first, second = (NoticeBoard(Processes(rank, 2, rank), store) for rank in range(2))
    first.post("train", "go")
    assert second.wait_for("train") == "go"
    assert second.first_to_fail() and not first.first_to_fail()
    with pytest.raises(FailedElsewhere, match="process 1 failed"):
        first.wait_for_all("finished")


def test_a_process_without_a_launcher_says_so(no_launch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorkError, match="start hfkit through a launcher"):
        NoticeBoard.of(Processes(1, 2, 1))


def test_a_launch_on_the_cpu_finds_no_gpu(no_launch: pytest.MonkeyPatch) -> None:
    """`accelerate launch` says so to its processes, and PyTorch would find a GPU all the same."""
    no_launch.setenv("CUDA_VISIBLE_DEVICES", "0")
    launched_processes()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    no_launch.setenv("ACCELERATE_USE_CPU", "true")
    launched_processes()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def require_as_in_one_process(done: Done, recipe: Path) -> None:
    """A launch that ended well trained what one process without it trains: the same losses, and another adapter than
    the one that it began with. `recipe` is then trained here."""
    from safetensors.torch import load_file

    def losses() -> list[float]:
        lines = Path("runs/tiny/train/metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [line["loss"] for line in map(json.loads, lines) if line["loss"] is not None]

    assert done.code == 0, done.err
    launched, adapter = losses(), load_file("runs/tiny/train/adapter/adapter_model.safetensors")
    assert all(bool(weight.any()) for name, weight in adapter.items() if "lora_B" in name)
    shutil.rmtree("runs/tiny/train")
    alone = subprocess.run([sys.executable, "-m", "hfkit", "train", str(recipe)], capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    assert launched == pytest.approx(losses(), rel=5e-3)


HALF_WITH_VALIDATION = {
    "model": {"precision": "bf16"},
    "train": {"micro_batch_size": 2, "validation": {"share": 0.2, "steps": 4, "metrics": ["loss"]}},
}


@pytest.mark.parametrize("name", ["deepspeed_zero2", "deepspeed_zero3"])
@pytest.mark.slow
def test_deepspeed_on_the_cpu(name: str, finished: Path, tiny_recipe: RecipeWriter, cold_cli: Cli) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed wants an environment of its own")
    mine = (ROOT / CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").replace("use_cpu: false", "use_cpu: true")
    Path("mine.yaml").write_text(mine, encoding="utf-8")
    recipe = tiny_recipe(**HALF_WITH_VALIDATION)
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    done = cold_cli("train", recipe, "--launch", "mine.yaml", "--processes", "2", env=environment)
    require_as_in_one_process(done, recipe)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "processes"), [("single_gpu", 1), ("fsdp2", 1), ("ddp", 2), ("fsdp2", 2), ("deepspeed_zero2", 2)]
)
def test_on_gpus(name: str, processes: int, finished: Path, tiny_recipe: RecipeWriter, cold_cli: Cli) -> None:
    import torch

    if torch.cuda.device_count() < processes:
        pytest.skip("too few CUDA GPUs")
    if name.startswith("deepspeed"):
        pytest.importorskip("deepspeed", reason="DeepSpeed wants an environment of its own")
    recipe = tiny_recipe(**HALF_WITH_VALIDATION)
    require_as_in_one_process(cold_cli("train", recipe, "--launch", name, "--processes", str(processes)), recipe)
