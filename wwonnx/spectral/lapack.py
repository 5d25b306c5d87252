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
    """Eigenvalues of a symmetric matrix, ascending, from its lower triangle (LAPACK's syevd).

    Args:
        gram: shape (M, M), in Fortran's order, of float64 or float32. It is overwritten: no copy is made.

    Raises:
        WeightError: no convergence.
    """
    M = len(gram)
    values = np.empty(M, dtype=gram.dtype)
    failure = ctypes.c_int()
    size, integers = np.empty(1, dtype=gram.dtype), np.empty(1, dtype=np.intc)

    def call(work: NDArray[Any], length: int, whole: NDArray[Any], whole_length: int) -> None:
        _routine("dsyevd" if _real(gram) is ctypes.c_double else "ssyevd")(
            ctypes.byref(ctypes.c_char(b"N")),
            ctypes.byref(ctypes.c_char(b"L")),
            _int(M),
            _data(gram),
            _int(M),
            _data(values),
            _data(work),
            _int(length),
            _data(whole),
            _int(whole_length),
            ctypes.byref(failure),
        )

    call(size, -1, integers, -1)  # asks how much room it wants
    room, whole_room = int(size[0]), int(integers[0])
    call(np.empty(room, dtype=gram.dtype), room, np.empty(whole_room, dtype=np.intc), whole_room)
    if failure.value:
        raise WeightError(f"the eigenvalues did not converge (LAPACK's syevd: {failure.value})")
    return values.astype(np.float64, copy=False)


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
    arguments = 10 if name.endswith("syrk") else 11
    routine: Callable[..., None] = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)(pointer)
    return routine
