"""How much memory there is, how much this process holds, and how much of it an analysis may use."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..errors import OptionError

MemoryOption: TypeAlias = "int | float | str | None"

#: What layers side by side may take of the memory that is free, where the user says nothing.
_SHARE = 0.6
#: Layers that need no more than that together are run without asking how much there is.
SMALL = 64 << 20
#: What else a run needs: BLAS's own buffers, imports on demand, freed memory that the allocator keeps.
_OVERHEAD = 96 << 20
_UNITS = {
    **{"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12},
    **{"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    **{"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40},
}


@dataclass(frozen=True)
class Budget:
    """What a run may use beyond what the process holds when it begins.

    Attributes:
        together: bytes that layers side by side may take.
        alone: bytes that one layer may take.
        why: what sets the limit for one layer, in words for the user.
    """

    together: float
    alone: float
    why: str = ""

    def refusal(self, need: int) -> str:
        """Why a layer that needs so many bytes is not computed; empty where it may be."""
        if need <= self.alone:
            return ""
        return f"needs about {amount(need)} of memory to be computed, and {self.why}"


#: For layers that are small beyond doubt.
UNASKED = Budget(SMALL, math.inf)


def parse(memory: MemoryOption) -> int | None:
    """The bytes that a user means by a number or by text such as "8GB" (10^9 bytes) or "8GiB" (2^30).

    Raises:
        OptionError: it is neither, or nothing.
    """
    if memory is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*", str(memory))
    unit = _UNITS.get(found[2].upper()) if found else None
    if isinstance(memory, bool) or found is None or unit is None or float(found[1]) * unit < 1:
        raise OptionError(f"memory={memory!r}: give bytes, or a size such as '8GB' or '500MiB'")
    return int(float(found[1]) * unit)


def budget(memory: int | None) -> Budget:
    """What a run may use now.

    Args:
        memory: bytes that the process may hold in all, model and imports included; None for 60 % of what is free.
    """
    if memory is None:
        free = available()
        return Budget(_SHARE * free, free, f"{amount(free)} is free; free some, or give memory=... to try all the same")
    holds = held()
    left = max(0, memory - holds - _OVERHEAD)
    why = f"memory={amount(memory)} leaves {amount(left)} beside what the process holds already; raise memory"
    return Budget(left, left, why)


def available() -> float:
    """Bytes that can be had without pushing out what runs: the system's count, or what the container may still take."""
    import psutil

    free = float(psutil.virtual_memory().available)
    for folder, names in _CGROUPS.items():
        bound, used = (_number(Path(folder, name)) for name in names)
        if bound is not None and used is not None:
            free = min(free, max(0.0, bound - used + _inactive(Path(folder, "memory.stat"))))
    return free


def held() -> int:
    """Bytes that this process holds in memory now, pages of mapped files included."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def amount(size: float) -> str:
    """Bytes in words: `2.4 GB`."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} bytes"


#: Where Linux keeps a container's limit and use, versions 2 and 1.
_CGROUPS = {
    "/sys/fs/cgroup": ("memory.max", "memory.current"),
    "/sys/fs/cgroup/memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}


def _number(path: Path) -> float | None:
    """The number in a file of the kernel's; None where there is no such file, or no limit."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return float(text) if text.isdigit() else None


def _inactive(path: Path) -> float:
    """Bytes of cached files that the kernel gives up first."""
    try:
        found = re.search(r"^(?:total_)?inactive_file (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return 0.0
    return float(found[1]) if found else 0.0
