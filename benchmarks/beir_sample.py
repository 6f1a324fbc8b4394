"""Folders in BEIR's layout for benchmarks: read, cut down, and changed a little."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from rag.qrels import judged_files, splits

Row = dict[str, str]


def corpus_rows(folder: Path) -> list[Row]:
    """The rows of `corpus.jsonl`, compressed or not."""
    plain, compressed = folder / "corpus.jsonl", folder / "corpus.jsonl.gz"
    if not plain.is_file() and not compressed.is_file():
        raise SystemExit(f"{folder} holds no corpus.jsonl, so it is no folder in BEIR's layout")
    text = plain.read_text(encoding="utf-8") if plain.is_file() else gzip.decompress(compressed.read_bytes()).decode()
    # Not splitlines: a JSON string may hold line separators of Unicode.
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def write_corpus(folder: Path, rows: list[Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "corpus.jsonl").write_text(lines, encoding="utf-8")


def write_sample(folder: Path, into: Path, documents: int) -> Path:
    """`documents` documents of `folder`, with what each split judges of them; first those that its test split judges,
    so that there is something to measure."""
    rows = corpus_rows(folder)
    judged = {split: judged_files(folder, split) for split in splits(folder)}
    # Line by line: query, document, grade.
    lines = {split: files[1].read_text(encoding="utf-8").splitlines() for split, files in judged.items()}
    answers = {line.split("\t")[1] for line in lines["test"] if "\t" in line}
    kept = sorted(rows, key=lambda row: row["_id"] not in answers)[:documents]
    write_corpus(into, kept)
    ids = {row["_id"] for row in kept}
    (into / "qrels").mkdir()
    for split, said in lines.items():
        chosen = [said[0], *(line for line in said[1:] if line.split("\t")[1] in ids)]
        (into / "qrels" / f"{split}.tsv").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    queries = judged["test"][0]
    (into / queries.name).write_bytes(queries.read_bytes())
    return into


def changed(rows: list[Row], share: float) -> list[Row]:
    """`rows` with a sentence added to an evenly spread `share` of them."""
    every = round(1 / share)
    return [
        row | {"text": f"{row['text']} This abstract was revised."} if place % every == 0 else row
        for place, row in enumerate(rows)
    ]
