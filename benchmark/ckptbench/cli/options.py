"""What the commands share: arguments, options, and how an answer is printed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    import pandas as pd

    from ckptbench.results import Results

Goal = Literal["fe", "ft"]
SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="a suite's name, or the path of a TOML file")]
StorePath = Annotated[
    Path | None, typer.Option("--store", help="the cache; CKPTBENCH_STORE or .ckptbench by default")
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="where networks run")]
Precision = Annotated[
    Literal["fp32", "bf16"], typer.Option("--precision", help="numerical precision of feature extraction")
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="processes; one per core, or per GPU, by default")
]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugins", help="a plugin file or folder; repeatable, also CKPTBENCH_PLUGINS"),
]
Layer = Annotated[str | None, typer.Option("--layer", help="take features from the input of this layer")]
Json = Annotated[bool, typer.Option("--json", help="print the answer as JSON")]
Quiet = Annotated[bool, typer.Option("--quiet", help="show no progress")]
From = Annotated[
    Path | None,
    typer.Option(
        "--from", help="the folder that holds <suite>/; by default a local run, else what is published"
    ),
]
PUBLISHED = Path("results")
Publish = Annotated[
    bool, typer.Option("--publish", help="for maintainers: write results/<suite>/, the published record")
]


def split_labels(text: str | None) -> tuple[str, ...] | None:
    """``a,b:k=3,scale=std,c`` -> ("a", "b:k=3,scale=std", "c"): a comma inside parameters stays."""
    if text is None:
        return None
    labels: list[str] = []
    for part in filter(None, text.split(",")):
        if "=" in part and ":" not in part and labels:
            labels[-1] += "," + part
        else:
            labels.append(part)
    return tuple(labels)


def results_folder(suite: str, from_: Path | None, store: Path | None) -> tuple[Path, bool]:
    """A suite's results folder, and whether it is the published one; says which of them is read."""
    from ckptbench.results import find_results

    folder, which = find_results(suite, store, from_)
    if from_ is None:
        print(f"{which} results of {folder.name}", file=sys.stderr)
    return folder, which == "published"


def read_results(suite: str, from_: Path | None, store: Path | None) -> Results:
    from ckptbench.results import Results

    return Results.read(results_folder(suite, from_, store)[0])


def rows_of(frame: pd.DataFrame) -> Any:
    """A table's rows as JSON holds them: null where there is no number."""
    return json.loads(frame.to_json(orient="records"))


def print_json(content: object) -> None:
    print(json.dumps(content, indent=1, ensure_ascii=False))


def print_frame(frame: pd.DataFrame, as_json: bool) -> None:
    """A table on standard output, or its rows as JSON."""
    if as_json:
        print_json(rows_of(frame))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for position, name in enumerate(frame.columns):
        table.add_column(str(name), overflow="fold", no_wrap=position == 0)
    for row in frame.itertuples(index=False):
        table.add_row(*("" if value is None else str(value) for value in row))
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 120  # a pipe has no width, and 80 fold most tables
    console.print(table)
