"""What each command is told: one validated record a command, from recipes and from the command line. No torch."""

from __future__ import annotations

from logitstore.core.registry import Table

SETTINGS = Table(
    "command",
    {
        "plan": "logitstore.settings.dump:PilotSettings",
        "prepare": "logitstore.settings.dump:PrepareSettings",
        "generate": "logitstore.settings.models.generate:GenerateSettings",
        "dump": "logitstore.settings.dump:DumpSettings",
        "add": "logitstore.settings.dump:AddSettings",
        "convert": "logitstore.settings.foreign.convert:ConvertSettings",
        "export": "logitstore.settings.foreign.convert:ExportSettings",
        "recode": "logitstore.settings.convert:RecodeSettings",
        "merge": "logitstore.settings.convert:MergeSettings",
        "inspect": "logitstore.settings.look:InspectSettings",
        "verify": "logitstore.settings.look:VerifySettings",
        "select": "logitstore.settings.look:SelectSettings",
        "push": "logitstore.settings.stores.moving:PushSettings",
        "pull": "logitstore.settings.stores.moving:PullSettings",
        "status": "logitstore.settings.stores.moving:StatusSettings",
        "sidecar": "logitstore.settings.train:SidecarSettings",
        "rank": "logitstore.settings.models.rank:RankSettings",
        "train": "logitstore.settings.train:TrainSettings",
        "evaluate": "logitstore.settings.models.evaluate:EvaluateSettings",
    },
)
"""The settings of each command, by its name. A record is imported when it is asked for: `inspect` needs none of the others."""
