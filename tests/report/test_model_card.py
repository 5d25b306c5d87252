"""The section for a model card, read as Markdown by a parser of Markdown."""

from __future__ import annotations

import contextlib
import hashlib
import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from build_onnx import dense_model, gaussian, save
from markdown_it import MarkdownIt
from markdown_it.token import Token

import wwonnx as ww
from wwonnx.cli.main import main

NASTY = "a|b_c*_x_ <script>`"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    zero = np.zeros((20, 20), "f4")
    weights = {"fc1": gaussian(60, 50), NASTY: gaussian(50, 20, seed=1), "zero": zero, "tiny": gaussian(20, 3)}
    return save(dense_model(weights), tmp_path_factory.mktemp("models") / "net.onnx")


def card(*arguments: str | Path) -> list[Token]:
    written = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(written):
        assert main(["analyze", *map(str, arguments), "--format", "markdown"]) == 0
    return MarkdownIt("commonmark").enable("table").parse(written.buffer.getvalue().decode())


def text(token: Token) -> str:
    return "".join(child.content for child in token.children or [])


def tables(tokens: list[Token]) -> list[list[list[str]]]:
    found: list[list[list[str]]] = []
    for before, token in pairwise(tokens):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif before.type in ("th_open", "td_open"):
            found[-1][-1].append(text(token))
    return found


def headings(tokens: list[Token]) -> list[tuple[str, str]]:
    pairs = pairwise(tokens)
    return [(token.tag, text(inline)) for token, inline in pairs if token.type == "heading_open"]


def test_it_is_one_section_with_its_parts(model: Path) -> None:
    assert headings(card(model)) == [
        ("h2", "Weight analysis of net.onnx"),
        ("h3", "Means over the layers"),
        ("h3", "Layers"),
        ("h3", "Not analysed"),
        ("h3", "What the numbers mean"),
        ("h3", "How they were made"),
    ]


def test_tables_hold_the_numbers(model: Path) -> None:
    watcher = ww.WeightWatcher(model)
    details = watcher.analyze(mp_fit=True)
    summary, layers, skipped = tables(card(model, "--mp-fit"))
    assert {name: float(value) for name, value in summary[1:]} == pytest.approx(watcher.get_summary(), abs=5e-4)
    header, *rows = layers
    assert [row[header.index("name")] for row in rows] == details.name.tolist()
    alphas = [float(row[header.index("alpha")] or "nan") for row in rows]
    np.testing.assert_allclose(alphas, details.alpha, atol=5e-4)
    assert rows[2][-1] == "failed: every weight is zero"
    assert skipped[1] == ["tiny", "20x3", "3 eigenvalues, fewer than min_evals=8"]


def test_names_are_shown_as_they_are(model: Path) -> None:
    tokens = card(model)
    assert NASTY in [row[1] for row in tables(tokens)[1]]
    assert not [token for token in tokens for child in token.children or [] if child.type == "html_inline"]


def test_it_says_what_the_numbers_mean_and_how_they_were_made(model: Path) -> None:
    words = " ".join(text(token) for token in card(model, "--detX", "--min-evals", "4") if token.type == "inline")
    for name in [*ww.WeightWatcher(model).get_summary(ww.analyze(model)), "detX_num", "num_evals"]:
        assert name in words
    assert "mp_softrank:" not in words
    assert hashlib.sha256(model.read_bytes()).hexdigest() in words
    assert f"wwonnx {ww.__version__}" in words
    assert "min_evals=4, detX=True" in words or "detX=True, min_evals=4" in words
    assert str(model.parent) not in words
    assert "defaults (min_evals=8)" in " ".join(text(token) for token in card(model) if token.type == "inline")


def test_several_models_are_several_sections(model: Path, digits: Path) -> None:
    tokens = card(model, digits)
    assert [name for tag, name in headings(tokens) if tag == "h2"] == [
        "Weight analysis of net.onnx",
        "Weight analysis of digits_cnn.onnx",
    ]


def test_a_model_without_layers(tmp_path: Path) -> None:
    path = save(dense_model({"tiny": gaussian(20, 3)}), tmp_path / "tiny.onnx")
    tokens = card(path)
    assert "No layer was analysed." in [text(token) for token in tokens if token.type == "inline"]
