"""The report as a file: what it says, that nothing in a model can become markup, and that it stays small."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from build_onnx import dense_model, gaussian, save

import wwonnx as ww
from wwonnx import analysis
from wwonnx.cli.main import main
from wwonnx.report import findings, svg
from wwonnx.report.pictures import as_json, picture
from wwonnx.reporting import short_labels

pytest.importorskip("jinja2")
pytest.importorskip("plotly")

EVIL = '</script><script>window.evil=1</script><img src=x onerror="window.evil=1">'
FEW = {"rand_replicas": 3}


class Page(HTMLParser):
    """Elements and texts of a page, as a browser would take it apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    def data(self) -> list[dict]:
        return json.loads(self.scripts[0])


def report(model: object, folder: Path, **options: object) -> str:
    path = folder / "report.html"
    ww.write_report(model, path, **(FEW | options))
    return path.read_text("utf-8")


def test_the_page_says_what_the_analysis_says(digits: Path, tmp_path: Path) -> None:
    page = Page(report(digits, tmp_path))
    details = ww.analyze(digits, mp_fit=True, randomize=True, **FEW)
    rows = [entry["row"] for entry in page.data()[0]["rows"]]
    assert [row["name"] for row in rows] == details.name.tolist()
    for column in ("alpha", "D", "xmin", "log_norm", "num_spikes", "rand_p_value", "num_traps"):
        np.testing.assert_allclose([row[column] for row in rows], details[column], rtol=1e-5)
    text = " ".join(page.text.split())
    judged = details[details.num_evals >= 50]
    good = int(judged.alpha.between(2, 6).sum())
    assert not (judged.status == "random-like").any()
    assert f"{good} of {len(judged)} layers well trained" in text
    for value in (*details.alpha, *ww.WeightWatcher(digits).analyze().log_norm):
        assert f"{value:.3f}" in text
    assert ww.__version__ in text
    assert "rand_replicas3" in text.replace(" ", "")


@pytest.mark.parametrize("name", [EVIL, "]]> & \u2028 --> <!--", "{{ 7 * 7 }}", "'\"`"])
def test_names_can_not_become_markup(name: str, tmp_path: Path) -> None:
    html = report({name: dense_model({name: gaussian(60, 55), "tiny" + name: gaussian(9, 3)})}, tmp_path)
    page = Page(html)
    # The data, the library and the page's own script.
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    (model,) = page.data()
    assert model["label"] == name
    assert "<" not in page.scripts[0]
    assert "49" not in page.text.split("Options and versions")[0].split("Left out")[1]


def test_only_its_own_scripts_may_run(digits: Path, tmp_path: Path) -> None:
    import base64
    import hashlib

    page = Page(report(digits, tmp_path, randomize=False))
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    own = "sha256-" + base64.b64encode(hashlib.sha256(page.scripts[2].encode()).digest()).decode()
    assert own in policy
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", "".join(str(a) for _, a in page.tags))


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    nan = gaussian(60, 55)
    nan[0, 0] = np.nan
    page = Page(report(dense_model({"good": gaussian(60, 55), "tiny": gaussian(9, 3), "bad": nan}), tmp_path))
    assert "3 eigenvalues, fewer than min_evals=8" in page.text
    assert "1 of 3300 weights are NaN" in page.text
    bad = page.data()[0]["rows"][1]
    assert (bad["row"]["status"], bad["picture"], bad["row"]["alpha"]) == ("failed", None, None)


def test_a_model_without_layers_has_a_page(tmp_path: Path) -> None:
    page = Page(report(dense_model({"tiny": gaussian(9, 3)}), tmp_path))
    assert "No layer was analysed." in page.text
    assert "No verdict" in page.text


def test_several_models_stand_side_by_side(digits: Path, tmp_path: Path) -> None:
    models = {"first": str(digits), "second": dense_model({"conv1": gaussian(60, 55), "x": gaussian(80, 60)})}
    page = Page(report(models, tmp_path))
    assert [model["label"] for model in page.data()] == ["first", "second"]
    assert [tag for tag, attributes in page.tags if attributes.get("class") == "layers"] == ["table"] * 2


@pytest.mark.parametrize(
    "options",
    [{"inverse": True}, {"intra": True}, {"stacked": True}, {"pool": False}, {"fit": "TPL"}, {"base_model": "itself"}],
)
def test_options_of_the_analysis(digits: Path, tmp_path: Path, options: dict[str, object]) -> None:
    if "base_model" in options:
        options = {"base_model": dense_model({"fc1": gaussian(64, 64)}), "randomize": False}
    rows = Page(report(digits, tmp_path, **options)).data()[0]["rows"]
    wanted = {"rand_replicas": 3} if options.get("pool") is False or "fit" in options else {}
    details = ww.analyze(digits, **{**wanted, **options})
    assert len(rows) == len(details)
    np.testing.assert_allclose(
        [np.nan if entry["row"]["alpha"] is None else entry["row"]["alpha"] for entry in rows], details.alpha, rtol=1e-5
    )


def test_a_hundred_layers_fit_four_megabytes(tmp_path: Path) -> None:
    html = report(dense_model({f"layer{i}": gaussian(70, 60, seed=i) for i in range(100)}), tmp_path)
    assert len(html.encode()) < 4_000_000
    assert len(Page(html).data()[0]["rows"]) == 100


def test_the_method_and_the_command_write_the_same(digits: Path, tmp_path: Path, capsys) -> None:
    ww.WeightWatcher(digits).report(tmp_path / "a.html", **FEW)
    assert main(["report", str(digits), "--rand-replicas", "3", "-o", str(tmp_path / "b.html")]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "report of 1 model, 5 layers" in said.err
    first, second = (Page((tmp_path / name).read_text("utf-8")).data() for name in ("a.html", "b.html"))
    assert first == second
    assert (
        main(["report", str(digits), str(tmp_path / "none.onnx"), "--no-randomize", "-o", str(tmp_path / "c.html")])
        == 2
    )
    assert (tmp_path / "c.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "/no/such/folder/r.html"], "no directory"),
        (["--min-evals", "-1"], "min_evals=-1"),
        (["--inverse", "--randomize"], "contradict"),
        (["--layers", "nothing"], "nothing"),
    ],
)
def test_mistakes(digits: Path, tmp_path: Path, arguments: list[str], said: str, capsys) -> None:
    target = [] if "-o" in arguments else ["-o", str(tmp_path / "r.html")]
    assert main(["report", str(digits), *arguments, *target]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_every_option_of_analyze_is_one_of_the_command() -> None:
    import inspect

    from wwonnx.cli.report import command

    wanted = set(inspect.signature(ww.WeightWatcher.analyze).parameters)
    wanted -= {"self", "model", "ERG", "channels", "plot", "savefig"}
    assert wanted <= {parameter.name.replace("detx", "detX") for parameter in command.params}


def test_labels() -> None:
    assert short_labels(["a/m.onnx", "b/n.onnx"]) == ["m.onnx", "n.onnx"]
    assert short_labels(["a/m.onnx", "b/m.onnx"]) == ["a/m.onnx", "b/m.onnx"]
    assert short_labels(["m.onnx", "m.onnx"]) == ["m.onnx (1)", "m.onnx (2)"]


# Findings


def row(alpha: float, num_evals: int = 100, status: str = "success", **more: object) -> dict[str, object]:
    return {"alpha": alpha, "num_evals": num_evals, "status": status, "warning": "", "reason": "", **more}


@pytest.mark.parametrize(
    ("rows", "level", "headline"),
    [
        ([row(3.0)] * 4, "good", "4 of 4 layers well trained"),
        ([row(3.0), row(1.5), row(7.0)], "bad", "1 of 3 layers well trained, 1 over-trained, 1 under-trained"),
        ([row(3.0), row(1.0, num_evals=20)], "good", "1 of 1 layers well trained"),
        ([row(3.0, num_evals=20)], "note", "1 of 1 layers well trained"),
        ([row(np.nan, status="failed")], "note", "No verdict: no layer has a power law"),
        ([], "note", "No verdict: no layer has a power law"),
        ([row(2.0), row(6.0)], "good", "2 of 2 layers well trained"),
        ([row(3.0), row(3.0, status="random-like")], "warn", "1 of 2 layers well trained, 1 like random"),
    ],
)
def test_verdicts(rows: list[dict[str, object]], level: str, headline: str) -> None:
    found = findings.verdict(rows)
    assert (found.level, found.headline) == (level, headline)
    folded = findings.verdict(rows, folded=True)
    assert folded.level == ("warn" if level == "good" else level)
    assert folded.headline == headline


def test_findings_name_their_layers() -> None:
    rows = [row(3.0), row(1.5), row(np.nan, status="failed"), row(7.0, num_traps=2), row(4.0, status="random-like")]
    found = {finding.title: finding.rows for finding in findings.findings(rows, "folded")}
    assert found == {
        "1 layer could not be analysed, or has no power law": (2,),
        "1 layer can't be told from its own shuffled weights": (4,),
        "1 layer is over-trained (alpha below 2)": (1,),
        "1 layer is under-trained (alpha above 6)": (3,),
        "1 layer has correlation traps": (3,),
        "BatchNormalization is folded into weights": (),
    }


# Drawings


def test_the_picture_is_the_histogram_of_the_esd() -> None:
    model = dense_model({"a": gaussian(90, 60)})
    seen: list[tuple[dict, analysis.Kept]] = []
    ww.WeightWatcher(model).analyze_each(lambda r: seen.append((dict(r), r[analysis.KEPT])), randomize=True, **FEW)
    ((numbers, kept),) = seen
    shown = as_json(picture(numbers, kept))
    edges = np.geomspace(shown["low"], shown["high"], len(shown["density"]) + 1)
    assert np.sum(np.array(shown["density"]) * np.diff(edges)) * 60 + shown["below"] == pytest.approx(60, rel=1e-3)
    assert np.sum(np.array(shown["shuffle"]) * np.diff(edges)) <= 1.001
    assert shown["tail"][0] == pytest.approx([numbers["xmin"], numbers["xmax"]], rel=1e-3)
    slope = np.diff(np.log(shown["tail"][1]))[0] / np.diff(np.log(shown["tail"][0]))[0]
    assert slope == pytest.approx(-numbers["alpha"], rel=2e-2)


def test_thumbnails_split_at_xmin() -> None:
    seen: list[tuple[dict, analysis.Kept]] = []
    ww.WeightWatcher(dense_model({"a": gaussian(90, 60)})).analyze_each(
        lambda r: seen.append((dict(r), r[analysis.KEPT]))
    )
    ((numbers, kept),) = seen
    shown = picture(numbers, kept)
    drawn = svg.thumbnail(shown, numbers["xmin"])
    assert drawn.bulk.count("H") + drawn.tail.count("H") == shown.density.size
    assert drawn.tail.count("H") == np.count_nonzero(shown.edges[1:] > numbers["xmin"] * (1 + 1e-9))
    assert drawn.fit.startswith("M")
    assert svg.thumbnail(shown, float("nan")).tail == ""


def test_the_flow_holds_every_layer_and_says_what_is_beyond() -> None:
    panel = svg.flow("α", [[("a", 3.0), ("b", float("nan")), ("c", 30.0)]], band=(2.0, 6.0), most=12.0)
    ((points, _),) = panel.lines
    assert [(point.row, point.beyond) for point in points] == [(0, False), (2, True)]
    assert points[1].words == "c: α 30.000"
    assert all(panel.top <= point.y <= panel.bottom for point in points)
    assert panel.band[0] < panel.band[1]
    assert svg.flow("α", [[("a", float("nan"))]]) is None


def test_a_report_is_saved(tmp_path: Path, digits: Path) -> None:
    copy = save(dense_model({"a": gaussian(60, 55)}), tmp_path / "m.onnx")
    ww.write_report([copy, digits], tmp_path / "r.html", randomize=False)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["m.onnx", "r.html"]
