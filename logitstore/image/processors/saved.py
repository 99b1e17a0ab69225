"""Read the image processor that is saved with a model, as transformers builds it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor
from transformers.image_processing_base import ImageProcessingMixin

from logitstore.core.place import matching
from logitstore.core.types import ModelRef
from logitstore.errors import ModelError, one_line
from logitstore.image.processors.described import Described, Settings, described, edge_of, resized
from logitstore.models.code import NAMES_CODE, is_about_code, loading, needs_code


@dataclass(frozen=True, kw_only=True)
class Processor:
    """The image processor of a model.

    Attributes:
        model: name of the model in messages.
        said: the settings in its file; those that are left out have the defaults of its class.
        built: what transformers makes of them; with Pillow where it can.
        channels: count of the channels that the model takes, 1 or 3.
    """

    model: str
    said: Settings
    built: Any
    channels: int = 3

    @cached_property
    def settings(self) -> Settings:
        """All settings, also those at their defaults."""
        found: Settings = self.built.to_dict()
        return found

    @property
    def described(self) -> Described:
        """What it does; see `described`. Raises ModelError."""
        return described(self.settings, self.model, self.channels)

    @property
    def edge(self) -> int | None:
        """Edge of what it makes; None if that is not square, or of no fixed size."""
        return edge_of(self.settings, self.model)

    def at(self, edge: int) -> Processor:
        """Return the same for squares of another size."""
        said = self.said | resized(self.settings, self.model, edge)
        return Processor(model=self.model, said=said, built=type(self.built).from_dict(said), channels=self.channels)


def code_of(processor: Processor) -> dict[str, bytes]:
    """Return the Python files that a processor came with, by name; none for a class of transformers."""
    if processor.built._auto_class is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        processor.built.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in matching(Path(folder), "*.py")}


def load_processor(model: ModelRef, config: Any = None) -> Processor:
    """Return the image processor that is saved with a model.

    Args:
        model: the model.
        config: its configuration, which says how many channels it takes; without one they are 3.

    Raises:
        ModelError: there is none, or transformers has no such class, or the model takes another count of channels.
    """
    inner = getattr(config, "vision_config", config)
    channels = getattr(inner, "num_channels", 3)
    if channels not in (1, 3):
        raise ModelError(f"{model}: it takes images of {channels} channels; views have 3, or 1 that is grey.")
    try:
        said: Settings = ImageProcessingMixin.get_image_processor_dict(model.name)[0]
    except Exception as error:
        # any error, from OSError to the hub's own: keep the reason, chain the traceback
        raise ModelError(
            f"{model}: no image processor is saved with it ({one_line(error)}). Save one there, such as "
            "ViTImageProcessor(size=...).save_pretrained(folder)."
        ) from error
    try:
        with loading():
            built = AutoImageProcessor.from_pretrained(
                model.name, backend="pil", trust_remote_code=model.trust_remote_code
            )
    except Exception as error:
        if is_about_code(error):
            raise needs_code(model, (said.get(NAMES_CODE) or {}).get("AutoImageProcessor")) from error
        kind = said.get("image_processor_type") or said.get("feature_extractor_type") or "of no named class"
        raise ModelError(
            f"{model}: transformers cannot build its image processor ({kind}): {one_line(error)}. Save one there that it "
            "can build, such as ViTImageProcessor(size=...).save_pretrained(folder)."
        ) from error
    return Processor(model=str(model), said=said, built=built, channels=channels)
