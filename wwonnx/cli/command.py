"""What every command does with its models: one after the other; one that can't be read doesn't cost the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import Interrupted, OptionError, StoreError, WwonnxError
from ..watcher import WeightWatcher
from .main import INTERRUPTED, complain
from .output import Result, chosen_format, write


def over_models(
    command: str,
    models: tuple[str, ...],
    examine: Callable[[str, WeightWatcher], Result],
    options: dict[str, Any],
    format_: str | None,
    output: Path | None,
) -> int:
    """Open each model, examine it, write all results; the exit code tells whether every model could be read."""
    chosen = chosen_format(format_, output)
    results: list[Result] = []
    failed = False
    for model in models:
        try:
            results.append(examine(model, WeightWatcher(model)))
        except (OptionError, StoreError):
            raise
        except Interrupted as error:
            # click would turn it into an abortion without a word.
            return complain(str(error), code=INTERRUPTED)
        except WwonnxError as error:
            complain(str(error))
            failed = True
    if results:
        write(command, results, options, chosen, output)
    return 2 if failed else 0
