"""BLAS and LAPACK for one large matrix, called so that other threads run meanwhile.

scipy's wrappers hold the interpreter for the whole call: two large layers would wait for each other, and so would a
progress bar and Ctrl-C. The same routines are called through the pointers that scipy offers to Cython, which no call
through ctypes holds it for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightError

Array = NDArray[np.float64]


def add_product(gram: NDArray[Any], factor: NDArray[Any]) -> None:
    """Add the lower triangle of A A^T (BLAS's syrk); the upper triangle of `gram` stays as it is.

    Args:
        gram: shape (M, M), in Fortran's order, of float64 or float32.
        factor: A of shape (M, k), of the same type, contiguous in either order.
    """
    M, k = factor.shape
    transposed = not factor.flags.f_contiguous  # C's order is the transpose in Fortran's
    real = _real(gram)
    _routine("dsyrk" if real is ctypes.c_double else "ssyrk")(
        ctypes.byref(ctypes.c_char(b"L")),
        ctypes.byref(ctypes.c_char(b"T" if transposed else b"N")),
        _int(M),
        _int(k),
        ctypes.byref(real(1.0)),
        _data(factor),
        _int(max(1, k if transposed else M)),
        ctypes.byref(real(1.0)),
        _data(gram),
        _int(M),
    )


def eigenvalues(gram: NDArray[Any]) -> Array:
    """Eigenvalues of a symmetric matrix, ascending, from its lower triangle (LAPACK's sytrd, then sterf).

    The tridiagonal form of a float32 matrix is brought to float64 before its eigenvalues are taken: that costs nothing
    beside the reduction, and in float32 it is sterf that errs the most, by up to 8 eps |G|_F at M = 2048 where the
    reduction errs by 0.04 (Gaussian weights).

    Args:
        gram: shape (M, M), in Fortran's order, of float64 or float32. It is overwritten: no copy is made.

    Raises:
        WeightError: no convergence.
    """
    M = len(gram)
    diagonal, beside, factors = (np.empty(M, dtype=gram.dtype) for _ in range(3))
    failure = ctypes.c_int()
    size = np.empty(1, dtype=gram.dtype)

    def reduce(work: NDArray[Any], length: int) -> None:
        _routine("dsytrd" if _real(gram) is ctypes.c_double else "ssytrd")(
            ctypes.byref(ctypes.c_char(b"L")),
            _int(M),
            _data(gram),
            _int(M),
            _data(diagonal),
            _data(beside),
            _data(factors),
            _data(work),
            _int(length),
            ctypes.byref(failure),
        )

    reduce(size, -1)  # asks how much room it wants
    reduce(np.empty(int(size[0]), dtype=gram.dtype), int(size[0]))
    values, beside = diagonal.astype(np.float64, copy=False), beside.astype(np.float64, copy=False)
    _routine("dsterf")(_int(M), _data(values), _data(beside), ctypes.byref(failure))
    if failure.value:
        raise WeightError(f"the eigenvalues did not converge (LAPACK's sterf: {failure.value})")
    return values


def _real(array: NDArray[Any]) -> type[Any]:
    return ctypes.c_double if array.dtype == np.float64 else ctypes.c_float


def _int(value: int) -> Any:
    return ctypes.byref(ctypes.c_int(value))


def _data(array: NDArray[Any]) -> Any:
    return ctypes.c_void_p(array.ctypes.data)


@cache
def _routine(name: str) -> Callable[..., None]:
    """A routine of the BLAS or LAPACK that scipy is linked to, every argument a pointer as in Fortran."""
    from scipy.linalg import cython_blas, cython_lapack

    pointers: dict[str, Any] = {**cython_blas.__pyx_capi__, **cython_lapack.__pyx_capi__}
    capsule = pointers[name]
    # Prototypes of our own: those that hang on ctypes.pythonapi are shared with everybody.
    get_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    pointer = get_pointer(capsule, get_name(capsule))
    arguments = 4 if name == "dsterf" else 10
    routine: Callable[..., None] = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)(pointer)
    return routine
