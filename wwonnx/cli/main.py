"""The command `wwonnx`: commands are imported when they are called, so that --help is instant."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any

import click

from ..errors import WwonnxError
from ..version import __version__

_COMMANDS = {
    "analyze": "Metrics of each layer.",
    "describe": "The layers of a model, without reading them.",
    "inventory": "Every constant, and the layer it became or why not.",
    "compare": "Which of several models is better, and how metrics go with accuracy.",
    "distances": "How far the layers of two models are from each other.",
    "report": "One HTML file: verdict, correlation flow, every layer's spectrum.",
    "check": "Is a model within its limits, and still what it was? For CI.",
    "explain": "What the code of a finding means, and what to do.",
    "store": "What a file of results holds.",
    "smooth": "Cut weights down to their signal, in a new model.",
    "convert": "Bring a checkpoint, a model folder or an adapter to ONNX.",
}


#: TensorFlow, where a source needs it, tells of itself on stderr unless its environment says otherwise.
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}
#: Exit code after Ctrl-C: 128 and SIGINT's number, as shells have it.
INTERRUPTED = 130


class _Lazy(click.Group):
    """A group whose commands live in modules of their own names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{cmd_name}", __package__).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wwonnx")
def cli() -> None:
    """Judge trained neural networks from their weights alone.

    A MODEL is an ONNX file, a PyTorch, Keras or TensorFlow checkpoint, a .safetensors file, or the folder of a Hugging
    Face model or a LoRA adapter.

    Exit codes: 0 done, 1 findings of check, 2 could not, 130 interrupted by Ctrl-C.
    """


def run(arguments: list[str] | None = None) -> None:
    """Entry point: every error is one line on stderr and exit code 2."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    code = main(arguments)
    if code == INTERRUPTED:
        # A thread that is inside LAPACK can't be stopped, and Python would wait for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    # What the library logs for those who call it, the commands print themselves.
    logging.getLogger("wwonnx").addHandler(logging.NullHandler())
    try:
        result: Any = cli.main(arguments, prog_name="wwonnx", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "wwonnx"
        return complain(f"{error.format_message().rstrip('.')}; see '{command} --help'")
    except click.ClickException as error:
        return complain(error.format_message())
    except WwonnxError as error:
        return complain(str(error))
    except (KeyboardInterrupt, click.Abort):
        return complain("interrupted", code=INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe left. Nothing more can be written, not even what Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0


def complain(message: str, code: int = 2) -> int:
    """One line on stderr."""
    click.echo("wwonnx: " + " ".join(message.split()), err=True)
    return code
