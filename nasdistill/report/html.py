"""The report: one HTML file that needs nothing else, no network, and lets nothing from a run's files act as markup.

Every text goes through `html.escape`, every figure through `script_json`; a content security policy then allows only
the page's own scripts, named by their hash, and no request at all. Its parts are written in `sections`.

`assets/plotly-basic.min.js` is the npm package plotly.js-basic-dist-min, unchanged, of the version that the pinned
plotly speaks: a quarter of the bundle that plotly itself ships, and enough for scatter plots.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from nasdistill import __version__
from nasdistill.pareto.hypervolume import Reference
from nasdistill.pareto.objectives import Objectives
from nasdistill.pareto.of_run import objectives_of_run
from nasdistill.records import TrialResult
from nasdistill.report import members, sections
from nasdistill.report.front_figure import cost_axis, front_figure
from nasdistill.report.hover import hover_text
from nasdistill.report.palette import DARK, LIGHT
from nasdistill.report.series import accuracy_span, hypervolume_series, parameter_series
from nasdistill.report.small_figures import hypervolume_figure, parameter_figure
from nasdistill.report.teacher import teacher_of
from nasdistill.report.views import views_of
from nasdistill.store.atomic import write_text


class Run(Protocol):
    """What the report needs of a run folder (`nasdistill.store.run_folder.RunFolder`)."""

    path: Path

    def read_run(self) -> dict[str, Any]: ...

    def results(self, warnings: list[str] | None = None) -> list[TrialResult]: ...

    def trained(self, warnings: list[str] | None = None) -> list[TrialResult]: ...


def write_report(run: Run, path: str | Path, warnings: list[str] | None = None) -> Path:
    """Write the report of `run` to `path` in one step and return it. About 1.3 MB, most of it plotly.js.

    `warnings` is for what the run cannot read of its records, as in `RunFolder.results`.
    """
    target, results, trained = Path(path), run.results(warnings), run.trained(warnings)
    write_text(target, report_html(run.read_run(), results, run_argument(run.path), trained))
    return target


def run_argument(path: Path) -> str:
    """How a command names the run folder, without the part of the path that differs between machines."""
    folder = path.resolve()
    return f"results/{folder.name}" if folder.parent.name == "results" else folder.name


def report_html(
    run: Mapping[str, Any], results: Sequence[TrialResult], run_name: str, trained: Sequence[TrialResult] = ()
) -> str:
    """The page as text. `run` is the content of `run.json`, any key may be absent; commands call the run `run_name`.

    `trained`: students that were trained for longer.
    """
    objectives, views, teacher = objectives_of_run(run), views_of(run), teacher_of(run)
    accuracy = objectives.accuracy.name
    series = [view.series(results, teacher, trained) for view in views]
    chosen = series[0][accuracy]
    volume = hypervolume_series(results, _reference(run, objectives), objectives, teacher)
    parameters = parameter_series(results, accuracy)
    accuracy_range = accuracy_span(results, accuracy)
    data = {
        "accuracy": accuracy,
        "dark": {LIGHT[name]: DARK[name] for name in LIGHT},
        "hover": {str(r.trial): hover_text(r, teacher, accuracy, chosen.certainty) for r in results},
        "views": [
            {
                "front": {name: _plain(front_figure(one, trained=trained)) for name, one in shown.items()},
                "axes": {scale: cost_axis(shown[accuracy], scale) for scale in ("log", "linear")},
            }
            for shown in series
        ],
        "hypervolume": _plain(hypervolume_figure(volume)),
        "parameters": [_plain(parameter_figure(p, chosen, accuracy_range)) for p in parameters],
    }
    name = str(run.get("name") or Path(run_name).name)
    body = "\n".join(
        (
            sections.heading(name, run, chosen, results, volume),
            sections.front_plot(views, chosen, results),
            members.front_members(chosen, run_name),
            members.device_fronts(
                [(view.device, one[accuracy]) for view, one in zip(views, series, strict=True) if view.device], run_name
            ),
            members.trained_for_longer(trained, results, chosen, run_name),
            sections.hypervolume(volume),
            sections.parameters(parameters, accuracy),
            sections.unscored(chosen),
            sections.details(run),
        )
    )
    return _page(f"{name} \u2013 nasdistill", body, script_json(data))


def script_json(data: object) -> str:
    """JSON that is safe inside a <script> element: no character that could end it or open another is left as it is.

    Raises ValueError for NaN and infinity.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _page(title: str, body: str, data: str) -> str:
    plotly, script, style = (_asset(name) for name in ("plotly-basic.min.js", "page.js", "page.css"))
    policy = (
        f"default-src 'none'; script-src {_source(plotly)} {_source(script)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="nasdistill {html.escape(__version__)}">
<title>{html.escape(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
<footer>Written by nasdistill {html.escape(__version__)}. Plots: plotly.js (MIT licence), included here.</footer>
<script type="application/json" id="report-data">{data}</script>
<script>{plotly}</script>
<script>{script}</script>
</body>
</html>
"""


def _plain(figure: Any) -> dict[str, Any]:
    """A figure as JSON data, without the hover texts that the page finds by trial: each would be there many times."""
    plain: dict[str, Any] = figure.to_plotly_json()
    for trace in plain["data"]:
        if trace.get("customdata") is not None:
            trace.pop("text", None)
    return plain


def _reference(run: Mapping[str, Any], objectives: Objectives) -> Reference | None:
    found = run.get("reference")
    worst = {cost.name: found.get(cost.name) if isinstance(found, Mapping) else None for cost in objectives.costs}
    known = {name: float(v) for name, v in worst.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    try:
        return Reference(**known) if len(known) == len(worst) else None
    except ValueError:
        return None


def _source(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _asset(name: str) -> str:
    return (resources.files("nasdistill.report") / "assets" / name).read_text(encoding="utf-8")
