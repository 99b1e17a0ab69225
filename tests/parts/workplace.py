"""A folder with all that the commands read and write, and every command that reads or writes files."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitstore.dump.dump import dump
from logitstore.settings.dump import DumpSettings
from logitstore.settings.train import TrainSettings
from logitstore.train.train import train
from tests.parts.commands import flags_of
from tests.parts.images import images_plan
from tests.parts.stranger import OTHERS
from tests.parts.texts import plan_for

COMMANDS = (
    "plan", "dump", "dump images", "add", "add views", "recode", "merge", "select", "sidecar", "verify", "verify --repair",
    "verify --against-teacher", "inspect", "inspect --sample", "train", "train --resume", "evaluate",
    *(f"{command} {task}" for task in OTHERS for command in ("dump", "train", "evaluate")),
)  # fmt: skip
SMALL: dict[str, Any] = {"limit": 6, "samples_per_part": 9, "fidelity_rows": 0, "tail": "uniform"}
FEW_IMAGES: dict[str, Any] = {"limit": 8, "samples_per_part": 4, "fidelity_rows": 0, "views": 1}


@dataclass(frozen=True)
class Workplace:
    """What the commands read, at a place that is made anew for each command.

    Attributes:
        source: is copied.
        place: it is copied to.
        others: by task, the dump of the cache that lies there.
    """

    source: Path
    place: Path
    others: dict[str, DumpSettings]

    @classmethod
    def made(cls, source: Path, teacher: Path, texts: Path, student: Path, classifier: Path, images: Path) -> Workplace:
        """Make the caches; one that goes on for a while must find its teacher and its data where they were."""
        place = source / "place"
        for name, there in (("teacher", teacher), ("student", student), ("classifier", classifier)):
            shutil.copytree(there, place / name)
        shutil.copy(texts, place / "texts.jsonl")
        for path in [path for path in sorted(images.rglob("*")) if path.is_file()][:10]:
            (place / "images" / path.relative_to(images)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place / "images" / path.relative_to(images))
        plans = {}
        for task, make in OTHERS.items():
            (place / task).mkdir()
            plans[task], _ = make(place / task)
            dump(plans[task])
        made = cls(source / "kept", place, plans)
        for name in ("cache", "two"):
            dump(made.plan_of_texts(place / name))
        dump(made.plan_of_images(place / "views"))
        made.stop_a_run(place / "run")
        place.rename(made.source)
        return made

    def stop_a_run(self, out: Path) -> None:
        """Leave a run as a kill after the first of its two steps does."""
        settings = {"cache": self.place / "cache", "student": str(self.place / "student"), "out": out, "device": "cpu"}
        train(TrainSettings(**settings, max_steps=2, save_every=1, keep_checkpoints=2))
        summary = json.loads((out / "logitstore.json").read_text())
        shutil.rmtree(out / "checkpoint-2")
        for path in [path for path in out.iterdir() if path.is_file()]:
            path.unlink()
        left = {name: summary[name] for name in summary.keys() - {"figures", "log"}}
        (out / "logitstore.json").write_text(json.dumps(left))

    def plan_of_texts(self, out: Path) -> Any:
        return plan_for(self.place / "teacher", self.place / "texts.jsonl", out, **SMALL)

    def plan_of_images(self, out: Path) -> Any:
        return images_plan(self.place / "classifier", self.place / "images", out, **FEW_IMAGES)

    def prepared(self, command: str) -> list[Any]:
        """Make the place anew; return the arguments of the command."""
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.source, self.place)
        if command == "verify --repair":
            os.truncate(self.place / "cache" / "parts" / "00001" / "samples.arrow", 5)
        return self.arguments(command)

    def arguments(self, command: str) -> list[Any]:
        cache, out = self.place / "cache", self.place / "out"
        teacher, student, device = self.place / "teacher", self.place / "student", ["--device", "cpu"]
        texts = ["--teacher", teacher, "--data", self.place / "texts.jsonl", "--out", out, "--limit", 6, *device]
        learner = ["--student", student, *device]
        steps = ["--max-steps", 2, "--save-every", 1, "--keep-checkpoints", 2]
        ways: dict[str, list[Any]] = {
            "plan": ["plan", *texts, "--dtype", "float32", "--max-length", 96, "--pilot-samples", 6, "--minutes", 60],
            "dump": ["dump", *flags_of(self.plan_of_texts(out))],
            "dump images": ["dump", *flags_of(self.plan_of_images(out))],
            "add": ["add", cache, "--hidden", "final", "--tap-codec", "int8", *device],
            "add views": ["add", self.place / "views", "--views", "1", *device],
            "recode": ["recode", cache, "--out", out, "-k", 3, "--layout", "archive"],
            "merge": ["merge", cache, self.place / "two", "--out", out, "-k", 4, "--tail", "uniform"],
            "select": ["select", cache, "--method", "top", "--score", "nll", "--ratio", 0.5, "--out", out],
            "sidecar": ["sidecar", cache, "--of", "perplexity"],
            "verify": ["verify", cache],
            "verify --repair": ["verify", cache, "--repair"],
            "verify --against-teacher": ["verify", cache, "--against-teacher", teacher, "--share", 0.2, *device],
            "inspect": ["inspect", cache],
            "inspect --sample": ["inspect", cache, "--sample", 3],
            "train": ["train", cache, "--out", out, *learner, *steps],
            "train --resume": ["train", cache, "--out", self.place / "run", *learner, *steps, "--resume"],
            "evaluate": ["evaluate", cache, *learner],
        }
        for task, plan in self.others.items():
            its = ["--student", self.place / task / "student", *device]
            ways[f"dump {task}"] = ["dump", *flags_of(plan.model_copy(update={"out": out}))]
            ways[f"train {task}"] = ["train", plan.out, "--out", out, *its, *steps]
            ways[f"evaluate {task}"] = ["evaluate", plan.out, *its]
        return ways[command]
