"""Routines of BLAS and LAPACK, called so that other threads run meanwhile.

scipy's wrappers hold the interpreter for the whole call: two large layers would wait for each other, and so would a
progress bar and Ctrl-C. The same routines are called through the pointers that scipy offers to Cython, and let go of
the interpreter unless they are brief: to get it back can take 5 ms where another thread computes in Python.

Matrices lie in Fortran's order, or are cut out of one that does; all of one call are float64 or all float32. Nothing is
checked and nothing copied. Of symmetric matrices only the lower triangle is read and written.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightError

Matrix = NDArray[Any]
Array = NDArray[np.float64]

#: Operations of a call that is brief: about a millisecond.
_BRIEF = 5e7


def add_product(gram: Matrix, factor: Matrix) -> None:
    """Add A A^T to a symmetric matrix (syrk).

    Args:
        gram: shape (M, M).
        factor: A of shape (M, k), contiguous in either order.
    """
    turned = not factor.flags.f_contiguous  # C's order is the transpose in Fortran's
    how, step = (b"T", _step(factor.T)) if turned else (b"N", _step(factor))
    _call("syrk", gram.dtype, b"L", how, *factor.shape, 1.0, factor, step, 1.0, gram, _step(gram))


def subtract_products(matrix: Matrix, left: Matrix, right: Matrix) -> None:
    """Subtract A B^T + B A^T from a symmetric matrix (syr2k).

    Args:
        matrix: shape (M, M).
        left, right: A and B of shape (M, k).
    """
    operands = (left, _step(left), right, _step(right))
    brief = 2.0 * matrix.shape[0] * left.size < _BRIEF
    _call("syr2k", matrix.dtype, b"L", b"N", *left.shape, -1.0, *operands, 1.0, matrix, _step(matrix), brief=brief)


def add_symmetric_product(total: Matrix, symmetric: Matrix, right: Matrix) -> None:
    """Add S B, S symmetric (symm).

    Args:
        total: shape (M, k).
        symmetric: S of shape (M, M).
        right: B of shape (M, k).
    """
    operands = (symmetric, _step(symmetric), right, _step(right))
    brief = 2.0 * symmetric.shape[0] * total.size < _BRIEF
    _call("symm", total.dtype, b"L", b"L", *total.shape, 1.0, *operands, 1.0, total, _step(total), brief=brief)


def add_multiple(
    total: Matrix, factor: float, left: Matrix, right: Matrix, turn_left: bool = False, turn_right: bool = False
) -> None:
    """Add `factor` times A B (gemm).

    Args:
        total: shape (m, n).
        factor: what the product is multiplied by.
        left, right: A and B, shape (m, k) and (k, n).
        turn_left, turn_right: A or B is the transpose of what is given.
    """
    how = (b"T" if turn_left else b"N", b"T" if turn_right else b"N")
    inner = left.shape[0 if turn_left else 1]
    operands = (left, _step(left), right, _step(right))
    brief = 2.0 * inner * total.size < _BRIEF
    _call("gemm", total.dtype, *how, *total.shape, inner, factor, *operands, 1.0, total, _step(total), brief=brief)


def multiply_triangular(matrix: Matrix, triangular: Matrix) -> None:
    """Put B U in the place of B, U upper triangular (trmm).

    Args:
        matrix: B of shape (m, k).
        triangular: U of shape (k, k); what lies below its diagonal is not read.
    """
    operands = (triangular, _step(triangular), matrix, _step(matrix))
    brief = len(triangular) * matrix.size < _BRIEF
    _call("trmm", matrix.dtype, b"R", b"U", b"N", b"N", *matrix.shape, 1.0, *operands, brief=brief)


def decompose(matrix: Matrix) -> Matrix:
    """Put Q and R in the place of a matrix of shape (m, n), k = min(m, n) (geqrt).

    R lies on and above the diagonal. Below it lie the vectors of the k Householder reflections, shape (m, k), whose
    diagonal is 1 and not stored: Q = I - V T V^T.

    Returns:
        T, shape (k, k), upper triangular.
    """
    k = min(matrix.shape)
    factors = np.zeros((k, k), matrix.dtype, order="F")
    work = np.empty(k * matrix.shape[1], matrix.dtype)
    brief = 2.0 * k * matrix.size < _BRIEF
    _call("geqrt", matrix.dtype, *matrix.shape, k, matrix, _step(matrix), factors, k, work, ctypes.c_int(), brief=brief)
    return factors


def tridiagonal(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """Diagonal and subdiagonal, shapes (M,), of a tridiagonal matrix of the same eigenvalues (sytrd).

    Args:
        matrix: symmetric, shape (M, M). It is overwritten.

    Returns:
        The last element of the subdiagonal has no meaning.
    """
    M = len(matrix)
    diagonal, beside, factors = (np.empty(M, dtype=matrix.dtype) for _ in range(3))

    def reduce(work: Matrix, length: int) -> None:
        outcome = (diagonal, beside, factors, work, length, ctypes.c_int())
        _call("sytrd", matrix.dtype, b"L", M, matrix, _step(matrix), *outcome)

    asked = np.empty(1, dtype=matrix.dtype)
    reduce(asked, -1)  # how much room it wants
    reduce(np.empty(int(asked[0]), dtype=matrix.dtype), int(asked[0]))
    return diagonal, beside


def tridiagonal_of_band(band: Matrix) -> tuple[Matrix, Matrix]:
    """Diagonal and subdiagonal, shapes (M,), of a tridiagonal matrix with the eigenvalues of a band matrix (sbtrd).

    Args:
        band: its diagonals as rows, the main one first, shape (bandwidth + 1, M). It is overwritten.

    Returns:
        The last element of the subdiagonal has no meaning.
    """
    rows, M = band.shape
    diagonal, beside, work, no_vectors = (np.empty(size, dtype=band.dtype) for size in (M, M, M, 1))
    outcome = (diagonal, beside, no_vectors, 1, work, ctypes.c_int())
    _call("sbtrd", band.dtype, b"N", b"L", M, rows - 1, band, _step(band), *outcome)
    return diagonal, beside


def tridiagonal_eigenvalues(diagonal: Array, beside: Array) -> Array:
    """Eigenvalues of a tridiagonal matrix, ascending (sterf).

    Args:
        diagonal, beside: as the functions above give them. Both are overwritten.

    Raises:
        WeightError: no convergence.
    """
    failure = ctypes.c_int()
    _call("sterf", diagonal.dtype, len(diagonal), diagonal, beside, failure)
    if failure.value:
        raise WeightError(f"the eigenvalues did not converge (LAPACK's sterf: {failure.value})")
    return diagonal


def _step(matrix: Matrix) -> int:
    """Elements from one column to the next."""
    return max(1, len(matrix), matrix.strides[1] // matrix.itemsize if matrix.shape[1] > 1 else 1)


def _call(
    name: str, dtype: np.dtype[Any], *arguments: bytes | int | float | Matrix | ctypes.c_int, brief: bool = False
) -> None:
    """Call a routine for elements of a type, every argument by its address as in Fortran."""
    double = dtype == np.float64
    real = ctypes.c_double if double else ctypes.c_float
    addresses: list[Any] = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            addresses.append(ctypes.c_void_p(argument.ctypes.data))
        elif isinstance(argument, bytes):
            addresses.append(ctypes.byref(ctypes.c_char(argument)))
        elif isinstance(argument, float):
            addresses.append(ctypes.byref(real(argument)))
        elif isinstance(argument, int):
            addresses.append(ctypes.byref(ctypes.c_int(argument)))
        else:
            addresses.append(ctypes.byref(argument))
    _routine(("d" if double else "s") + name, len(arguments), brief)(*addresses)


@cache
def _routine(name: str, arguments: int, brief: bool) -> Callable[..., None]:
    """A routine of the BLAS or LAPACK that scipy is linked to; a brief one keeps hold of the interpreter."""
    from scipy.linalg import cython_blas, cython_lapack

    pointers: dict[str, Any] = {**cython_blas.__pyx_capi__, **cython_lapack.__pyx_capi__}
    capsule = pointers[name]
    # Prototypes of our own: those that hang on ctypes.pythonapi are shared with everybody.
    get_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    pointer = get_pointer(capsule, get_name(capsule))
    prototype = ctypes.PYFUNCTYPE if brief else ctypes.CFUNCTYPE
    routine: Callable[..., None] = prototype(None, *[ctypes.c_void_p] * arguments)(pointer)
    return routine
