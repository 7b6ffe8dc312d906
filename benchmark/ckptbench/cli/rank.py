"""``ckptbench rank``: which checkpoint to take to your data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ckptbench.base.errors import InputError
from ckptbench.cli import options as opt

if TYPE_CHECKING:
    import pandas as pd

    from ckptbench.ranking.answer import Ranking


def rank(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(metavar="CHECKPOINTS", help="a folder, or files in the order of time"),
    ],
    arch: Annotated[str, typer.Option("--arch", help="resnet18, resnet18:stem=small, timm/NAME, ...")],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="a folder of images per class, .csv or .tsv (path,label or text,label), .npz, a folder of "
            "Hugging Face's datasets, or a set by name",
        ),
    ],
    goal: Annotated[opt.Goal, typer.Option("--for", help="frozen features (fe) or fine-tuning (ft)")] = "fe",
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="time for probes or fine-tunings (10m, 2h), or for ft '30 runs'"),
    ] = None,
    task: Annotated[
        Literal["classification", "multilabel", "regression"],
        typer.Option("--task", help="one class an example, labels with ; between, or numbers"),
    ] = "classification",
    metric: Annotated[
        Literal["accuracy", "balanced", "auroc", "map", "r2"] | None,
        typer.Option(
            "--metric",
            help="accuracy, balanced or auroc; of labels map or auroc, of numbers r2",
            show_default=False,
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option("--groups", help="groups that no fold may split: a column, or a CSV file (path,group)"),
    ] = None,
    size: Annotated[int | None, typer.Option("--size", help="side of the images in pixels")] = None,
    normalise: Annotated[
        str | None,
        typer.Option("--normalise", help="mean/deviation of the pixels, as in .5,.5,.5/.25,.25,.25"),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="where in the files the weights are, as in model_ema")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="of the weights' names, as in encoder_q.")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option("--pattern", help="a regular expression whose group is the epoch in a name"),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="stop at a checkpoint that cannot be used")
    ] = False,
    top: Annotated[int, typer.Option("--top", min=1, help="how many checkpoints to print")] = 5,
    limit: Annotated[int, typer.Option("--limit", min=10, help="use at most this many examples")] = 2000,
    store: opt.StorePath = None,
    device: opt.Device = "auto",
    workers: opt.Workers = None,
    precision: opt.Precision = "fp32",
    plugins: opt.Plugins = None,
    layer: opt.Layer = None,
    json_: opt.Json = False,
    csv: Annotated[Path | None, typer.Option("--csv", help="write the whole table here")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="write a page with the answer here")] = None,
    quiet: opt.Quiet = False,
) -> None:
    """Say which checkpoint to take to your data, measured on your data, and how surely."""
    from ckptbench.base.files import write_text
    from ckptbench.pipeline.progress import Reporter
    from ckptbench.ranking.run import rank as rank_checkpoints

    for path in (csv, html):  # before hours of work
        if path is not None and path.is_dir():
            raise InputError(f"{path} is a folder: name the file to write")
    ranking = rank_checkpoints(
        checkpoints[0] if len(checkpoints) == 1 else checkpoints,
        arch,
        data,
        goal=goal,
        budget=budget,
        task=task,
        metric=metric,
        groups=groups,
        plugins=plugins or (),
        layer=layer,
        size=size,
        normalise=_normalisation(normalise),
        key=key,
        prefix=prefix,
        pattern=pattern,
        strict=strict,
        device=device,
        precision=precision,
        store=store,
        workers=workers,
        limit=limit,
        reporter=Reporter(quiet),
    )
    if csv is not None:
        write_text(csv, ranking.table.to_csv(index=False))
    if html is not None:
        ranking.to_html(html)
    if json_:
        print(ranking.to_json())
        return
    _print(ranking, top)


def _print(ranking: Ranking, top: int) -> None:
    """The answer, a chart of what was measured, the first rows of the table, and what it rests on."""
    from ckptbench.pages.terminal import terminal_chart

    for heading, sentence in ranking.verdict.items():
        print(f"{heading}: {sentence}")
    in_time = ranking.table.sort_values("epoch")
    known = in_time[in_time["measured"].notna()]
    if len(known) > 1:
        print("\n" + terminal_chart(known["epoch"].to_numpy(), 100 * known["measured"].to_numpy()))
    if len(known):
        print()
        opt.print_frame(_shown(ranking.table).head(top), False)
    print("\nUsed")
    for heading, sentence in ranking.used.items():
        print(f"  {heading}: {sentence}")


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    from ckptbench.base.text import number

    def interval(row: pd.Series, name: str) -> str:
        low, value, high = (100 * row[f"{name}{end}"] for end in ("_low", "", "_high"))
        if not pd.notna(value):
            return ""
        ends = f" ({number(low, 1)} to {number(high, 1)})" if pd.notna(low) else ""
        return f"{number(value, 1)}{ends}"

    return pd.DataFrame(
        {
            "rank": table["rank"],
            "epoch": table["epoch"],
            "checkpoint": table["checkpoint"],
            "measured, %": [interval(row, "measured") for _, row in table.iterrows()],
            "points below the pick": [
                interval(row, "below") if row["below_low"] < row["below_high"] else ""
                for _, row in table.iterrows()
            ],
            "tied": ["tied" if tied else "" for tied in table["tied"]],
        }
    )


def _normalisation(text: str | None) -> tuple[list[float], list[float]] | None:
    if text is None:
        return None
    try:
        mean, std = ([float(one) for one in part.split(",")] for part in text.split("/"))
    except ValueError:
        raise InputError(
            f"--normalise {text!r} should be means/deviations, as in 0.485,0.456,0.406/0.229,0.224,0.225"
        ) from None
    return mean, std
