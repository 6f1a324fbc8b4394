"""Several processes that share each step: the same loss curve and weights as one process, and exact resume."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import HashStore

from hfkit.errors import RequestError, WorkError
from hfkit.noticeboard import FailedElsewhere, NoticeBoard
from hfkit.processes import Processes
from hfkit.progress import Progress
from hfkit.training.checkpoints import seal_checkpoint
from hfkit.training.collation import IGNORED, CollateTrainedPositions, Layout, TrainingRow, is_empty
from hfkit.training.determinism import conditions_here
from hfkit.training.isolation import token_losses
from hfkit.training.microbatches import FILLER
from hfkit.training.resuming import where_to_go_on
from hfkit.training.sampling import PlannedSteps, length_grouped_order
from hfkit.training.state import TrainingState
from hfkit.training.trainer import PackedRows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tests.conftest import Cli, Ranks, Started

WeightsOf = Callable[[Path], dict[str, torch.Tensor]]
LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=70)
CAPACITIES = st.none() | st.integers(300, 900)
MICRO = st.sampled_from(["auto", 1, 2, 4, 8])
WORLDS = st.integers(1, 5)

# What a step is divided into, packed or not; 18 rows by 4, so the last step of an epoch has two.
DIVISIONS = {
    "a row a pass": ["train.micro_batch_size=1"],
    "packed": ["data.packing=true"],
    # The last step has one row, and the second process nothing to do.
    "a rank without work": ["train.batch_size=17", "train.micro_batch_size=1", "train.epochs=3"],
    "all weights": ["model.adapter=null", "train.learning_rate=1.0e-3"],
}
MORE_DIVISIONS = {
    "one pass": ["train.micro_batch_size=4"],
    "packed, a row a pass": ["data.packing=true", "train.micro_batch_size=1"],
}


def divided(lengths: list[int], world_size: int, **changed: Any) -> list[PlannedSteps]:
    """The plan of each rank."""
    given = {"rows_a_step": 8, "micro_batch_size": "auto", "tokens_at_once": 1024, "capacity": None, "seed": 3}
    return [
        PlannedSteps(lengths, rank=rank, world_size=world_size, **{**given, **changed}) for rank in range(world_size)
    ]


@given(LENGTHS, CAPACITIES, MICRO, WORLDS, st.integers(0, 2))
def test_ranks_share_a_step_s_rows_and_compute_in_step(
    lengths: list[int], capacity: int | None, micro: Any, world_size: int, epoch: int
) -> None:
    plans = divided(lengths, world_size, capacity=capacity, micro_batch_size=micro)
    for plan in plans:
        plan.set_epoch(epoch)
    size = plans[0].micro_batches_a_step
    items = [list(plan) for plan in plans]
    assert {len(own) for own in items} == {len(plans[0])} == {size * plans[0].steps_an_epoch}
    order = length_grouped_order(lengths, 8, 3, epoch)
    for number, start in enumerate(range(0, len(items[0]), size)):
        step = [own[start : start + size] for own in items]
        # A step has its rows, each once, whoever computes them.
        rows = [row for own in step for micro_batch in own for pack in micro_batch for row in pack]
        assert Counter(rows) == Counter(order[8 * number : 8 * number + 8])
        # FSDP and DDP wait in each pass: where one rank computes, all do, and the optimiser moves after a pass.
        for together in zip(*step, strict=True):
            assert all(together) or not any(together)
            assert not all(micro_batch == FILLER for micro_batch in together)
        assert all(own[-1] for own in step)


@given(LENGTHS, CAPACITIES, WORLDS, st.integers(32, 2048))
def test_no_rank_computes_more_at_once_than_one_process_would(
    lengths: list[int], capacity: int | None, world_size: int, budget: int
) -> None:
    (alone,) = divided(lengths, 1, capacity=capacity, tokens_at_once=budget)
    for plan in divided(lengths, world_size, capacity=capacity, tokens_at_once=budget):
        assert plan.micro_batches_a_step <= alone.micro_batches_a_step


def test_a_step_that_cannot_keep_all_processes_busy_is_refused() -> None:
    with pytest.raises(RequestError, match=r"train\.batch_size: 2 rows a step cannot be shared by 3 processes"):
        divided([5] * 20, 3, rows_a_step=2)


@pytest.mark.parametrize("layout", ["padded", "blocks", "end_to_end"])
def test_a_filler_is_computed_and_trains_nothing(layout: Layout, tiny_family: Callable[..., PreTrainedModel]) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"input_ids": [[5, 6, 7]], "spans": [[1, 3]]})
    packs = [PackedRows(rows)[pack] for pack in FILLER]
    batch = CollateTrainedPositions(0, layout)(packs)
    assert not is_empty(batch)
    assert int(batch["labels"].ne(IGNORED).sum()) == 0
    model = tiny_family("llama")
    assert len(token_losses(model, packs, layout)) == 0
    labels = batch.pop("labels")
    del batch["shift_labels"]
    logits = model(**batch).logits.flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="sum") / 9
    loss.backward()
    assert float(loss.detach()) == 0.0
    gradients = [weight.grad for weight in model.parameters()]
    # All take part, with nothing: DDP waits for each.
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_rows_beside_a_filler_are_computed_as_alone(tiny_family: Callable[..., PreTrainedModel]) -> None:
    model = tiny_family("llama")
    row: TrainingRow = {"input_ids": [5, 6, 7, 8], "spans": [1, 4]}
    alone, beside = token_losses(model, [[row]], "padded"), token_losses(model, [[row], []], "padded")
    torch.testing.assert_close(alone, beside)


def train(start: Callable[[], list[Started]]) -> tuple[list[dict[str, Any]], Path]:
    """The lines of training that the run left, and a copy of what it left."""
    ended = [process.wait() for process in start()]
    assert [done.code for done in ended] == [0] * len(ended), [done.err for done in ended]
    kept = Path(f"kept-{len(list(Path().glob('kept-*')))}")
    shutil.copytree("runs/tiny/train", kept)
    lines = [json.loads(line) for line in (kept / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["split"] == "train"], kept


@pytest.mark.parametrize(
    "division",
    [
        *(pytest.param(division, id=name) for name, division in DIVISIONS.items()),
        *(pytest.param(division, id=name, marks=pytest.mark.slow) for name, division in MORE_DIVISIONS.items()),
    ],
)
def test_two_processes_train_as_one_does(
    division: list[str], finished: Path, cli: Cli, ranks: Ranks, weights_of: WeightsOf
) -> None:
    overrides = ["model.adapter.dropout=0", "train.keep_checkpoints=0", "track=[]", *division]
    if "model.adapter=null" in division:
        overrides.remove("model.adapter.dropout=0")
    expected, one = train(lambda: [cli.start("train", finished, *overrides)])
    # The number of processes is no part of what a stage reads, so the run must be made to start again.
    shutil.rmtree("runs/tiny/train")
    found, two = train(lambda: ranks(2, "train", finished, *overrides))
    for key in ("step", "epoch", "learning_rate", "tokens"):
        assert [line[key] for line in found] == [line[key] for line in expected]
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in found] == pytest.approx([line[key] for line in expected], rel=1e-5, abs=1e-5)
    first, second = weights_of(one), weights_of(two)
    assert first.keys() == second.keys()
    for name, weight in first.items():
        # Adam divides tiny gradients by their own size, so rounding shows in single weights before it does in a loss.
        torch.testing.assert_close(second[name], weight, atol=1e-4, rtol=1e-4)


def test_two_processes_go_on_to_the_very_weights_of_an_uninterrupted_run(
    finished: Path, ranks: Ranks, weights_of: WeightsOf, patiently: Callable[..., None]
) -> None:
    """Each draws other numbers for dropout, and takes up its own again."""
    overrides = ["model.adapter.dropout=0.2", "train.save_steps=2", "train.epochs=3", "track=[]"]
    _, whole = train(lambda: ranks(2, "train", finished, *overrides))
    shutil.rmtree("runs/tiny/train")
    processes = ranks(2, "train", finished, *overrides)
    # In the second epoch, whose rows come in another order.
    partial = Path("runs/tiny/.train.partial")
    patiently(lambda: (partial / ".checkpoints/checkpoint-6").is_dir(), "a checkpoint")
    processes[1].kill(signal.SIGKILL)
    assert processes[1].wait().code == -signal.SIGKILL
    left = processes[0].wait()
    assert left.code == 1 and "Traceback" not in left.err and left.err.count("hfkit:") == 1, left.err
    assert not Path("runs/tiny/train").exists(), "half a run looks like a whole one"
    found, again = train(lambda: ranks(2, "train", finished, *overrides))
    assert json.loads((again / "artifact.json").read_text())["result"]["continued_from_step"] >= 6
    assert [line["step"] for line in found] == list(range(1, len(found) + 1))
    expected, weights = weights_of(whole), weights_of(again)
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())


def test_another_number_of_processes_goes_on_with_the_same_steps(
    finished: Path, cli: Cli, ranks: Ranks, patiently: Callable[..., None]
) -> None:
    overrides = ["model.adapter.dropout=0", "train.keep_checkpoints=0", "train.epochs=3", "track=[]"]
    expected, _ = train(lambda: [cli.start("train", finished, *overrides)])
    shutil.rmtree("runs/tiny/train")
    started = cli.start("train", finished, *overrides)
    patiently(lambda: Path("runs/tiny/.train.partial/.checkpoints/checkpoint-2").is_dir(), "a checkpoint")
    started.kill()
    started.wait()
    processes = ranks(2, "train", finished, *overrides)
    main, other = [process.wait() for process in processes]
    assert main.code == other.code == 0, main.err + other.err
    assert "1 processes shared each step so far, from now on 2 do" in main.err
    promised = json.loads(Path("runs/tiny/train/artifact.json").read_text())["result"]["deterministic"]
    assert promised.startswith("none: the run was interrupted") and "processes 2 instead of 1" in promised
    lines = [json.loads(line) for line in Path("runs/tiny/train/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert losses == pytest.approx([line["loss"] for line in expected], rel=1e-5)


@pytest.mark.parametrize("part", ["pytorch_model_fsdp_0/__0_0.distcp", "global_step4/zero_pp_rank_0.pt"])
def test_a_checkpoint_in_parts_wants_as_many_processes(part: str, workplace: Path) -> None:
    partial = workplace / ".checkpoints" / ".partial"
    (partial / part).parent.mkdir(parents=True)
    (partial / part).write_bytes(b"weights of a process")
    written_by = conditions_here(processes=2, precision="fp32")
    state = TrainingState()
    state.go_on(0, written_by)
    seal_checkpoint(partial, workplace / ".checkpoints", 4, state)
    for count in (1, 4):
        own = conditions_here(processes=count, precision="fp32")
        with pytest.raises(RequestError, match="2 processes have written its parts"):
            where_to_go_on(workplace, Progress(quiet=True), Processes(0, count, 0), own)
    checkpoint, _ = where_to_go_on(workplace, Progress(quiet=True), Processes(0, 2, 0), written_by)
    assert checkpoint is not None and checkpoint.name == "checkpoint-4"


def two_go_on(folders: tuple[Path, Path]) -> list[Path | BaseException | None]:
    """What each of two processes, which see `folders`, goes on from, or why it cannot."""
    store = HashStore()

    def go_on(rank: int) -> Path | BaseException | None:
        processes = Processes(rank, 2, rank)
        board = NoticeBoard(processes, store)
        try:
            own = conditions_here(processes=2, precision="fp32")
            return where_to_go_on(folders[rank], Progress(quiet=True), processes, own, board)[0]
        except (WorkError, FailedElsewhere) as error:
            board.first_to_fail()
            return error

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(go_on, range(2)))


def test_all_processes_go_on_from_the_checkpoint_that_the_main_one_chose(workplace: Path) -> None:
    for folder in ("first", "second"):
        for step in (4, 6):
            partial = workplace / folder / ".checkpoints" / ".partial"
            partial.mkdir(parents=True)
            (partial / "optimizer.pt").write_bytes(b"numbers")
            seal_checkpoint(partial, workplace / folder / ".checkpoints", step, TrainingState())
    first, second = workplace / "first", workplace / "second"
    assert two_go_on((first, first)) == [first / ".checkpoints/checkpoint-6"] * 2
    # Each for itself, they would part ways: the first can read step 4 only, the second has both.
    (first / ".checkpoints/checkpoint-6/optimizer.pt").write_bytes(b"damaged")
    assert two_go_on((first, second)) == [each / ".checkpoints/checkpoint-4" for each in (first, second)]
    (second / ".checkpoints/checkpoint-4/optimizer.pt").write_bytes(b"damaged")
    main, other = two_go_on((first, second))
    assert isinstance(main, FailedElsewhere) and isinstance(other, WorkError)
    assert "process 1 cannot go on from" in str(other) and "optimizer.pt is not what was written" in str(other)
