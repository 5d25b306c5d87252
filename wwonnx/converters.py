"""The converters of a source tree, where they lie beside this package; an installed wwonnx has them inside it.

Python prefers a package to a module of the same name, so that this file is read in a source tree alone: by scripts
and interpreters that are started there.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_folder = Path(__file__).resolve().parent.parent / "converters"
_spec = spec_from_file_location(__name__, _folder / "__init__.py", submodule_search_locations=[str(_folder)])
assert _spec is not None
assert _spec.loader is not None
_package = module_from_spec(_spec)
sys.modules[__name__] = _package
_spec.loader.exec_module(_package)
