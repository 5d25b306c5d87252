"""What loading and exporting a model would change of the process, put back."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import warnings
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    """Put back the environment, the states of the random generators and the warnings.

    Loading draws seeds for initial values, tf2onnx sets variables of the environment.
    """
    environment, state, legacy = dict(os.environ), random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    torch_state = torch.random.get_rng_state() if torch is not None else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            if torch is not None and torch_state is not None:
                torch.random.set_rng_state(torch_state)
            np.random.set_state(legacy)
            random.setstate(state)
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ.update(environment)
