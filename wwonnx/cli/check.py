"""`wwonnx check`: a gate for continuous integration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..errors import OptionError, WwonnxError
from ..options import nearest
from . import options as shared
from .main import complain
from .output import document, put

FORMATS = ("text", "json", "junit", "github", "sarif")


@click.command("check", short_help="Is a model within its limits, and still what it was?")
@shared.models
@click.option("--min-alpha", type=float, help="Smallest alpha allowed.  [default: 2]")
@click.option("--max-alpha", type=float, help="Largest alpha allowed.  [default: 6]")
@click.option("--max-traps", type=int, help="How many correlation traps a layer may have. Shuffles each layer.")
@click.option("--min-coverage", metavar="PERCENT", help="Share of the parameters that has to be analysed.")
@click.option(
    "--baseline",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.json",
    help="What 'wwonnx analyze MODEL --format json' wrote of an earlier version.",
)
@click.option("--max-change", metavar="10%", help="How far metrics may be from the baseline.  [default: 10%]")
@click.option("--ignore", multiple=True, metavar="CODES", help="Rules that are not applied, separated by commas.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with the table [tool.wwonnx.check].  [default: the nearest pyproject.toml that has one]",
)
@click.option("--no-config", is_flag=True, help="Read no pyproject.toml.")
@shared.selection
@shared.metrics
@click.option("--format", "format_", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
@shared.progress
@click.pass_context
def command(
    context: click.Context,
    /,
    models: tuple[str, ...],
    baseline: Path | None,
    ignore: tuple[str, ...],
    config: Path | None,
    no_config: bool,
    layers: tuple[str, ...],
    detx: bool,
    format_: str,
    output: Path | None,
    progress: bool | None,
    **given: Any,
) -> int:
    """Hold models against limits, and against what they were.

    Exit code 0: nothing found. 1: findings. 2: could not. What the command line says comes before what the
    configuration says.
    """
    from ..check.baseline import read_baseline
    from ..check.checker import Checked, check_model
    from ..check.limits import Config, Limits, read_config

    if config is not None and no_config:
        raise OptionError("--config and --no-config contradict each other; drop one of them")
    if output is not None and not output.parent.is_dir():
        raise OptionError(f"-o {output}: there is no directory {str(output.parent)!r}; make it first")
    settings = Config() if no_config else read_config(config)
    wanted = {name: given.pop(name) for name in ("min_alpha", "max_alpha", "max_traps", "min_coverage", "max_change")}
    limits = Limits.make(**settings.values).changed(wanted | {"ignore": ignore})
    path = baseline or settings.baseline
    if wanted["max_change"] is not None and path is None:
        raise OptionError("--max-change needs a --baseline to measure from")
    before = read_baseline(path) if path else None
    options = shared.analysis_options(layers, detx, given)
    options |= _from_config(settings.analyze, options, context)
    bar = shared.shows_progress(progress)
    checked = []
    for model in models:
        try:
            checked.append(check_model(model, limits, settings.overrides, before, progress=bar, **options))
        except OptionError:
            raise
        except WwonnxError as error:
            complain(str(error))
            checked.append(Checked(model, error=str(error)))
    put(_content(checked, format_, options | {"limits": asdict(limits) | {"ignore": sorted(limits.ignore)}}), output)
    return 2 if any(one.error for one in checked) else int(any(one.findings for one in checked))


def _from_config(settings: Mapping[str, Any], options: Mapping[str, Any], context: click.Context) -> dict[str, Any]:
    """Options of the analysis that the configuration sets and the command line does not.

    Raises:
        OptionError: there is no such option.
    """
    found = {}
    for name, value in settings.items():
        if name not in options:
            known = [each.replace("_", "-") for each in options]
            raise OptionError(f"[tool.wwonnx.check.analyze]: {name} is no option; {nearest(name, known)}")
        if context.get_parameter_source(name.lower()) is ParameterSource.DEFAULT:
            found[name] = value
    return found


def _content(checked: list[Any], format_: str, options: dict[str, Any]) -> bytes:
    from ..check import formats

    if format_ == "junit":
        return formats.as_junit(checked)
    if format_ == "sarif":
        return (json.dumps(formats.as_sarif(checked), indent=2, allow_nan=False) + "\n").encode()
    if format_ == "json":
        models = [
            {
                "model": one.model,
                "sha256": one.sha256,
                "rows": one.layers,
                "error": one.error,
                "notes": one.notes,
                "verdicts": [
                    {**vars(verdict), "rule": verdict.rule.code, "name": verdict.rule.name}
                    for verdict in one.verdicts
                    if verdict.outcome != "passed"
                ],
            }
            for one in checked
        ]
        findings = sum(len(one.findings) for one in checked)
        return (document("check", options, {"findings": findings, "models": models}) + "\n").encode()
    return (formats.as_github(checked) if format_ == "github" else formats.as_text(checked)).encode()
