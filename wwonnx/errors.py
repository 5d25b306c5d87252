"""The exceptions that a user can meet. Each message is one line: what is wrong, where, and how to mend it."""

from __future__ import annotations


class WwonnxError(Exception):
    """Base of every error that wwonnx raises on purpose."""


class ModelError(WwonnxError):
    """A model can't be opened or read."""


class UnsafeModelError(ModelError):
    """A model asks for something that a file from a stranger must not have, such as data outside its own folder."""


class ConversionError(WwonnxError):
    """A live model or a checkpoint can't be brought to ONNX faithfully."""


class OptionError(WwonnxError, ValueError):
    """An option has a value that can't be, or contradicts another."""


class StoreError(WwonnxError):
    """A store of results can't be opened, read or written."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during an analysis whose results so far are kept; the message says how many and where."""


class WeightError(WwonnxError):
    """One weight can't be analysed. It costs that layer alone: its row carries the message as `reason`."""
