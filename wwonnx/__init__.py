"""Judge trained neural networks from their weights alone.

    >>> import wwonnx as ww
    >>> details = ww.WeightWatcher(model="model.onnx").analyze()

Importing the package is fast and changes nothing: no framework is imported, no logging or warning setting touched.
"""

from .advice import advise
from .compare import Comparison, compare
from .errors import ConversionError, ModelError, OptionError, UnsafeModelError, WeightError, WwonnxError
from .layer import LAYER_TYPE
from .reporting import write_report
from .version import __version__
from .watcher import WeightWatcher, analyze, describe

__all__ = [
    "LAYER_TYPE",
    "Comparison",
    "ConversionError",
    "ModelError",
    "OptionError",
    "UnsafeModelError",
    "WeightError",
    "WeightWatcher",
    "WwonnxError",
    "__version__",
    "advise",
    "analyze",
    "compare",
    "describe",
    "write_report",
]
