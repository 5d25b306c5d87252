"""Trains a small Keras model with and without the monitor, on the backend of this process, and tells what it saw.

A process has one backend: test_keras.py runs this file in one process for each.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import keras
import numpy as np

import wwonnx as ww
from wwonnx.callbacks import KerasMonitor


def build() -> keras.Model:
    model = keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dropout(0.3, name="drop"),
            keras.layers.Dense(64, activation="relu", name="hidden"),
            keras.layers.Dense(60, name="head"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
    return model


def fit(*callbacks: Any, epochs: int = 3) -> tuple[keras.Model, keras.callbacks.History]:
    keras.utils.set_random_seed(0)
    model = build()
    generator = np.random.default_rng(0)
    images, labels = generator.normal(size=(64, 8, 8, 1)).astype("f4"), generator.integers(0, 60, 64)
    history = model.fit(images, labels, batch_size=16, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model, history


def left_behind(model: keras.Model) -> dict[str, Any]:
    """Weights, momentum, seeds of the dropout, and every process-wide random state."""
    variables = [*model.variables, *model.optimizer.variables]
    seeds = [one.state for layer in model.layers for one in getattr(layer, "_seed_generators", [])]
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    state = {
        "variables": [keras.ops.convert_to_numpy(one.value).tobytes().hex() for one in variables],
        "seeds": [keras.ops.convert_to_numpy(one).tolist() for one in seeds],
        "numpy": [name, keys.tolist(), rest],
        "python": random.getstate(),
        "trainable": [layer.trainable for layer in model.layers],
    }
    if keras.backend.backend() == "torch":
        import torch

        state["torch"] = torch.get_rng_state().tolist()
        state["modes"] = [module.training for module in model.modules()]
        state["gradients"] = [None if p.grad is None else p.grad.numpy().tobytes().hex() for p in model.parameters()]
    return state


def main() -> None:
    plain, _ = fit()
    before = left_behind(plain)
    logged: list[tuple[int, dict[str, float]]] = []
    callback = KerasMonitor(threshold=None, log=lambda metrics, epoch: logged.append((epoch, metrics)), every=1)
    model, history = fit(callback)
    after = left_behind(model)
    kernels = {name: keras.ops.convert_to_numpy(model.get_layer(name).kernel) for name in ("hidden", "head")}
    stopping = KerasMonitor(threshold=1000.0, patience=2, verbose=False)
    stopped, _ = fit(stopping, epochs=5)
    try:
        fit(KerasMonitor(layers="nosuch"))
        refused = ""
    except ww.OptionError as error:
        refused = str(error)
    told = {
        "backend": keras.backend.backend(),
        "changed": [name for name, value in after.items() if value != before[name]],
        "seeds": len(after["seeds"]),
        "logged": logged,
        "history": {name: [float(value) for value in values] for name, values in history.history.items()},
        "kernels": {name: kernel.tolist() for name, kernel in kernels.items()},
        "ran": [one.epoch for one in stopping.monitor.measurements],
        "stop": bool(stopped.stop_training),
        "refused": refused,
    }
    with open(sys.argv[1], "w") as file:
        json.dump(told, file)


if __name__ == "__main__":
    main()
