"""Which .safetensors files a model is made of: a file, a sharded folder with its index, a Hugging Face model folder."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wwonnx.errors import ConversionError, UnsafeModelError
from wwonnx.graph.words import clean, first_line

from .safetensors_header import StoredTensor, read_header

INDEX = ".safetensors.index.json"
CONFIG = "config.json"
#: An index of a hundred thousand tensors has about 10 MB.
_MOST_JSON = 100_000_000
_SHARD = re.compile(r"-(\d+)-of-(\d+)\.safetensors$")
#: What the weights of a folder are called, best first: transformers, diffusers.
_STEMS = ("model", "diffusion_pytorch_model")
#: What the last layer of a model is called, which comes before the others in the alphabet.
_HEADS = frozenset({"lm_head", "embed_out", "classifier", "head", "cls", "fc"})


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a model, and where they lie.

    Attributes:
        label: the path that was given.
        tensors: by their names, in the natural order of these (layer 2 before layer 10), the head last: files hold them
            in the alphabet's.
        config: what the folder's config.json says; empty where there is none.
        files: what the model was read from: index, configuration and weights.
    """

    label: str
    tensors: dict[str, StoredTensor]
    config: dict[str, Any]
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The architecture's name, or else the file's."""
        named = self.config.get("architectures")
        first = named[0] if isinstance(named, list) and named else None
        return clean(first) if isinstance(first, str) else Path(self.label).name


def read_checkpoint(source: Path) -> Checkpoint:
    """Find a model's tensors. Headers are read, nothing else of the weights.

    Args:
        source: a .safetensors file, a `*.safetensors.index.json`, or a folder that holds one of these.

    Raises:
        ConversionError: a file is missing or broken; the folder holds no model, or several.
        UnsafeModelError: the index names a file outside its folder.
    """
    if source.is_dir():
        files = weight_files(source)
        if not files:
            raise ConversionError(f"{source}: holds no .safetensors file; name a folder or a file that does")
    elif source.name.endswith(INDEX):
        files = [source]
    else:
        files = [source]
    folder = source if source.is_dir() else source.parent
    config_path = folder / CONFIG
    config = read_json(config_path) if config_path.is_file() else {}
    tensors: dict[str, StoredTensor] = {}
    index = files[0] if files[0].name.endswith(INDEX) else None
    if index is not None:
        tensors, shards = _indexed(index)
        files = [index, *shards]
    else:
        for path in files:
            for name, tensor in read_header(path)[0].items():
                if name in tensors:
                    raise ConversionError(
                        f"{source}: {tensors[name].path.name} and {path.name} both hold tensor {clean(name)!r}; "
                        "name the file that is meant"
                    )
                tensors[name] = tensor
    if not tensors:
        raise ConversionError(f"{source}: holds no tensors; download or save it again")
    ordered = {name: tensors[name] for name in sorted(tensors, key=lambda name: (_is_head(name), natural_key(name)))}
    return Checkpoint(str(source), ordered, config, (*((config_path,) if config else ()), *files))


def _is_head(name: str) -> bool:
    return name.partition(".")[0] in _HEADS


def natural_key(name: str) -> list[list[tuple[int, str]]]:
    """Sorts names as people count: `layers.2` before `layers.10`."""
    # Numbers of thousands of digits are no numbers that Python would read.
    return [
        [(int(part) if part.isdecimal() and len(part) < 20 else -1, part) for part in re.split(r"(\d+)", word)]
        for word in name.split(".")
    ]


def weight_files(folder: Path) -> list[Path]:
    """The .safetensors files of a folder's model, or its index alone; empty where the folder holds none.

    Raises:
        ConversionError: there are several models, or shards are missing.
    """
    for stem in _STEMS:
        for name in (f"{stem}.safetensors", f"{stem}{INDEX}"):
            if (folder / name).is_file():
                return [folder / name]
    found = sorted(folder.glob(f"*{INDEX}")) or sorted(folder.glob("*.safetensors"))
    shards = {_SHARD.sub("", path.name) for path in found}
    if len(shards) > 1:
        names = ", ".join(path.name for path in found[:4])
        raise ConversionError(f"{folder}: holds several models ({names}{', ...' if len(found) > 4 else ''}); name one")
    counts = {int(match[2]) for path in found if (match := _SHARD.search(path.name))}
    if counts and counts != {len(found)}:
        raise ConversionError(
            f"{folder}: holds {len(found)} of {max(counts)} shards and no index; download those that are missing"
        )
    return found


def _indexed(index: Path) -> tuple[dict[str, StoredTensor], list[Path]]:
    """The tensors that an index names, each from its shard, and the shards."""
    folder = index.parent
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise ConversionError(f"{index}: has no weight_map from tensors to files; download it again")
    shards = sorted(set(places.values()), key=natural_key)
    for shard in shards:
        if Path(shard).name != shard or "\\" in shard or "\0" in shard:
            raise UnsafeModelError(f"{index}: names the file {clean(shard)!r}, outside its own folder: refused")
    missing = [shard for shard in shards if not (folder / shard).exists()]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConversionError(
            f"{folder}: shard {clean(missing[0])}{others} of {len(shards)} is missing; download it into this folder"
        )
    headers = {shard: read_header(folder / shard)[0] for shard in shards}
    tensors: dict[str, StoredTensor] = {}
    for name, shard in places.items():
        if name not in headers[shard]:
            raise ConversionError(
                f"{index}: tensor {clean(name)!r} is not in {clean(shard)}, where the index has it; download both again"
            )
        tensors[name] = headers[shard][name]
    for header in headers.values():
        for name, tensor in header.items():
            tensors.setdefault(name, tensor)
    return tensors, [folder / shard for shard in shards]


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds a JSON object.

    Raises:
        ConversionError: it does not, is too large, or can't be read.
    """
    try:
        if path.stat().st_size > _MOST_JSON:
            raise ConversionError(f"{path}: is larger than {_MOST_JSON // 10**6} MB; download it again")
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConversionError(f"{path}: can't be read ({error.strerror or first_line(error)})") from None
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path}: is no JSON ({first_line(error)}); download it again") from None
    if not isinstance(found, dict):
        raise ConversionError(f"{path}: is no JSON object; download it again")
    return found
