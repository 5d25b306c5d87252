"""Everything a user can get wrong: one line that says what is wrong, where, and how to mend it; never a traceback."""

from __future__ import annotations

import logging
import os
import pickle
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pandas as pd
import pytest
from building import Run, claimed, command_line, dense, external, model_of, random_matrix, save
from onnx import TensorProto, helper

import wwonnx as ww
from wwonnx.cli.main import main
from wwonnx.errors import ModelError, OptionError, UnsafeModelError, WwonnxError

BYTES = 16 * 16 * 4


class Something:
    """Neither a model nor a filter; unlike an object's, its name in a test is the same in every process."""

    def __repr__(self) -> str:
        return "Something()"


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    return save(dense({"first": random_matrix(16, 16, 1), "second": random_matrix(16, 16, 2)}), tmp_path / "good.onnx")


def message(error: pytest.ExceptionInfo[BaseException], *words: str) -> str:
    """The error's message, which is one readable line that holds these words."""
    text = str(error.value)
    assert text.strip()
    assert "\n" not in text
    assert len(text) < 500
    for word in words:
        assert word in text
    return text


def complained(run: Run, *words: str, lines: int = 1) -> None:
    """The command line said what is wrong and nothing else."""
    assert run.code == 2, run
    assert run.out == ""
    assert "Traceback" not in run.err
    assert len(run.err.splitlines()) == lines, run.err
    for word in words:
        assert word in run.err


def in_process(capsys: pytest.CaptureFixture[str], *arguments: object) -> Run:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return Run(code, captured.out, captured.err)


# --- files that are no models ---


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"123")


#: name -> (how to make it, words of the message)
FILES: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "missing": (lambda path: None, ("no such file",)),
    "directory": (lambda path: path.mkdir(), ("is a directory",)),
    "fifo": (os.mkfifo, ("not a regular file",)),
    "empty": (lambda path: path.write_bytes(b""), ("empty",)),
    "white": (lambda path: path.write_bytes(b" \n\t\r\n  "), ("white space",)),
    "text": (lambda path: path.write_text("These are notes.\n" * 5), ("text file",)),
    "html": (lambda path: path.write_text("<!DOCTYPE html>\n<html>é404</html>"), ("text file",)),
    "lfs": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        ("git lfs pull",),
    ),
    "zip": (_zip, ("zip",)),
    "hdf5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), ("HDF5",)),
    "pickle2": (lambda path: path.write_bytes(pickle.dumps({"w": [1.0]}, protocol=2)), ("pickle",)),
    "pickle4": (lambda path: path.write_bytes(pickle.dumps({"w": [1.0]}, protocol=4)), ("pickle",)),
    "pickle5": (lambda path: path.write_bytes(pickle.dumps({"w": [1.0]}, protocol=5)), ("pickle",)),
    "safetensors": (
        lambda path: path.write_bytes(
            (40).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[1]}}       ' + b"abcd"
        ),
        ("safetensors",),
    ),
    "gguf": (lambda path: path.write_bytes(b"GGUF" + bytes(60)), ("GGUF",)),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(60)), ("gzip",)),
    "zeros": (lambda path: path.write_bytes(bytes(1000)), ("not an ONNX model",)),
    "noise": (lambda path: path.write_bytes(random.Random(1).randbytes(5000)), ("not an ONNX model",)),
    "no_graph": (lambda path: path.write_bytes(onnx.ModelProto(ir_version=8).SerializeToString()), ("ONNX model",)),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_models(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, words = FILES[name]
    path = tmp_path / f"{name}.onnx"
    make(path)
    for attempt in (ww.WeightWatcher, ww.analyze, ww.describe, lambda p: ww.WeightWatcher().inventory(str(p))):
        with pytest.raises(ModelError) as caught:
            attempt(path)
        message(caught, f"{name}.onnx", *words)
    for command in ("analyze", "describe", "inventory"):
        complained(in_process(capsys, command, path), f"{name}.onnx", *words)


@pytest.mark.parametrize("name", ["missing", "directory", "text", "lfs", "noise"])
def test_files_that_are_no_models_in_the_shell(name: str, tmp_path: Path) -> None:
    make, words = FILES[name]
    path = tmp_path / f"{name}.onnx"
    make(path)
    complained(command_line("analyze", path), f"{name}.onnx", *words)


def test_a_directory_with_a_model_in_it_names_the_model(healthy: Path) -> None:
    with pytest.raises(ModelError) as caught:
        ww.WeightWatcher(healthy.parent)
    message(caught, "good.onnx")


@pytest.mark.parametrize(
    "name", ["a\0b.onnx", "x" * 5000, "", "~no/such/user.onnx"], ids=["nul", "long", "none", "home"]
)
def test_impossible_paths(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        ww.WeightWatcher(name)
    assert "\n" not in str(caught.value)


def test_an_unreadable_file(healthy: Path) -> None:
    if os.geteuid() == 0:
        healthy = Path("/proc/self/mem")  # not even root can read it from the start
    else:
        healthy.chmod(0)
    with pytest.raises(ModelError) as caught:
        ww.WeightWatcher(healthy)
    message(caught, str(healthy))


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\x0a", bytes(9)])
def test_bytes_that_are_no_model(content: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        ww.WeightWatcher(content)
    message(caught, "<bytes>")


@pytest.mark.parametrize("suffix", [".json", ".onnxtxt", ".textproto"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{}", b"[1]", b'{"graph": 7}', b"graph {", b"null"])
def test_text_formats_that_hold_no_model(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        ww.WeightWatcher(path)
    message(caught, path.name)


@pytest.mark.parametrize("model", [{}, np.zeros((3, 3)), 3, 1.5, Something(), [b"x"], onnx.GraphProto()], ids=repr)
def test_objects_that_are_no_models(model: Any) -> None:
    with pytest.raises(ModelError) as caught:
        ww.WeightWatcher(model)
    message(caught, type(model).__name__, "onnx.ModelProto")


def test_no_model_at_all() -> None:
    watcher = ww.WeightWatcher(model=None)
    for attempt in (
        watcher.analyze,
        watcher.describe,
        watcher.inventory,
        watcher.sha256,
        lambda: watcher.get_ESD(layer=1),
    ):
        with pytest.raises(WwonnxError) as caught:
            attempt()
        message(caught, "no model", "model.onnx")
    for attempt in (watcher.get_details, watcher.get_summary, watcher.get_skipped):
        with pytest.raises(WwonnxError) as caught:
            attempt()
        message(caught, "analyze()")


def test_models_cut_short_anywhere(digits: Path, tmp_path: Path) -> None:
    whole = digits.read_bytes()
    rng = random.Random(5)
    path = tmp_path / "cut.onnx"
    for length in [1, 2, 3, 10, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(60))]:
        path.write_bytes(whole[:length])
        said = ""
        try:
            ww.analyze(path)
        except ModelError as error:
            said = str(error)
        assert not said or ("cut.onnx" in said and "\n" not in said)


# --- external data ---


def test_all_external_data_missing(tmp_path: Path) -> None:
    path = save(
        dense({"w": external([16, 16], "weights.bin"), "v": external([16, 16], "more.bin")}), tmp_path / "m.onnx"
    )
    with pytest.raises(ModelError) as caught:
        ww.analyze(path)
    message(caught, "m.onnx", "weights.bin", "'w'", str(tmp_path), "1 more file")
    complained(command_line("describe", path), "weights.bin")


#: What is wrong with one layer's data; the file there.bin holds that of one 16 x 16 matrix -> words of the reason
EXTERNAL = {
    "missing": (external([16, 16], "gone.bin"), "gone.bin"),
    "offset": (external([16, 16], "there.bin", offset=4), "cut short"),
    "far": (external([16, 16], "there.bin", offset=10**15), "there.bin"),
    "beyond64": (external([16, 16], "there.bin", offset=10**30), "there.bin"),
    "length": (external([16, 16], "there.bin", offset=0, length=BYTES - 4), "entry gives"),
    "larger": (external([17, 16], "there.bin"), "cut short"),
    "huge": (external([10**9, 10**9], "there.bin"), "there.bin"),
}


@pytest.mark.parametrize("case", EXTERNAL)
def test_bad_external_data_costs_its_layer_alone(case: str, tmp_path: Path) -> None:
    broken, word = EXTERNAL[case]
    (tmp_path / "there.bin").write_bytes(random_matrix(16, 16).tobytes())
    good = {"good": external([16, 16], "there.bin", length=BYTES), "other": random_matrix(16, 12, 3)}
    path = save(dense({"good": good["good"], "broken": broken, "other": good["other"]}), tmp_path / "m.onnx")
    details = ww.analyze(path).set_index("longname")
    assert details["status"]["broken"] == "failed"
    assert word in details["reason"]["broken"]
    assert "broken" in details["reason"]["broken"]
    alone = ww.analyze(save(dense(good), tmp_path / "alone.onnx")).set_index("longname")
    same = [column for column in alone.columns if column != "layer_id"]
    pd.testing.assert_frame_equal(details.loc[["good", "other"], same], alone[same], check_dtype=False)


@pytest.mark.parametrize("entry", [{"offset": "x"}, {"length": "1e3"}, {"offset": ""}])
def test_external_entries_that_are_no_numbers(entry: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "there.bin").write_bytes(bytes(BYTES))
    path = save(dense({"w": external([16, 16], "there.bin", **entry)}), tmp_path / "m.onnx")
    with pytest.raises(ModelError) as caught:
        ww.analyze(path)
    message(caught, "m.onnx", "'w'")


@pytest.mark.parametrize(
    "location",
    [
        "../out.bin",
        "sub/../../out.bin",
        "/dev/zero",
        "ABSOLUTE",
        "..\\out.bin",
        "link.bin",
        "linked/out.bin",
        "fifo",
        "",
        "folder",
        "a\x00b",
        "sub/../there.bin",
    ],
)
@pytest.mark.parametrize("as_attribute", [False, True])
def test_unsafe_external_data(location: str, as_attribute: bool, tmp_path: Path) -> None:
    outside, folder = tmp_path / "out.bin", tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    outside.write_bytes(random_matrix(16, 16).tobytes())
    (folder / "there.bin").write_bytes(outside.read_bytes())
    (folder / "link.bin").symlink_to(outside)
    (folder / "linked").symlink_to(tmp_path)
    os.mkfifo(folder / "fifo")
    tensor = external([16, 16], str(outside) if location == "ABSOLUTE" else location)
    tensor.name = "w"
    model = dense({"w": tensor})
    if as_attribute:
        del model.graph.initializer[:]
        model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    path = save(model, folder / "m.onnx")
    for attempt in (ww.WeightWatcher, ww.analyze):
        with pytest.raises(UnsafeModelError) as caught:
            attempt(path)
        message(caught, "m.onnx", "'w'", "beside the model")


def test_a_device_linked_into_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zero.bin").symlink_to("/dev/zero")
    path = save(dense({"w": external([16, 16], "zero.bin")}), tmp_path / "m.onnx")
    complained(command_line("analyze", path), "zero.bin", "'w'")


def test_a_proto_in_memory_may_not_leave_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for model in (dense({"w": external([16, 16], "/etc/hostname")}), dense({"w": external([16, 16], "../x")})):
        for given in (model, model.SerializeToString(), ir.from_proto(model)):
            with pytest.raises(UnsafeModelError):
                ww.analyze(given)


# --- weights that can't be analysed ---


def _broken(value: float) -> np.ndarray[Any, Any]:
    matrix = random_matrix(16, 16, 4)
    matrix[3, 5] = value
    return matrix


#: A bad layer -> its words: in the reason of its row, or of what was left out.
WEIGHTS: dict[str, tuple[np.ndarray[Any, Any] | TensorProto, str]] = {
    "nan": (_broken(np.nan), "NaN"),
    "inf": (_broken(np.inf), "infinite"),
    "half_inf": (_broken(-np.inf).astype(np.float16), "infinite"),
    "zeros": (np.zeros((16, 16), np.float32), ""),
    "identity": (np.eye(16, dtype=np.float32), ""),
    "empty_rows": (np.zeros((0, 16), np.float32), "empty"),
    "empty_columns": (np.zeros((16, 0), np.float32), "empty"),
    "row": (random_matrix(1, 16), "min_evals"),
    "column": (random_matrix(16, 1), "min_evals"),
    "int64": (np.arange(256).reshape(16, 16), "int64"),
    "bool": (np.ones((16, 16), bool), "bool"),
    "huge": (random_matrix(16, 16).astype(np.float64) * 1e200, "large"),
    "tiny": (random_matrix(16, 16).astype(np.float64) * 1e-200, "small"),
    "complex": (random_matrix(16, 16).astype(np.complex64), ""),
    "text": (np.array([["a", "b"]] * 2, dtype=object), "string"),
    "short": (claimed([16, 16], raw=bytes(BYTES - 4)), ""),
    "long": (claimed([16, 16], raw=bytes(BYTES + 4)), ""),
    "no_data": (claimed([16, 16]), ""),
    "negative": (claimed([-16, 16], raw=bytes(BYTES)), ""),
    "untyped": (claimed([16, 16], TensorProto.UNDEFINED, bytes(BYTES)), ""),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_a_bad_weight_costs_its_layer_alone(case: str) -> None:
    bad, word = WEIGHTS[case]
    good: dict[str, Any] = {"one": random_matrix(16, 16, 1), "two": random_matrix(16, 16, 2)}
    watcher = ww.WeightWatcher(dense({"one": good["one"], "bad": bad, "two": good["two"]}))
    details = watcher.analyze().set_index("longname")
    alone = ww.analyze(dense(good)).set_index("longname")
    same = [column for column in alone.columns if column != "layer_id"]
    pd.testing.assert_frame_equal(details.loc[["one", "two"], same], alone[same], check_dtype=False)
    skipped = watcher.get_skipped().set_index("longname")
    assert ("bad" in details.index) != ("bad" in skipped.index)
    if "bad" in details.index:
        assert details["status"]["bad"] == "failed"
        assert np.isnan(details["alpha"]["bad"])
    reason = (details if "bad" in details.index else skipped)["reason"]["bad"]
    assert reason
    assert word in reason
    assert "\n" not in reason
    entry = watcher.inventory().set_index("name").loc["bad"]
    assert entry["reason"] or entry["analyzed"]


@pytest.mark.parametrize(
    "options", [{"pool": False}, {"detX": True}, {"inverse": True}, {"xmax": -1}, {"min_evals": 0}]
)
@pytest.mark.parametrize("case", ["nan", "zeros", "identity", "row", "huge", "short"])
def test_bad_weights_under_every_option(case: str, options: dict[str, Any]) -> None:
    details = ww.analyze(dense({"good": random_matrix(16, 16), "bad": WEIGHTS[case][0]}), **options)
    assert details["status"][0] == "success"
    assert set(details["status"]) <= {"success", "failed"}
    assert (details["reason"] != "")[details["status"] == "failed"].all()


def test_an_unknown_element_type_names_its_tensor() -> None:
    with pytest.raises(ModelError) as caught:
        ww.WeightWatcher(dense({"good": random_matrix(16, 16), "bad": claimed([16, 16], 99, bytes(BYTES))}))
    message(caught, "99", "bad")


def test_unknown_operators_and_opsets() -> None:
    nodes = [
        helper.make_node("Mystery", ["x", "w"], ["h"], domain="strange"),
        helper.make_node("NotYetInvented", ["h"], ["g"]),
        helper.make_node("MatMul", ["g", "v"], ["y"]),
    ]
    watcher = ww.WeightWatcher(model_of(nodes, {"w": random_matrix(16, 16), "v": random_matrix(16, 16, 2)}, opset=999))
    assert list(watcher.analyze()["longname"]) == ["v"]
    skipped = watcher.get_skipped()
    assert list(skipped["longname"]) == ["w"]
    assert "strange.Mystery" in skipped["reason"][0]


def test_a_where_that_lacks_what_it_chooses_from() -> None:
    nodes = [helper.make_node("Where", ["w"], ["c"]), helper.make_node("MatMul", ["x", "c"], ["y"])]
    watcher = ww.WeightWatcher(model_of(nodes, {"w": random_matrix(16, 16)}))
    assert watcher.analyze().empty
    assert "Where" in watcher.get_skipped()["reason"][0]


def test_a_graph_that_cannot_be_copied() -> None:
    """With functions to inline, a value from nowhere, and a tensor that can't even be printed."""
    wrong = TensorProto(dims=[1], data_type=TensorProto.INT64, int32_data=[1])
    nodes = [
        helper.make_node("Reshape", ["gone", "wrong"], ["h"]),
        helper.make_node("f", ["h"], ["y"], domain="local"),
    ]
    body = helper.make_function(
        "local", "f", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    model = model_of(nodes, {"wrong": wrong}, functions=[body])
    model.opset_import.append(helper.make_opsetid("local", 1))
    with pytest.raises(ModelError) as caught:
        ww.WeightWatcher(model)
    message(caught, "can't be copied", "onnx.checker")


def test_a_model_without_weights() -> None:
    watcher = ww.WeightWatcher(model_of([helper.make_node("Relu", ["x"], ["y"])], {}))
    assert watcher.analyze().empty
    assert watcher.describe().empty
    assert watcher.inventory().empty
    assert watcher.get_skipped().empty
    assert np.isnan(watcher.get_summary()["alpha"])
    with pytest.raises(OptionError) as caught:
        watcher.analyze(layers=1)
    message(caught, "no layers")


# --- options ---


#: Options that can't be -> words of the message.
OPTIONS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"layers": 99}, ("99", "1 to 2")),
    ({"layers": 0}, ("layers=0",)),
    ({"layers": -99}, ("99",)),
    ({"layers": [1, -2]}, ("both signs",)),
    ({"layers": "fisrt"}, ("fisrt", "first")),
    ({"layers": "-fisrt"}, ("fisrt", "first")),
    ({"layers": ["first", "nothing"]}, ("nothing",)),
    ({"layers": "no*such"}, ("no*such",)),
    ({"layers": ""}, ("layers",)),
    ({"layers": True}, ("True",)),
    ({"layers": [True]}, ("True",)),
    ({"layers": 1.0}, ("1.0",)),
    ({"layers": [1.5]}, ("1.5",)),
    ({"layers": Something()}, ("layers",)),
    ({"layers": [None]}, ("None",)),
    ({"layers": {"a": 1}}, ("'a'",)),
    ({"min_evals": -1}, ("min_evals=-1",)),
    ({"min_evals": 2.5}, ("min_evals=2.5",)),
    ({"min_evals": "8"}, ("min_evals='8'",)),
    ({"min_evals": True}, ("min_evals=True",)),
    ({"max_evals": 4}, ("max_evals=4", "min_evals=8")),
    ({"max_evals": 0, "min_evals": 0}, ("max_evals=0",)),
    ({"pool": "no"}, ("pool='no'",)),
    ({"pool": None}, ("pool=None",)),
    ({"pool": np.zeros(2)}, ("pool=",)),
    ({"groups": "both"}, ("groups='both'", "'stack'")),
    ({"groups": ["stack"]}, ("groups=",)),
    ({"tolerance": float("nan")}, ("tolerance=nan",)),
    ({"tolerance": "x"}, ("tolerance='x'",)),
    ({"xmax": 3}, ("xmax=3",)),
    ({"xmax": True}, ("xmax=True",)),
    ({"seed": -1}, ("seed=-1",)),
    ({"seed": "s"}, ("seed='s'",)),
]


@pytest.mark.parametrize(("options", "words"), OPTIONS, ids=str)
def test_options_that_cannot_be(options: dict[str, Any], words: tuple[str, ...], healthy: Path) -> None:
    with pytest.raises(OptionError) as caught:
        ww.analyze(healthy, **options)
    message(caught, *words)


@pytest.mark.parametrize("layer", [None, 99, "nothing", [1, 2], True, 1.5, "*"], ids=str)
def test_one_layer_that_is_none(layer: Any, healthy: Path) -> None:
    watcher = ww.WeightWatcher(healthy)
    for attempt in (watcher.get_ESD, watcher.get_weights):
        with pytest.raises(OptionError) as caught:
            attempt(layer=layer)
        message(caught, "layer")


def test_an_unknown_progress_is_refused(healthy: Path) -> None:
    with pytest.raises(OptionError) as caught:
        ww.analyze(healthy, progress="yes")
    message(caught, "progress")


def test_reading_one_bad_layer_says_which(healthy: Path) -> None:
    watcher = ww.WeightWatcher(dense({"bad": claimed([16, 16], raw=bytes(5)), "nan": _broken(np.nan)}))
    with pytest.raises(ww.errors.WeightError) as caught:
        watcher.get_weights(layer=1)
    message(caught, "'bad'")
    with pytest.raises(ww.errors.WeightError) as caught:
        watcher.get_ESD(layer="nan")
    message(caught, "NaN")


# --- the command line ---


#: Arguments after "analyze good.onnx" -> words of the line on stderr.
ARGUMENTS: list[tuple[list[str], tuple[str, ...]]] = [
    (["--no-such-option"], ("--no-such-option", "--help")),
    (["--min-evals", "x"], ("--min-evals", "'x'")),
    (["--min-evals", "-1"], ("min_evals=-1",)),
    (["--max-evals", "4"], ("max_evals=4",)),
    (["--format", "xml"], ("--format", "json")),
    (["--layers", "99"], ("99",)),
    (["--layers", "1,-2"], ("both signs",)),
    (["--layers=-nothing"], ("nothing",)),
    (["--groups", "both"], ("--groups",)),
    (["--xmax", "3"], ("xmax=3",)),
    (["-o", "no/such/folder/out.json"], ("no/such/folder", "no directory")),
    (["-o", "."], ("-o",)),
    (["-o", ""], ("-o",)),
    (["-o"], ("-o", "argument")),
    (["-o", "x" * 300 + ".json"], ("-o",)),
]


@pytest.mark.parametrize(("arguments", "words"), ARGUMENTS, ids=lambda value: " ".join(value)[:40])
def test_arguments_that_cannot_be(
    arguments: list[str], words: tuple[str, ...], healthy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complained(in_process(capsys, "analyze", healthy, *arguments), *words)


@pytest.mark.parametrize("arguments", [[], ["--format", "json"], ["no-such-command"], ["analyse", "x"], ["analyze"]])
def test_commands_that_cannot_be(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run = in_process(capsys, *arguments)
    assert run.code in (0, 2)
    assert "Traceback" not in run.err
    if arguments:
        complained(run, "--help")


def test_arguments_in_the_shell(healthy: Path, tmp_path: Path) -> None:
    complained(command_line("analyze", healthy, "--no-such-option"), "--no-such-option")
    complained(command_line("analyze", healthy, "-o", tmp_path / "no" / "out.json"), "no directory")
    complained(command_line("inventory"), "--help")


def test_an_output_that_cannot_be_written(healthy: Path, tmp_path: Path) -> None:
    (tmp_path / "taken.json").mkdir()
    complained(command_line("analyze", healthy, "-o", tmp_path / "taken.json"), "taken.json")
    if Path("/proc/self").is_dir():
        complained(command_line("analyze", healthy, "-o", "/proc/out.json"), "/proc/out.json")


def test_parquet_to_a_terminal_is_refused(healthy: Path) -> None:
    import pty
    import subprocess
    import sys

    leader, follower = pty.openpty()
    command = [sys.executable, "-c", "from wwonnx.cli.main import run; run()", "analyze", str(healthy), "--format"]
    done = subprocess.run(
        [*command, "parquet"], stdout=follower, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(follower)
    os.set_blocking(leader, False)
    try:
        written = os.read(leader, 1000)
    except OSError:  # nothing was written
        written = b""
    os.close(leader)
    assert written == b""
    complained(Run(done.returncode, "", done.stderr), "-o FILE.parquet")


@pytest.mark.parametrize("format_", ["table", "json", "csv", "markdown"])
def test_one_bad_model_does_not_cost_the_others(format_: str, healthy: Path, tmp_path: Path) -> None:
    other = save(dense({"third": random_matrix(16, 12)}), tmp_path / "other.onnx")
    bad = tmp_path / "bad.onnx"
    bad.write_text("no model\n")
    run = command_line("analyze", healthy, bad, other, "--format", format_)
    assert run.code == 2
    assert len(run.err.splitlines()) == 1
    assert "bad.onnx" in run.err
    shown = run.out.replace("\n", "")  # a narrow table folds the path above it
    assert all(name in shown for name in ("first", "second", "third", "other.onnx"))


def test_only_bad_models_write_nothing(tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_text("no model\n")
    complained(command_line("analyze", bad, tmp_path / "gone.onnx", "-o", tmp_path / "o.json"), "bad.onnx", lines=2)
    assert not (tmp_path / "o.json").exists()


def test_bad_layers_in_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {name.replace("_", "|") + "\n[red]": values for name, (values, _) in WEIGHTS.items()}
    weights.pop("negative\n[red]")
    path = save(dense(weights), tmp_path / "[bold]m.onnx")
    for command in ("analyze", "describe", "inventory"):
        for format_ in ("table", "json", "csv", "markdown"):
            run = in_process(capsys, command, path, path, "--format", format_, "--min-evals", "0")
            assert run.code == 0, run.err
            assert run.err == ""


# --- nothing of the user's is changed ---


def test_the_file_stays_as_it_is(digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(digits.read_bytes())
    path.chmod(0o444)
    before = path.stat()
    watcher = ww.WeightWatcher(path)
    watcher.analyze()
    watcher.inventory()
    main(["analyze", str(path), "-o", str(tmp_path / "out.json")])
    after = path.stat()
    assert path.read_bytes() == digits.read_bytes()
    assert (before.st_mtime_ns, before.st_mode, before.st_ino) == (after.st_mtime_ns, after.st_mode, after.st_ino)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.onnx", "out.json"]


def _with_function() -> onnx.ModelProto:
    inner = [helper.make_node("MatMul", ["a", "b"], ["c"])]
    function = helper.make_function("local", "Product", ["a", "b"], ["c"], inner, [helper.make_opsetid("", 18)])
    node = helper.make_node("Product", ["x", "w"], ["y"], domain="local")
    model = model_of([node], {"w": random_matrix(16, 16)}, functions=[function])
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


def _with_map() -> onnx.ModelProto:
    model = dense({"w": random_matrix(16, 16)})
    model.graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, None))
    model.graph.output[1].type.CopyFrom(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(1, []))
    )
    model.graph.node.append(helper.make_node("ZipMap", ["y"], ["probabilities"], domain="ai.onnx.ml"))
    return model


def _with_sparse() -> onnx.ModelProto:
    values = helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [3], [0, 40, 200])
    model = dense({"w": random_matrix(16, 16)})
    del model.graph.initializer[:]
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [16, 16]))
    return model


@pytest.mark.parametrize("make", [lambda: dense({"w": random_matrix(16, 16)}), _with_function, _with_map, _with_sparse])
def test_a_model_in_memory_stays_as_it_is(make: Callable[[], onnx.ModelProto]) -> None:
    proto = make()
    before = proto.SerializeToString(deterministic=True)
    watcher = ww.WeightWatcher(proto)
    assert list(watcher.analyze(min_evals=1)["longname"]) == ["w"]
    watcher.inventory()
    assert proto.SerializeToString(deterministic=True) == before
    if make is _with_map:
        return  # onnx_ir has no such type
    model = ir.from_proto(proto)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    names = [(node.name, node.op_type, [value and value.name for value in node.inputs]) for node in model.graph]
    ww.WeightWatcher(model).analyze()
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert names == [(n.name, n.op_type, [value and value.name for value in n.inputs]) for n in model.graph]


def test_logging_and_warnings_stay_as_they_are(digits: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def state() -> list[Any]:
        names = ["", "wwonnx", "onnx_ir", "onnx_ir.serde", "onnx_ir.passes.common.inliner", "powerlaw", "onnx"]
        loggers = [logging.getLogger(name or None) for name in names]
        return [
            *((log.level, list(log.handlers), list(log.filters), log.disabled, log.propagate) for log in loggers),
            list(warnings.filters),
            dict(np.geterr()),
            os.getcwd(),
            dict(os.environ),
        ]

    ww.analyze(digits)  # what importing does is not looked at
    capfd.readouterr()
    before = state()
    watcher = ww.WeightWatcher(digits)
    watcher.analyze()
    watcher.inventory()
    ww.analyze(dense({"bad": WEIGHTS["nan"][0], "zero": WEIGHTS["zeros"][0]}))
    ww.analyze(_with_function())
    assert state() == before
    assert capfd.readouterr() == ("", "")


def test_a_log_level_is_set_only_when_asked_for(digits: Path) -> None:
    logger = logging.getLogger("wwonnx")
    level = logger.level
    try:
        ww.WeightWatcher(digits, log_level="ERROR")
        assert logger.level == logging.ERROR
    finally:
        logger.setLevel(level)
    with pytest.raises(OptionError) as caught:
        ww.WeightWatcher(digits, log_level="LOUD")
    message(caught, "log_level")
