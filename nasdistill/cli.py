"""The command line: parse, call, print. Heavy imports happen inside the commands, so that `--help` is instant."""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasdistill import __version__, options
from nasdistill.errors import InputError, NasdistillError
from nasdistill.store.room import is_full_disk, may_not_write

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="nasdistill",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Search student detectors and distillation recipes for your device: a teacher, images and a budget in, a Pareto "
    "front of distilled detectors out.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"nasdistill {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def search(
    budget: options.Budget = None,
    data: options.Data = None,
    teacher: options.Teacher = None,
    teacher_yaml: options.TeacherYaml = None,
    trust_teacher: options.TrustTeacher = False,
    space: options.Space = None,
    device: options.Device = None,
    objectives: options.Objectives = None,
    sampler: options.Sampler = None,
    scheduler: options.Scheduler = None,
    constraint: options.Constraint = None,
    enqueue: options.Enqueue = None,
    warm_start: options.WarmStart = None,
    workers: options.Workers = None,
    seed: options.Seed = None,
    epochs: options.Epochs = None,
    recipe: options.Recipe = None,
    repeats: options.Repeats = None,
    precision: options.Precision = None,
    cache: options.Cache = None,
    out: options.Out = None,
    resume: options.Resume = False,
    storage: options.Storage = None,
    ray_address: options.RayAddress = None,
    gpus_per_trial: options.GpusPerTrial = None,
    as_json: options.JsonOption = False,
) -> None:
    """Search within a budget; ends in a run folder with the front, the models and a report."""
    from rich.console import Console

    console = Console(stderr=as_json)
    with _starting(console):
        from nasdistill.progress import Progress
        from nasdistill.report.format import in_command, shown_path
        from nasdistill.report.live import LiveDisplay
        from nasdistill.report.printed import print_front
        from nasdistill.search.budget import parse_budget
        from nasdistill.session.request import SearchRequest, check
        from nasdistill.session.search import search as run_search
    request = SearchRequest(
        budget=None if budget is None else parse_budget(budget),
        data=data,
        teacher=teacher,
        teacher_yaml=teacher_yaml,
        trust_teacher=trust_teacher,
        space=space,
        device=device or None,
        objectives=options.separated(objectives),
        sampler=sampler,
        scheduler=scheduler,
        workers=workers,
        seed=seed,
        epochs=epochs,
        recipe=recipe,
        precision=precision,
        cache=cache,
        out=out,
        resume=resume,
        enqueue=enqueue,
        warm_start=warm_start,
        constraint=constraint or None,
        storage=storage or None,
        repeats=repeats,
        ray_address=ray_address,
        gpus_per_trial=gpus_per_trial,
    )
    run, settings = check(request)
    with Progress(LiveDisplay(console)).showing() as progress:
        run = run_search(request, run, settings, progress)
    print_front(run, as_json)
    if not as_json:
        name = in_command(run.path)
        print(f"report: {shown_path(run.report_file)}\nexport: nasdistill export {name} --trial best --format onnx")
        print(f"longer: nasdistill train {name} --trial best --budget 30m")


@app.command()
def train(
    run: options.RunArgument,
    budget: Annotated[str, typer.Option(help="Time (90s, 30m, 2h), or training work (200epochs).")],
    trial: options.TrialOption = "best",
    select: options.SelectOption = None,
    device: options.DeviceOption = None,
    trust_teacher: options.TrustTeacher = False,
    data: options.MovedOption = None,
    teacher: options.MovedOption = None,
    teacher_yaml: options.MovedOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Train a student of a run for longer, on as many cores as help; the same command goes on after an interruption."""
    from rich.console import Console

    console = Console(stderr=as_json)
    with _starting(console):
        from nasdistill.progress import Progress
        from nasdistill.report.live import LiveDisplay
        from nasdistill.report.printed import print_trained
        from nasdistill.search.budget import parse_budget
        from nasdistill.session.train import TrainRequest
        from nasdistill.session.train import train as run_training
        from nasdistill.store.run_folder import RunFolder
    request = TrainRequest(
        run=run,
        budget=parse_budget(budget),
        trial=trial,
        select=select,
        device=device,
        trust_teacher=trust_teacher,
        data=data,
        teacher=teacher,
        teacher_yaml=teacher_yaml,
    )
    with Progress(LiveDisplay(console)).showing() as progress:
        result = run_training(request, progress)
    print_trained(RunFolder(run), result, as_json)


@app.command()
def pareto(run: options.RunArgument, device: options.DeviceOption = None, as_json: options.JsonOption = False) -> None:
    """Print the front of a run as a table."""
    from nasdistill.report.printed import print_front
    from nasdistill.store.run_folder import RunFolder

    left_out: list[str] = []
    print_front(RunFolder.open(run), as_json, device, left_out)
    _warn(left_out)


@app.command()
def report(
    run: options.RunArgument,
    out: Annotated[Path | None, typer.Option(help="The file [default: RUN/report.html].")] = None,
) -> None:
    """Write one self-contained HTML page about a run."""
    from nasdistill.report.html import write_report
    from nasdistill.store.run_folder import RunFolder

    folder, left_out = RunFolder.open(run), list[str]()
    target = out or folder.report_file
    if target.is_dir():
        raise InputError(f"--out {target}: it is a folder; name the file")
    try:
        print(write_report(folder, target, left_out))
    except OSError as error:
        if is_full_disk(error):
            raise
        raise InputError(f"{target}: cannot be written ({error.strerror})") from error
    _warn(left_out)


@app.command()
def export(
    run: options.RunArgument,
    trial: options.ExportedOption = "best",
    select: options.SelectOption = None,
    device: options.DeviceOption = None,
    trained: options.TrainedOption = False,
    formats: options.FormatsOption = "onnx",
    out: options.FolderOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Write a student's model in deployable formats, with a model card."""
    from nasdistill.export import export as write_export
    from nasdistill.export import export_all
    from nasdistill.pareto.front import front
    from nasdistill.pareto.of_run import devices_of_run, objectives_of_run
    from nasdistill.pareto.select import choose
    from nasdistill.report.printed import print_exported
    from nasdistill.store.run_folder import RunFolder

    folder, left_out = RunFolder.open(run), list[str]()
    recorded = folder.read_run()
    objectives = objectives_of_run(recorded, device)
    results = folder.results(left_out)
    _warn(left_out)
    names, target = [name.strip() for name in formats.split(",") if name.strip()], out or folder.path / "export"
    whole = trial == "front"
    if whole and (select is not None or trained):
        raise InputError("--trial front: exports every member as the search left it, without --select and --trained")
    chosen = choose(results, "best" if whole else trial, select, objectives, devices_of_run(recorded) or None)
    if whole:
        exported = export_all(folder, front(results, objectives), names, target)
    else:
        exported = [write_export(folder, chosen, names, target, trained)]
    print_exported(exported, objectives, as_json, whole)


@app.command()
def profile(
    model: Annotated[Path, typer.Argument(help="An ONNX file.")],
    device: Annotated[str, typer.Option(help="Where: a file, or a shipped name.")] = "local",
    as_json: options.JsonOption = False,
) -> None:
    """Measure the latency of one model on a device."""
    from nasdistill.devices.profile import load_device
    from nasdistill.devices.profiler import open_profiler
    from nasdistill.report.printed import print_latency

    profiler = open_profiler(load_device(device))
    print_latency(model, profiler.measure(model), profiler.describe(), as_json)


@app.command()
def devices(as_json: options.JsonOption = False) -> None:
    """List the shipped devices."""
    from nasdistill.report.shipped import print_devices

    print_devices(as_json)


@app.command()
def spaces(as_json: options.JsonOption = False) -> None:
    """List the shipped search spaces and the families there are."""
    from nasdistill.report.shipped import print_spaces

    print_spaces(as_json)


def main() -> None:
    """Entry point: one line and an exit code for every error a person can meet."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    # read by ultralytics when it is imported: no network, no messages
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_VERBOSE", "false")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    # under `uv run` Ray would copy the whole current folder to its workers, where relative paths lead nowhere
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # this process only coordinates; two spinning threads would take the cores from the workers (they get their own share)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        arguments = options.each_constraint_named(sys.argv[1:]) or ["--help"]
        # not standalone, typer hands back the code of an exit: 130 is what it makes of Ctrl-C
        if app(arguments, prog_name="nasdistill", standalone_mode=False) == 130:
            raise KeyboardInterrupt
    except NasdistillError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except Exception as error:
        if is_full_disk(error) or may_not_write(error):
            place = getattr(error, "filename", None) or "the disk"
            _fail(f"{place}: {getattr(error, 'strerror', None) or error}; what was finished is kept", 1)
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's own usage errors
            _fail(error.format_message(), 2)
        raise


def _starting(console: "Console") -> contextlib.AbstractContextManager[object]:
    """Imports take seconds: a person at a terminal sees that something happens."""
    return console.status("starting", spinner="line") if console.is_terminal else contextlib.nullcontext()


def _warn(lines: list[str]) -> None:
    for line in lines:
        print(f"nasdistill: {line}", file=sys.stderr)


def _fail(message: str, code: int) -> None:
    _warn([" ".join(message.split())])
    sys.exit(code)
