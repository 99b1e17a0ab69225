"""What each command is told: one validated record a command, from recipes and from the command line."""

from __future__ import annotations

from logitstore.core.record import Record
from logitstore.settings.convert import MergeSettings, RecodeSettings
from logitstore.settings.dump import AddSettings, DumpSettings, PilotSettings
from logitstore.settings.look import InspectSettings, SelectSettings, VerifySettings
from logitstore.settings.train import EvaluateSettings, SidecarSettings, TrainSettings

SETTINGS: dict[str, type[Record]] = {
    "plan": PilotSettings,
    "dump": DumpSettings,
    "add": AddSettings,
    "recode": RecodeSettings,
    "merge": MergeSettings,
    "inspect": InspectSettings,
    "verify": VerifySettings,
    "select": SelectSettings,
    "sidecar": SidecarSettings,
    "train": TrainSettings,
    "evaluate": EvaluateSettings,
}
"""What each command is told, by its name."""
