"""Eigenvalues through PyTorch, on the CPU or on an accelerator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, WeightError

if TYPE_CHECKING:
    import torch

#: Bytes of matrices, in the precision of the work, that go to a device in one call.
_BATCH_BYTES = 1 << 30


def require(device: str) -> None:
    """Check that PyTorch is there and has this device.

    Raises:
        OptionError: it is not, or has not.
    """
    try:
        import torch
    except ImportError:
        raise OptionError(f"device={device!r} needs PyTorch: pip install 'wwonnx[torch]'") from None
    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError("device='cuda': PyTorch finds no CUDA device here; give device='cpu' or 'torch'")
    if device == "mps" and not torch.backends.mps.is_available():
        raise OptionError("device='mps': PyTorch finds no Apple GPU here; give device='cpu' or 'torch'")


def triangle_eigenvalues(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eigenvalues, ascending, of a symmetric matrix of which the lower triangle is filled, by PyTorch's LAPACK.

    Args:
        gram: shape (M, M).

    Raises:
        WeightError: they did not converge.
    """
    import torch

    values = _eigvalsh(torch.from_numpy(gram))
    found: NDArray[np.float64] = values.numpy()
    return found


def device_eigenvalues(matrices: NDArray[Any], device: str) -> NDArray[np.float64]:
    """Eigenvalues of the Gram matrices of a stack of matrices, formed and decomposed on a device.

    Args:
        matrices: shape (matrices, rows, columns), float32 or float64, rows >= columns.
        device: a device of PyTorch.

    Returns:
        The eigenvalues, shape (matrices, columns), ascending.

    Raises:
        WeightError: they did not converge, or the device's memory does not hold a matrix and its Gram matrix.
    """
    import torch

    count, rows, columns = matrices.shape
    together = max(1, _BATCH_BYTES // max(1, matrices[0].nbytes))
    values = np.empty((count, columns))
    try:
        for start in range(0, count, together):
            tall = torch.from_numpy(np.ascontiguousarray(matrices[start : start + together])).to(device)
            gram = tall.mT @ tall
            del tall
            # Apple's GPUs have no eigenvalues: the CPU finds those of what the GPU multiplied.
            found = _eigvalsh(gram.cpu() if device == "mps" else gram)
            values[start : start + together] = found.cpu().numpy()
    except torch.OutOfMemoryError:
        raise WeightError(
            f"not enough memory on {device} for a matrix of {rows} x {columns}; analyse it with device='cpu'"
        ) from None
    return values


def _eigvalsh(gram: torch.Tensor) -> torch.Tensor:
    import torch

    try:
        values: torch.Tensor = torch.linalg.eigvalsh(gram, UPLO="L")
    except torch.linalg.LinAlgError as error:
        raise WeightError(f"the eigenvalues did not converge ({error})") from None
    return values
