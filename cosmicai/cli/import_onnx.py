"""cosmicai model import-onnx: any network, from an ONNX file."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cosmicai.cli.common import FROM_THE_START, console, interruptible
from cosmicai.cli.paths import InFile, OutFolder
from cosmicai.cli.values import PAIR, Names, Refused, Text, whole
from cosmicai.results.outputs import made, writing

_LABEL = whole(-(2**24), 2**24)

Pairs = list[str] | None


@interruptible(FROM_THE_START)
def model_import_onnx(
    file: Annotated[Path, typer.Argument(parser=InFile(), help="An ONNX file.")],
    out: Annotated[Path, typer.Argument(parser=OutFolder(new=True), help="Model folder to write.")],
    inputs: Annotated[
        Pairs,
        typer.Option(
            "--input",
            parser=PAIR,
            metavar="TENSOR=NAME",
            help="A tensor (images, magnitudes, values) and the graph's input that takes it; repeatable.",
        ),
    ] = None,
    outputs: Annotated[
        Pairs,
        typer.Option(
            "--output",
            parser=PAIR,
            metavar="COLUMN=NAME",
            help="A column of the catalogue and the graph's output for it; repeatable. "
            "The column of a redshift is called redshift.",
        ),
    ] = None,
    classes: Annotated[
        Pairs,
        typer.Option(
            parser=PAIR,
            metavar="COLUMN=A,B,…",
            help="The names of a column's classes, in the order of the output; repeatable.",
        ),
    ] = None,
    labels: Annotated[
        Pairs,
        typer.Option(
            parser=PAIR,
            metavar="COLUMN=0,1,…",
            help="The numbers of these classes in partitions; default: from 0; repeatable.",
        ),
    ] = None,
    kinds: Annotated[
        Pairs,
        typer.Option(
            "--kind",
            parser=PAIR,
            metavar="COLUMN=KIND",
            help="What a column is: regression, or values, which have no true values; repeatable.",
        ),
    ] = None,
    units: Annotated[
        Pairs,
        typer.Option(
            "--unit",
            parser=PAIR,
            metavar="COLUMN=UNIT",
            help="The unit of a column, such as solMass or km/s, by the FITS standard and VOUnits; repeatable.",
        ),
    ] = None,
    ucds: Annotated[
        Pairs,
        typer.Option(
            "--ucd",
            parser=PAIR,
            metavar="COLUMN=UCD",
            help="The UCD of a column, such as phys.mass, by the IVOA's UCD1+; repeatable.",
        ),
    ] = None,
    descriptions: Annotated[
        Pairs,
        typer.Option(
            "--description",
            parser=PAIR,
            metavar="COLUMN=TEXT",
            help="What a column is, for whoever reads the catalogue; repeatable.",
        ),
    ] = None,
    logits: Annotated[
        list[str] | None,
        typer.Option(
            parser=Text("a column"),
            metavar="COLUMN",
            help="A column of classes whose output is logits, not probabilities; repeatable.",
        ),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(
            parser=Text("a column"),
            metavar="COLUMN",
            help="The column whose true values partitions have, if several outputs have true values.",
        ),
    ] = None,
) -> None:
    """Makes a model folder of any network in an ONNX file: ranks run it like our own.

    Each input takes a tensor of the partitions, and each output becomes columns of the catalogue. If the file
    and the options leave a choice open, the command stops and lists the possibilities.

    Example: cosmicai model import-onnx net.onnx models/types --output type=p --classes type=galaxy,star
    """
    from cosmicai.model.import_onnx import import_onnx, report_lines
    from cosmicai.model.onnxfile.choosing import Asked

    asked = Asked(
        inputs=_pairs("--input", inputs),
        outputs=_pairs("--output", outputs),
        kinds=_pairs("--kind", kinds),
        classes={column: Names()(text) for column, text in _pairs("--classes", classes).items()},
        labels={column: _numbers(text) for column, text in _pairs("--labels", labels).items()},
        logits=tuple(logits or ()),
        truth=truth,
        units=_pairs("--unit", units),
        ucds=_pairs("--ucd", ucds),
        descriptions=_pairs("--description", descriptions),
    )
    command = shlex.join(["cosmicai", *sys.argv[1:]])
    with writing(out), made(out.absolute().parent):
        card = import_onnx(file, out, asked, command)
    for line in report_lines(card, out):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _pairs(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    pairs = [text.split("=", 1) for text in texts or ()]
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise Refused(name, "is given twice", option)
    return dict(pairs)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(_LABEL(part.strip()) for part in text.split(","))
    except Refused as error:
        raise Refused(text, "give whole numbers with commas", "--labels") from error
