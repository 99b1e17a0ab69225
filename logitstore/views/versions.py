"""Record and check the versions of the libraries that can change a pixel of a view."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from logitstore.errors import BadInput, CacheMismatch
from logitstore.view_info import TransformInfo, ViewInfo, libraries


def versions(transforms: Sequence[TransformInfo]) -> dict[str, str]:
    """Return the installed versions by name, without the build's suffix (`2.13.0+cpu` is `2.13.0`).

    Raises:
        BadInput: a library that the transforms need is not installed.
    """
    return {name: _installed(name) for name in libraries(transforms)}


def _installed(name: str) -> str:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError as error:
        raise BadInput(
            f"views of images need {name}, which is not installed. Install it: pip install 'logitstore[vision]'."
        ) from error


def check_versions(info: ViewInfo) -> None:
    """Refuse to make views with other libraries than they were first made with.

    Raises:
        CacheMismatch: a version differs.
        BadInput: a library is not installed.
    """
    here = versions(info.transforms)
    others = [name for name in here if info.versions[name] != here[name]]
    if others:
        differences = ", ".join(f"{name} {info.versions[name]} there, {here[name]} here" for name in others)
        wanted = " ".join(f"{name}=={info.versions[name]}" for name in others)
        raise CacheMismatch(
            f"the views that the teacher saw were made with other libraries: {differences}. "
            f"Another version may give other pixels. Install what was used: pip install {wanted}"
        )
