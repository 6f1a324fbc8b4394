"""Datasets of the Hub, through the library `datasets`. Code of a dataset's own is never run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import JsonValue

from hfkit.data.ledger import Ledger
from hfkit.data.sources.batch import Located
from hfkit.data.sources.parquet import BINARY_COLUMN
from hfkit.errors import RequestError, UnknownOnHubError, hub_network_error
from hfkit.quiet import quiet_libraries
from hfkit.recipe import HubSource

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def hub_name(source: HubSource) -> str:
    """What the places of the split's rows begin with: `hub:ID/SPLIT`, with configuration and revision where the recipe
    names them: `hub:ID:CONFIG/SPLIT@REVISION`."""
    config = "" if source.config is None else f":{source.config}"
    revision = "" if source.revision is None else f"@{source.revision}"
    return f"hub:{source.hub}{config}/{source.split}{revision}"


def hub_rows(source: HubSource, ledger: Ledger, batch_rows: int) -> Iterator[Located]:
    """The split's rows. Columns with pictures, sound or other binary data are left out and noted; classes that are
    stored as numbers get their names.

    Raises:
        RequestError: there is no such dataset, configuration, split or revision, or it cannot be fetched.
    """
    _check_id(source)
    with quiet_libraries():
        dataset = _load(source)
    from hfkit.data.sources.arrow_rows import binary_columns, rows_of

    name = hub_name(source)
    classes = _classes(dataset)
    left_out: set[str] = set()
    number = 0
    tables = iter(dataset.with_format("arrow").iter(batch_size=batch_rows))
    while (table := _next_table(tables, f"{name}#{number}")) is not None:
        binary = binary_columns(table.schema)
        for column in binary:
            if column not in left_out:
                ledger.note(BINARY_COLUMN, name, column)
        left_out.update(binary)
        if len(binary) == table.num_columns:
            raise RequestError(f"{name}: has no columns but of binary data ({', '.join(binary)}), which is no text")
        for batch in table.drop_columns(binary).to_batches():
            for row, place, size in rows_of(batch, name, number, ledger):
                yield _with_class_names(row, classes), place, size
            number += batch.num_rows


def hub_identity(source: HubSource) -> JsonValue:
    """The commit that is read: asked of the Hub, or offline what the cache last saw; null where nobody knows it."""
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE

    _check_id(source)
    commit: str | None
    if HF_HUB_OFFLINE:
        commit = _cached_commit(source)
    else:
        try:
            commit = HfApi().dataset_info(source.hub, revision=source.revision).sha
        except _failures() as error:
            raise UnknownOnHubError(str(_refusal(source, error))) from error
    identity: dict[str, JsonValue] = {"hub": source.hub, "commit": commit}
    # Where rows have other names than before, they are prepared again.
    named = source.config is not None or source.revision is not None
    return {**identity, "rows": hub_name(source)} if named else identity


def _cached_commit(source: HubSource) -> str | None:
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    revision = source.revision or "main"
    folder = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=source.hub, repo_type="dataset")
    if (folder / "snapshots" / revision).is_dir():
        return revision
    reference = folder / "refs" / revision
    return reference.read_text(encoding="utf-8").strip() if reference.is_file() else None


def check_hub(source: HubSource) -> tuple[Literal["ok", "note"], str]:
    """Whether the dataset is in the cache, or will be fetched.

    Raises:
        RequestError: the id is none, or it is not in the cache and HF_HUB_OFFLINE is set.
    """
    from huggingface_hub.constants import HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE
    from huggingface_hub.file_download import repo_folder_name

    _check_id(source)
    prepared = Path(os.environ.get("HF_DATASETS_CACHE", Path(HF_HOME) / "datasets")) / source.hub.replace("/", "___")
    fetched = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=source.hub, repo_type="dataset")
    if prepared.is_dir() or fetched.is_dir():
        return "ok", f"{source.hub} is in the cache"
    if HF_HUB_OFFLINE:
        raise _not_cached(source)
    return "note", f"{source.hub} will be {'read' if source.streaming else 'fetched'} from the Hub"


def _check_id(source: HubSource) -> None:
    if not _ID.fullmatch(source.hub):
        raise RequestError(f"hub: {source.hub}: no dataset's id on the Hub, which has the form owner/name")
    # The library would read the folder, and nobody would know.
    if Path(source.hub).exists():
        raise RequestError(f"hub: {source.hub}: is a path on this machine too; to read that, write path: instead")


def _load(source: HubSource) -> Dataset | IterableDataset:
    from datasets import Dataset, load_dataset
    from huggingface_hub.constants import HF_HUB_OFFLINE

    try:
        dataset = load_dataset(
            source.hub, source.config, split=source.split, revision=source.revision, streaming=source.streaming
        )
    except _failures() as error:
        raise _refusal(source, error) from error
    if HF_HUB_OFFLINE and source.revision is not None:
        # Offline the library takes what it cached last, whatever revision it is asked for.
        files = dataset.cache_files if isinstance(dataset, Dataset) else []
        if not files or Path(files[0]["filename"]).parent.name != _cached_commit(source):
            raise RequestError(
                f"hub: {source.hub}: revision {source.revision} is not in the cache and HF_HUB_OFFLINE is set; unset "
                "it once so that the dataset can be fetched (streaming: false keeps it)"
            )
    return dataset


def _next_table(tables: Iterator[Any], place: str) -> Any:
    """The next Arrow table, None at the end."""
    try:
        return next(tables, None)
    except _failures() as error:
        raise RequestError(f"{place}: cannot be read: {_in_words(error)}") from error


def _failures() -> tuple[type[Exception], ...]:
    """What the libraries raise where the network, the Hub or the dataset's files are at fault."""
    import pyarrow as pa
    from datasets.exceptions import DatasetsError

    network = hub_network_error()
    return (DatasetsError, OSError, ValueError, RuntimeError, NotImplementedError, pa.ArrowException, network)


def _refusal(source: HubSource, error: Exception) -> RequestError:
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if HF_HUB_OFFLINE and isinstance(error, (ConnectionError, DatasetNotFoundError)):
        return _not_cached(source)
    if isinstance(error, (DatasetNotFoundError, RepositoryNotFoundError, RevisionNotFoundError)):
        at = f" at revision {source.revision}" if source.revision else ""
        return RequestError(
            f"hub: {source.hub}: there is no such dataset on the Hub{at}, or it is private or gated: "
            "then log in with hf auth login, and accept its terms on its page"
        )
    return RequestError(f"hub: {source.hub} (split {source.split}): {_in_words(error)}")


def _not_cached(source: HubSource) -> RequestError:
    return RequestError(
        f"hub: {source.hub}: is not in the cache and HF_HUB_OFFLINE is set; unset it once so that the dataset can be "
        "fetched, or read it from a file"
    )


def _classes(dataset: Dataset | IterableDataset) -> Mapping[str, Sequence[str]]:
    """The names of classes, by column. A stream does not always know its columns before it is read."""
    from datasets import ClassLabel

    features = dataset.features or {}
    return {name: feature.names for name, feature in features.items() if isinstance(feature, ClassLabel)}


def _with_class_names(row: Mapping[str, Any], classes: Mapping[str, Sequence[str]]) -> Mapping[str, Any]:
    if not classes:
        return row
    named = dict(row)
    for column, names in classes.items():
        number = named.get(column)
        # -1 is how datasets say that a row has no label.
        named[column] = names[number] if isinstance(number, int) and number >= 0 else None
    return named


def _in_words(error: Exception) -> str:
    """All of it, on one line: the libraries list what there is below, and give the cause in an error of its own."""
    cause = f" ({_in_words(error.__cause__)})" if isinstance(error.__cause__, Exception) else ""
    return (" ".join(str(error).split())[:400] or type(error).__name__) + cause
