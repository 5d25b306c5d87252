"""LoRA adapters as PEFT saves them: adapter_config.json beside adapter_model.safetensors.

An adapter holds for each module that it updates two factors, B (outputs x r) and A (r x inputs); the module's weight
becomes W + s B A with s = alpha / r (Hu et al., arXiv:2106.09685, sec. 4.1), or alpha / sqrt(r) where `use_rslora` is
set (Kalajdzievski, arXiv:2312.03732). DoRA (Liu et al., arXiv:2402.09353, eq. 5) scales each output of that sum to a
learned length.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wwonnx.errors import ConversionError
from wwonnx.graph.words import clean

from .safetensors_folder import natural_key, read_json, weight_files
from .safetensors_header import StoredTensor, read_header

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
#: What PEFT puts before the names of the model's own modules.
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"^(?P<module>.+)\.lora_(?P<table>embedding_)?(?P<which>[AB])(?P<adapter>\.[^.]+)??(\.weight)?$")
_MAGNITUDE = re.compile(r"^(?P<module>.+)\.lora_magnitude_vector(?P<adapter>\.[^.]+)??(\.weight)?$")
#: Variants of LoRA whose update is not B A alone, under the words that switch them on.
_VARIANTS = {
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
    "target_parameters": "LoRA of bare parameters",
    "layer_replication": "LoRA of replicated layers",
}
#: A pattern of an adapter's configuration is a stranger's program: what may take for ever is not run.
_MOST_PATTERN, _MOST_REPEATS = 300, 3


@dataclass(frozen=True)
class Update:
    """What an adapter adds to one weight: scale * up down.

    Attributes:
        module: the module's path in the model, `model.layers.0.self_attn.q_proj`.
        down: A, shape (r, inputs) or, of a convolution, (r, inputs, k1, ..., kd).
        up: B, shape (outputs, r) or (outputs, r, 1, ..., 1).
        scale: alpha / r, or alpha / sqrt(r).
        table: whether the module is an embedding, a table of (inputs, outputs).
        magnitude: DoRA's lengths, one per output; None for plain LoRA.
    """

    module: str
    down: StoredTensor
    up: StoredTensor
    scale: float
    table: bool
    magnitude: StoredTensor | None


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder.

    Attributes:
        folder: where it is.
        base: what it says that its base model is called; often a name on the Hugging Face Hub.
        inputs_first: whether the weights that it updates are stored as (inputs, outputs).
        updates: in the natural order of their modules.
        others: whole weights that were trained along, and biases, by the names that they have in the model.
        files: what was read.
    """

    folder: Path
    base: str
    inputs_first: bool
    updates: tuple[Update, ...]
    others: dict[str, StoredTensor]
    files: tuple[Path, ...]

    @property
    def is_dora(self) -> bool:
        """Whether it learned lengths too."""
        return any(update.magnitude is not None for update in self.updates)

    def find_base(self) -> Path:
        """The base model's folder, or the weights of one that is also the adapter's, where it lies on this machine.

        It is looked for where the configuration says, in the adapter's own folder, and beside that.

        Raises:
            ConversionError: it is in none of these.
        """
        last = self.base.replace("\\", "/").rstrip("/").rpartition("/")[2]
        named = [Path(self.base), self.folder / self.base, self.folder.resolve().parent / last] if last else []
        for candidate in (*named, self.folder):
            found = weight_files(candidate) if candidate.is_dir() else []
            if found and found != [candidate / WEIGHTS]:
                return found[0] if is_adapter(candidate) else candidate
        called = f"its base model {clean(self.base)!r}" if self.base else "its base model"
        raise ConversionError(
            f"{self.folder}: {called} is not on this machine; give its folder as the base (--base-model to analyze, "
            "--base to convert), or leave the base out"
        )


def is_adapter(path: Path) -> bool:
    """Whether a path is an adapter's folder, or the weights in one."""
    folder = path.parent if path.name == WEIGHTS else path
    return (folder / CONFIG).is_file()


def read_adapter(source: Path) -> Adapter:
    """Read what an adapter is made of; of its weights nothing but the header.

    Args:
        source: its folder, or the weights in it.

    Raises:
        ConversionError: a file is missing or broken, or it is no LoRA.
    """
    folder = source.parent if source.name == WEIGHTS else source
    config = read_json(folder / CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ConversionError(
            f"{folder}: is an adapter of type {clean(kind)!r}; wwonnx reads LORA: merge this one into its model first"
        )
    for option, called in _VARIANTS.items():
        if config.get(option):
            raise ConversionError(
                f"{folder}: is an adapter of {called} ({option}), whose update is not B A alone; merge it into its "
                "model first"
            )
    path = folder / WEIGHTS
    if not path.is_file():
        hint = f" ({PICKLED} is a pickle: save it again as safetensors)" if (folder / PICKLED).exists() else ""
        raise ConversionError(f"{folder}: has no {WEIGHTS}{hint}; download or save the adapter again")
    tensors, _ = read_header(path)
    updates, others = _updates(folder, config, tensors)
    if not updates:
        raise ConversionError(f"{path}: holds no pair of lora_A and lora_B; download or save the adapter again")
    base = config.get("base_model_name_or_path")
    return Adapter(
        folder=folder,
        base=base if isinstance(base, str) and "\0" not in base else "",
        inputs_first=config.get("fan_in_fan_out") is True,
        updates=tuple(updates),
        others=others,
        files=(folder / CONFIG, path),
    )


def _updates(
    folder: Path, config: dict[str, Any], tensors: dict[str, StoredTensor]
) -> tuple[list[Update], dict[str, StoredTensor]]:
    """The updates, and the tensors that are part of none, under their own names in the model."""
    factors: dict[tuple[str, str, bool], dict[str, StoredTensor]] = {}
    magnitudes: dict[tuple[str, str], StoredTensor] = {}
    others: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        own = name.removeprefix(_PREFIX)
        if found := _FACTOR.match(own):
            key = found["module"], found["adapter"] or "", found["table"] is not None
            factors.setdefault(key, {})[found["which"]] = tensor
        elif found := _MAGNITUDE.match(own):
            magnitudes[found["module"], found["adapter"] or ""] = tensor
        else:
            others[own.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = tensor
    updates = []
    for (module, adapter, table), pair in sorted(factors.items(), key=lambda item: natural_key(item[0][0])):
        if len(pair) < 2:
            (which,) = pair
            raise ConversionError(
                f"{folder / WEIGHTS}: module {clean(module)!r} has a lora_{which} without its partner; save it again"
            )
        down, up = pair["A"], pair["B"]
        if len(down.shape) < 2 or len(up.shape) != len(down.shape) or up.shape[1] != down.shape[0] or 0 in down.shape:
            raise ConversionError(
                f"{folder / WEIGHTS}: the factors of {clean(module)!r}, {list(up.shape)} and {list(down.shape)}, don't "
                "fit each other; wwonnx reads LoRA of linear layers, embeddings and convolutions of one group"
            )
        scale = _scale(folder, config, module, down.shape[0])
        updates.append(Update(module, down, up, scale, table, magnitudes.get((module, adapter))))
    return updates, others


def _scale(folder: Path, config: dict[str, Any], module: str, rank: int) -> float:
    """What multiplies B A: alpha / r, with the module's own alpha and rank.

    Raises:
        ConversionError: the configuration does not say.
    """
    patterns = config.get("alpha_pattern") or {}
    alpha = config.get("lora_alpha")
    if isinstance(patterns, dict):
        alpha = next((value for pattern, value in patterns.items() if _matches(folder, pattern, module)), alpha)
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise ConversionError(f"{folder / CONFIG}: lora_alpha is {clean(alpha)!r}, no number; save the adapter again")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _matches(folder: Path, pattern: str, module: str) -> bool:
    """Whether a pattern of the configuration means a module: PEFT asks that it match the end of the module's path."""
    if re.fullmatch(r"[\w.]+", pattern) and (module == pattern or module.endswith(f".{pattern}")):
        return True
    repeats = len(re.findall(r"[*+{]", pattern))
    if len(pattern) > _MOST_PATTERN or repeats > _MOST_REPEATS or re.search(r"\)[*+{?]", pattern):
        raise ConversionError(f"{folder / CONFIG}: the pattern {clean(pattern)!r} may take for ever; name the modules")
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error:
        raise ConversionError(f"{folder / CONFIG}: {clean(pattern)!r} is no pattern; name the modules") from None
