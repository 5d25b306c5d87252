"""The version, in one place: pyproject.toml reads it from here."""

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    import platform
    from importlib.metadata import version

    packages = ("wwonnx", "numpy", "onnx", "onnx-ir", "pandas")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
