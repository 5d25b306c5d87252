"""PyTorch checkpoints (.pt, .pth, .bin, .ckpt) become weights-only ONNX models; nothing in them is run."""

from __future__ import annotations

import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from wwonnx.errors import ConversionError, UnsafeModelError
from wwonnx.graph.words import clean, first_line

from . import kinds
from . import verify as verification
from .reasons import explained
from .saving import saved
from .torch_modules import Store, refuse
from .weights_graph import build

if TYPE_CHECKING:
    import torch

#: What trainers call the weights in a checkpoint, best first. The weights that were averaged come after the raw ones.
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params"),
    *("generator", "student", "teacher", "state_dict_ema", "model_ema", "params_ema", "ema", "ema_model"),
)
#: What else trainers save.
_NO_WEIGHTS = re.compile(
    r"optim|sched|scaler|callback|loop|hyper_?param|rng|epoch|step|config|args|random", re.IGNORECASE
)
#: What wrappers of modules put before the names of all parameters.
_PREFIXES = ("module.", "_orig_mod.")
#: torch's words for what a file would have to run.
_WANTED = re.compile(r"GLOBAL ([\w.]+)|(?:class|Unsupported class|reduce) ['\"]?([\w.]+\.[\w.]+)")
_DEEPEST = 8


def to_onnx(
    source: str | os.PathLike[str] | Mapping[str, Any],
    path: str | os.PathLike[str] | None = None,
    verify: bool = False,
) -> ir.Model:
    """Convert a checkpoint to a weights-only model, each tensor under its own name.

    What each tensor is, is told by its name and shape: see `kinds`.

    Args:
        source: a file that torch.save wrote, the index of a sharded one (`pytorch_model.bin.index.json`), or a
            state_dict. The file is mapped, not read, where it can be; it is loaded with weights_only=True.
        path: where to save the model; large weights go beside it, to `path.data`.
        verify: compare the weights bit for bit; `metadata_props` of the result tell how many.

    Returns:
        The model, or the saved file opened.

    Raises:
        ConversionError: the file needs code to be run, is broken, or holds no weights.
        UnsafeModelError: an index names files outside its own folder.
        OptionError: the path can't be written.
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise ConversionError("PyTorch is not installed: pip install 'wwonnx[torch]'") from None
    label = "<state_dict>" if isinstance(source, Mapping) else str(Path(source))
    loaded = source if isinstance(source, Mapping) else _load(Path(source))
    tensors = _unprefixed(_weights(loaded))
    if not tensors:
        raise ConversionError(f"{label}: holds no weights; give the file that holds the model's state_dict")
    store, stored = Store(), {}
    for name, tensor in tensors.items():
        try:
            refuse(name, tensor)
        except ConversionError as error:
            raise ConversionError(f"{label}: {error}") from None
        stored[name] = store.tensor(name, tensor)
    model = build(explained(module) for module in kinds.modules(stored))
    if verify:
        verification.note(model, verification.verify_tensors(model, store.every()))
    return saved(model, path, label)


def _load(path: Path) -> Any:
    """What a file, or all files of an index, hold.

    Raises:
        ConversionError: as for `to_onnx`.
    """
    if not path.name.endswith(".index.json"):
        return _load_file(path)
    try:
        index = json.loads(path.read_text("utf-8"))
        names = list(dict.fromkeys(index["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConversionError(f"{path}: is no index of a sharded checkpoint ({first_line(error)})") from None
    merged: dict[str, Any] = {}
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise UnsafeModelError(f"{path}: names the file {clean(name)!r}, which is not in its own folder: refused")
        if not (path.parent / name).is_file():
            raise ConversionError(f"{path}: its file {clean(name)!r} is missing; put it into {path.parent}")
        merged |= _weights(_load_file(path.parent / name))
    return merged


def _load_file(path: Path) -> Any:
    import pickle

    import torch

    mapped = _is_zip(path)
    try:
        if mapped:
            _check_archive(path)
        with warnings.catch_warnings():  # of old formats and protocols
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ConversionError(f"{path}: {_why_refused(str(error))}") from None
    except FileNotFoundError:
        raise ConversionError(f"{path}: no such file; check the path") from None
    except (EOFError, OSError, RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = first_line(error).split(". ")[0]
        raise ConversionError(f"{path}: can't be loaded ({reason}); it is cut short or no PyTorch checkpoint") from None


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except OSError:
        return False


def _check_archive(path: Path) -> None:
    """Refuse archives that hold programs.

    Raises:
        ConversionError: saying what to do.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            inside = {name.rpartition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise ConversionError(f"{path}: is a broken archive ({first_line(error)}); download or save it again") from None
    if "constants.pkl" in inside:
        raise ConversionError(
            f"{path}: is a TorchScript archive, which is a program: load it with torch.jit.load and convert the module"
        )
    if "archive_format" in inside or "serialized_exported_program.json" in inside:
        raise ConversionError(
            f"{path}: is a torch.export archive: load it with torch.export.load and convert its module()"
        )
    if "data.pkl" not in inside:
        raise ConversionError(f"{path}: is a zip archive, but no PyTorch checkpoint")


def _why_refused(message: str) -> str:
    """Why weights_only=True refuses a file."""
    found = _WANTED.search(message)
    if found:
        wanted = clean(found[1] or found[2])
        return (
            f"needs {wanted} to be run when it is loaded, and nothing but weights is loaded: refused; where you trust "
            "it, load it yourself and save model.state_dict()"
        )
    return "is no PyTorch checkpoint, or needs code to be run when it is loaded: refused"


def _weights(loaded: Any, depth: int = 0) -> dict[str, torch.Tensor]:
    """The tensors of the model in what a checkpoint holds, by name."""
    import torch

    if isinstance(loaded, torch.Tensor):
        return {"tensor": loaded}
    if not isinstance(loaded, Mapping) or depth > _DEEPEST:
        return {}
    own = {str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    if own and not any(name in loaded and isinstance(loaded[name], Mapping) for name in _WRAPPERS):
        return own | dict(_nested(loaded, depth))
    for name in _WRAPPERS:
        if isinstance(loaded.get(name), Mapping) and (found := _weights(loaded[name], depth + 1)):
            return found
    return dict(_nested(loaded, depth))


def _nested(loaded: Mapping[Any, Any], depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of the parts of a model that are saved side by side, such as two networks."""
    for name, part in loaded.items():
        if isinstance(part, Mapping) and not _NO_WEIGHTS.search(str(name)):
            for inner, tensor in _weights(part, depth + 1).items():
                yield f"{name}.{inner}", tensor


def _unprefixed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without what DataParallel and torch.compile put before every name."""
    while prefix := next((p for p in _PREFIXES if tensors and all(name.startswith(p) for name in tensors)), ""):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
