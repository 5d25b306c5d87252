"""The rules: what each code means, why it matters and what to do. A code never changes its meaning."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import OptionError
from ..options import nearest


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        code: how it is named in files, for good.
        name: how people call it; `ignore` takes it too.
        level: "error" or "warning", for formats that tell them apart. Every finding makes the exit code 1.
        limit: the option that sets its limit; empty where it has none.
        summary: what is found, in one line.
        why: what it means.
        mend: what to do about it.
    """

    code: str
    name: str
    level: str
    limit: str
    summary: str
    why: str
    mend: str


OVER_TRAINED = Rule(
    "WWX001",
    "over-trained",
    "warning",
    "min-alpha",
    "A layer's alpha is below the smallest allowed (2 by default).",
    "Below 2 the tail of the layer's spectrum is so heavy that the law has no mean: the layer has memorised, or single "
    "weights have grown out of proportion (Martin and Mahoney, arXiv:1810.01075).",
    "Train with more regularisation, a smaller learning rate or fewer epochs; look for outsized weights with "
    "--max-traps 0. An alpha from fewer than 50 eigenvalues is uncertain: --min-evals 50 leaves such layers out.",
)
UNDER_TRAINED = Rule(
    "WWX002",
    "under-trained",
    "warning",
    "max-alpha",
    "A layer's alpha is above the largest allowed (6 by default).",
    "Above 6 the layer's spectrum has hardly a heavy tail: it is close to that of random weights, and the layer has "
    "learnt little.",
    "Train longer, with a larger learning rate for this layer ('wwonnx.advise' suggests scales), or make it smaller. "
    "An alpha from fewer than 50 eigenvalues is uncertain: --min-evals 50 leaves such layers out.",
)
TRAPS = Rule(
    "WWX003",
    "correlation-traps",
    "warning",
    "max-traps",
    "A layer has more correlation traps than allowed. Checked only where --max-traps is given.",
    "A trap is an eigenvalue that stays outside of the Marchenko-Pastur bulk when the weights are put into random "
    "order: it comes from single outsized weights or a shifted mean, not from what the layer has learnt.",
    "Lower the learning rate or clip gradients; 'wwonnx smooth --sharpen' writes a model without its traps.",
)
COVERAGE = Rule(
    "WWX004",
    "low-coverage",
    "error",
    "min-coverage",
    "Fewer of the model's parameters are analysed than demanded. Checked only where --min-coverage is given.",
    "What is not analysed is not checked: weights of operators that are not known, quantised in a way that is not "
    "known, or in layers too small for a spectrum.",
    "'wwonnx inventory' lists every constant and the reason why it is no layer; export the model in another way, or "
    "lower --min-evals.",
)
FAILED = Rule(
    "WWX005",
    "failed-layer",
    "error",
    "",
    "A layer could not be analysed, or its spectrum has no tail to fit.",
    "Weights that are NaN, infinite, all zero or unreadable are broken; too few distinct eigenvalues have no tail.",
    "The message names the cause. Export again from the last good checkpoint; leave a layer out with --layers=-NAME.",
)
RANDOM = Rule(
    "WWX006",
    "random-like",
    "warning",
    "",
    "A layer's spectrum can't be told from that of its own weights in random order. Checked only with --max-traps or "
    "--randomize.",
    "The layer has learnt nothing that its spectrum shows.",
    "Was it initialised anew, or frozen before it was trained? Train it, or take it out.",
)
CHANGED = Rule(
    "WWX007",
    "changed",
    "error",
    "max-change",
    "A layer's alpha, norm, spectral_norm or stable_rank is further from the baseline than allowed (10 % by default).",
    "Conversion, quantisation, pruning or another training run has changed what the layer does.",
    "If that is meant, write the baseline anew: 'wwonnx analyze MODEL --format json -o baseline.json'. "
    "'wwonnx distances' shows what changed.",
)
MISSING = Rule(
    "WWX008",
    "missing-layer",
    "error",
    "",
    "A layer of the baseline is not in the model, or has another shape.",
    "A layer was renamed, removed or resized, or an exporter has folded it into another.",
    "If that is meant, write the baseline anew.",
)
NEW = Rule(
    "WWX009",
    "new-layer",
    "warning",
    "",
    "The model has a layer that the baseline has not.",
    "There is nothing to compare the layer with.",
    "If that is meant, write the baseline anew.",
)
NOTHING = Rule(
    "WWX010",
    "nothing-analysed",
    "error",
    "",
    "No layer of the model was analysed.",
    "A model without a layer to check would pass every limit.",
    "'wwonnx inventory' gives the reasons; lower --min-evals, or look at --layers.",
)
RULES = (OVER_TRAINED, UNDER_TRAINED, TRAPS, COVERAGE, FAILED, RANDOM, CHANGED, MISSING, NEW, NOTHING)


def rule(name: str) -> Rule:
    """The rule with this code or name, in any case.

    Raises:
        OptionError: there is none.
    """
    wanted = name.strip().upper()
    for each in RULES:
        if wanted in (each.code, each.name.upper()):
            return each
    known = [word for each in RULES for word in (each.code, each.name)]
    hint = nearest(name, known).replace(f"there are {len(known)}", f"codes go from {RULES[0].code} to {RULES[-1].code}")
    raise OptionError(f"{name!r}: no rule has this code; {hint}; 'wwonnx explain' lists them")
