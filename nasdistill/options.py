"""The options of the commands, each with its help (`cli` names their defaults), and texts that hold several."""

from pathlib import Path
from typing import Annotated

import typer

# of the commands that read a run
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as `search` printed it.")]
DeviceOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="The front on one device of the run: accuracy against its latency.")
]
TrialOption = Annotated[str, typer.Option(help="A trial's number, or 'best': the front's knee, or what --select says.")]
SelectOption = Annotated[
    str | None,
    typer.Option(help="Which is best: knee, fastest, most-accurate, 'latency_ms<=20', 'map50>=0.8', and so on."),
]
MovedOption = Annotated[str | None, typer.Option(metavar="PATH", help="Where it lies now [default: where it lay].")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
ExportedOption = Annotated[
    str, typer.Option(help="A number, 'front' for all of its members, or 'best': its knee, or what --select says.")
]
TrainedOption = Annotated[bool, typer.Option("--trained", help="The student as `train` left it.")]
FormatsOption = Annotated[str, typer.Option("--format", help="Formats, comma-separated: onnx, safetensors.")]
FolderOption = Annotated[Path | None, typer.Option(help="The folder for the files [default: RUN/export].")]

# of search
Budget = Annotated[
    str | None,
    typer.Option(
        help="Time (90s, 30m, 2h), trials (40trials) or training work (200epochs). Required, except with --resume."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="An Ultralytics-style data.yaml. Without data and teacher: the embedded demo. none: images synthesised "
        "from the teacher (experimental)."
    ),
]
Teacher = Annotated[
    str | None, typer.Option(help="An Ultralytics detection checkpoint (.pt), or bare tensors (.safetensors, .pt).")
]
TeacherYaml = Annotated[
    str | None, typer.Option(help="Model YAML of a teacher that is a file of bare tensors, e.g. yolo11n.yaml.")
]
TrustTeacher = Annotated[
    bool, typer.Option("--trust-teacher", help="Unpickle a teacher that holds unknown classes. It can run any code.")
]
Space = Annotated[
    str | None,
    typer.Option(
        help="A search space: a file, or the name of a shipped one [default: edge-default; of the demo, demo]."
    ),
]
Device = Annotated[
    list[str] | None,
    typer.Option(
        help="Where latency is measured: a file, or a shipped name. Once for each of several, the main one first."
    ),
]
Objectives = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAMES",
        help="An accuracy and one or two costs, comma-separated: map50_95 or map50; latency_ms, latency_p90_ms, params_m, "
        "gflops, size_mb, energy_mj, latency_ms@DEVICE [default: map50_95 and the latency, on two devices if there are].",
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        help="How points are proposed: latency-first, random, tpe, nsga2, nsga3, gp, qmc [default: latency-first]."
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Early stopping of trials: pareto-asha (at a ninth and a third) or none [default: none]."),
]
Constraint = Annotated[
    list[str] | None,
    typer.Option(metavar="LIMIT…", help="Reject students before training: 'latency_ms<=20' 'params_m<=2'."),
]
Enqueue = Annotated[
    Path | None, typer.Option(help="Begin with the configurations in this file (YAML, JSON, or CSV as trials.csv).")
]
WarmStart = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Learn from an earlier run on the same space, device, data and teacher."),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Trials at the same time [default: one a core].")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of views, weights and proposals [default: 0].")]
Epochs = Annotated[
    int | None,
    typer.Option(min=1, max=10_000, help="Length of a trial [default: fitted to a time budget, else 8]."),
]
Recipe = Annotated[
    str | None, typer.Option(help="Distillation recipe: short or classic [default: the space's, else short].")
]
Repeats = Annotated[
    int | None,
    typer.Option(
        min=0, max=100, help="Train the front again with this many other seeds [default: 2, of a trials budget 0]."
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="auto, float32 or bfloat16 [default: auto: bfloat16 where the hardware has it, float16 on older GPUs]."
    ),
]
Cache = Annotated[
    str | None,
    typer.Option(help="How the teacher's targets are kept: full, sparse, online (not at all), auto [default: auto]."),
]
Out = Annotated[Path | None, typer.Option(help="The run folder [default: results/<date and time>].")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out (or the latest one); --budget is its new total.")
]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Database of the Optuna study: postgresql+psycopg://…, mysql…, sqlite:///… "
        "[default: NASDISTILL_STORAGE, else a file in the run].",
    ),
]
RayAddress = Annotated[str | None, typer.Option(help="Join a running Ray cluster: auto, or host:port.")]
GpusPerTrial = Annotated[
    float | None,
    typer.Option(
        min=0.01, help="Share of a GPU for each trial, e.g. 0.5 [default: equal shares, at least 3 GB of memory]."
    ),
]


def each_constraint_named(arguments: list[str]) -> list[str]:
    """`--constraint A B` as `--constraint A --constraint B`: the option takes all limits that follow it."""
    named: list[str] = []
    within = False
    for argument in arguments:
        if within and not argument.startswith("-") and named[-1] != "--constraint":
            named.append("--constraint")
        within = argument == "--constraint" or (within and not argument.startswith("-"))
        named.append(argument)
    return named


def separated(names: list[str] | None) -> list[str] | None:
    """The names in texts that hold several, by commas."""
    return [name.strip() for text in names for name in text.split(",")] if names else None
