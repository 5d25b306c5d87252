"""`wwonnx convert`: a model of another format as ONNX, every weight bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from ..errors import ConversionError, OptionError


@click.command("convert", short_help="Bring a checkpoint, a model folder or an adapter to ONNX.")
@click.argument("source")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The .onnx file to write.  [default: SOURCE with the ending .onnx, model.onnx in a folder]",
)
@click.option("--base", metavar="MODEL", help="Of a LoRA adapter: add its updates to this model.")
@click.option("--verify", is_flag=True, help="Compare the result with the source, weight by weight.")
def command(source: str, output: Path | None, base: str | None, verify: bool) -> int:
    """Write an ONNX model of SOURCE with every weight bit for bit, under its own name.

    SOURCE is a .safetensors, .pt, .pth, .bin, .ckpt, .keras, .h5, .hdf5 or .pb file, a TensorFlow SavedModel, or the
    folder of a Hugging Face model or a LoRA adapter. All other commands take such sources as they are.

    The weights of .safetensors files are not copied: the .onnx names their places, and belongs into their folder.
    """
    from ..converters.dispatch import to_onnx

    target = default_output(Path(source)) if output is None else output
    if target.suffix.lower() != ".onnx":
        raise OptionError(f"-o {target}: name a file that ends in .onnx")
    if output is None and base is not None:
        raise OptionError("--base: name the file to write with -o, in a folder that holds both models")
    if output is None and target.exists() and target != Path(source):
        raise OptionError(f"{target} is there already: name another file with -o, or this one to replace it")
    if not target.parent.is_dir():
        raise OptionError(f"-o {target}: there is no directory {str(target.parent)!r}; make it first")
    try:
        model = to_onnx(source, target, base=base, verify=verify)
    except OSError as error:
        raise ConversionError(f"{target}: can't be written ({error.strerror or error})") from None
    for line in (*_summary(target), *_verified(model.metadata_props)):
        click.echo(line)
    return 0


def default_output(source: Path) -> Path:
    """Where a model is written of which the user does not say where: beside the source, or in its folder."""
    if source.is_dir():
        return source / "model.onnx"
    for ending in (".safetensors.index.json", ".bin.index.json"):
        if source.name.endswith(ending):
            return source.with_name(source.name.removesuffix(ending) + ".onnx")
    return source.with_suffix(".onnx")


def _summary(target: Path) -> list[str]:
    """What was written, as a reader finds it."""
    import onnx_ir as ir

    from ..graph.source import open_model
    from ..graph.walk import walk

    model = open_model(target).model
    found, tensors = walk(model), [value.const_value for value in model.graph.initializers.values()]
    parameters = sum(layer.parameters for layer in found.layers)
    lines = [
        f"{target}: {len(found.layers)} layers with {parameters:,} weights, {len(tensors)} tensors, "
        f"{target.stat().st_size:,} bytes"
    ]
    outside = sorted({str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)})
    if outside:
        files = ", ".join(outside[:3]) + (f" and {len(outside) - 3} more" if len(outside) > 3 else "")
        lines.append(f"The weights are in {files}: keep them where they are to it.")
    if found.skipped:
        lines.append(f"{len(found.skipped)} tensors are no layers; 'wwonnx inventory {target}' says why.")
    return lines


def _verified(noted: Mapping[str, str]) -> list[str]:
    """What --verify found, from the notes that the converter left."""
    from ..converters.verify import DIFFERENCE, WEIGHTS

    if WEIGHTS not in noted:
        return []
    outputs = f"; outputs differ by {float(noted[DIFFERENCE]):.3g} at most" if DIFFERENCE in noted else ""
    return [f"Verified: {int(noted[WEIGHTS]):,} weights equal the source's bit for bit{outputs}."]
