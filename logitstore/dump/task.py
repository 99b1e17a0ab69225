"""What a task does for a dump: it says what a teacher is shown, and prepares everything that needs no weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
import transformers
from transformers import PretrainedConfig

import logitstore
from logitstore.core.order import spread
from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.tasks import facet
from logitstore.core.types import Array
from logitstore.dump.teachers import chooses_dtype
from logitstore.dump.teachers.source import TeacherSource
from logitstore.dump.teachers.teacher import Batches, Teacher
from logitstore.format.data import EngineInfo, TeacherInfo
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.needs import LOGITS, OF_A_MODEL, Gives, check_features, check_row
from logitstore.format.row import RowInfo
from logitstore.models.load import describe, pick_dtype
from logitstore.models.placing.placement import AS_IS
from logitstore.settings.dump import AddSettings, DumpSettings
from logitstore.settings.models.engine import ServingChoices
from logitstore.settings.models.placing import PlacementChoices
from logitstore.settings.tasks import refuse_set
from logitstore.store.cache import Cache
from logitstore.store.storage import open_storage, read_sealed


class AskedSamples(Protocol):
    """All samples of a plan under their numbers, made on demand; of several views, one view after the other."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any:
        """Return one sample, or a list of those of a slice."""

    def rows_in(self, span: slice) -> int:
        """Return how many rows the samples of a slice have."""
        ...


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A dump that is prepared: everything that follows from its settings without the teacher's weights.

    Attributes:
        manifest: as it will be, but for the teacher's fingerprint and the shared files.
        samples: what the teacher will be asked about.
        config: the teacher's configuration; an empty one for a teacher that gives no features.
        gives: what the teacher can be asked for.
        batches: makes batches of the teacher from samples.
        files: gives the shared files that do not come from the teacher's weights, by their paths in the cache.
        load: loads the teacher.
        show: describes a sample, by its number, as the teacher will see it, in lines for people; None where a task cannot.
        check: refuses samples that cannot be shown to it; it may take its time, and comes right before `load`.
        largest_part: the most samples that a part can hold.
        stored: gives the samples with what a cache that is continued knows about them; None where that changes nothing.
        places: how many places a row has on average, for taps with a vector for each place; an estimate.
        undecided: gives samples of a cache as they were before the teacher's answers chose their rows; None where they do not.
    """

    manifest: Manifest
    samples: AskedSamples
    config: PretrainedConfig
    batches: Batches
    load: Callable[[], Teacher]
    gives: Gives = OF_A_MODEL
    files: Callable[[], dict[str, bytes]] = dict
    largest_part: int = (1 << 31) - 1
    stored: Callable[[Cache], AskedSamples] | None = None
    undecided: Callable[[list[Any]], list[Any]] | None = None
    show: Callable[[int], list[str]] | None = None
    check: Callable[[], None] = lambda: None
    places: float = 1.0

    def continuing(self, cache: Cache) -> Prepared:
        """Return the same, whose samples must be those that a cache already has parts about."""
        return self if self.stored is None else replace(self, samples=self.stored(cache))

    def pilot(self, rows: int) -> list[Any]:
        """Return samples spread evenly over one view of the data, with about `rows` rows between them."""
        return [self.samples[index] for index in spread(self.manifest.samples, self.manifest.rows, rows)]


@dataclass(frozen=True, kw_only=True)
class AskAgain:
    """How a cache's teacher is asked again.

    Attributes:
        teacher: where it is; None where it was.
        images: where the images are; None where they were.
        views: how many views of each image; None asks about the samples that the cache has.
        placing: where the teacher runs. How it is packed, the cache says.
        workers: threads that prepare samples.
        trust_remote_code: run the code that comes with the teacher; only for one that is named here, and not by the cache.
        engine: which engine answers, and how it is asked.
    """

    teacher: str | None = None
    images: str | None = None
    views: int | None = None
    placing: PlacementChoices = field(default_factory=PlacementChoices)
    workers: int = 2
    trust_remote_code: bool = False
    engine: ServingChoices = field(default_factory=ServingChoices)

    def __post_init__(self) -> None:
        if self.trust_remote_code and self.teacher is None:
            raise ValueError("the code of a teacher that only the cache names is never run")

    @property
    def device(self) -> str:
        """Name of the device where a teacher that lies on one runs."""
        return self.placing.device


class DumpTask(Protocol):
    """What a task shows a teacher; the second facet of a task, see `logitstore.core.tasks`."""

    no_plan: str | None
    """Why `plan` cannot measure a teacher of this task, as the end of a message; None if it can."""

    def prepare(self, settings: DumpSettings, progress: Progress) -> Prepared:
        """Prepare a dump; load no weights.

        Raises:
            BadInput: data or options that cannot be used.
            ModelError: a teacher whose configuration cannot be loaded, or that does not belong to the task.
        """
        ...

    def reopen(self, cache: Cache, again: AskAgain, progress: Progress) -> Prepared:
        """Prepare asking the teacher of a cache again, about its samples or about more of them.

        Raises:
            BadInput: options that mean nothing to the task, or data that are not there.
            CacheMismatch: a teacher of another kind, or data that have changed.
            ModelError: the teacher's configuration cannot be loaded.
        """
        ...

    def check_add(self, settings: AddSettings, cache: Cache) -> None:
        """Refuse what cannot be added to a cache of this task. Raises BadInput."""
        ...

    def taps(self, config: Callable[[], PretrainedConfig], hidden: str | None, qkv: str | None) -> list[str]:
        """Return the names of the features that are kept beside the answers.

        Args:
            config: gives the teacher's configuration.
            hidden, qkv: what the settings ask for.

        Raises:
            BadInput: features that a teacher of this task does not have.
        """
        ...


def dump_task(task: str) -> DumpTask:
    """Return what a task does for a dump."""
    found: DumpTask = facet(task, "dumping")
    return found


def prepare(settings: DumpSettings, progress: Progress = no_progress) -> Prepared:
    """Prepare a dump; see `DumpTask.prepare`. Refuse a teacher that does not give what it needs; see `check_teacher`."""
    prepared = dump_task(settings.task).prepare(_with_dtype(settings), progress)
    check_teacher(settings, prepared.manifest.row, prepared.gives)
    return prepared


def _with_dtype(settings: DumpSettings) -> DumpSettings:
    """Return the settings with a number format in place of `auto`: that of a cache that is there, else what fits the device."""
    if settings.dtype != "auto" or not chooses_dtype(settings.teacher):
        return settings
    storage = open_storage(settings.out)
    if storage.size(MANIFEST_NAME) is not None:
        dtype = read_sealed(Manifest, storage, MANIFEST_NAME).teacher.dtype
    else:
        dtype = pick_dtype(settings.dtype, settings.device)
    return settings.model_copy(update={"dtype": dtype})


def load_teacher(prepared: Prepared, progress: Progress) -> Teacher:
    """Load the teacher of a dump, and report on it."""
    progress(Step(stage="load the teacher", done=0, total=1))
    teacher = prepared.load()
    if teacher.spread is not None:
        progress(Step(stage="layers", done=1, total=1, note=teacher.spread))
    return teacher


def check_teacher(settings: DumpSettings, row: RowInfo, gives: Gives) -> None:
    """Refuse a teacher that does not give what a dump needs; call it before the data are read.

    Args:
        settings: those of the dump.
        row: what a row will hold.
        gives: what the teacher gives.

    Raises:
        BadInput: which option needs what, what the teacher gives, and what to do.
    """
    asked = [f"--{name} {value}" for name in ("preset", "sparsifier", "tail") if (value := getattr(settings, name))]
    check_row(" ".join(asked) or "the default preset", row, gives, settings.teacher)
    check_features({"--hidden": settings.hidden, "--qkv": settings.qkv}, gives, settings.teacher)
    if settings.hidden is None and settings.qkv is None:
        refuse_set(settings, ("tap_codec",), "without --hidden or --qkv there is nothing to store so")


class CommittedSamples:
    """The samples of a cache's committed parts, under the numbers that the plan gives them.

    Args:
        cache: the cache.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def __len__(self) -> int:
        return self._cache.manifest.samples * self._cache.manifest.views

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        part, place = self._cache.manifest.place(int(index))
        return self._cache.samples_of(part).sample(place)

    def rows_in(self, span: slice) -> int:
        """Return how many rows the samples of a slice have."""
        places = [self._cache.manifest.place(number) for number in range(*span.indices(len(self)))]
        return sum(int(self._cache.samples_of(part).row_count_S[place]) for part, place in places)


def rows_in(rows_S: Array, span: slice) -> int:
    """Return how many rows the samples of a slice have, from the count of each."""
    return int(rows_S[span].sum())


def created_by() -> dict[str, str]:
    """Return the software that writes a plan, by name."""
    return {
        "logitstore": logitstore.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def teacher_info(settings: DumpSettings, config: PretrainedConfig, vocabulary: int, width: int | None) -> TeacherInfo:
    """Describe a model that will answer, but for the fingerprint of its weights."""
    architecture, plain = describe(config)
    return TeacherInfo(
        name=settings.teacher,
        revision=getattr(config, "_commit_hash", None),
        fingerprint="",
        dtype=settings.dtype,
        vocabulary=vocabulary,
        width=width,
        architecture=architecture,
        config=plain,
        quantization=_quantization(settings),
    )


def source_info(settings: DumpSettings, source: TeacherSource, vocabulary: int) -> TeacherInfo:
    """Describe a teacher that will answer, but for its fingerprint."""
    return TeacherInfo(
        name=settings.teacher,
        revision=source.revision,
        fingerprint="",
        dtype=source.dtype or settings.dtype,
        vocabulary=vocabulary,
        width=source.width,
        architecture=source.architecture,
        config=dict(source.config),
        quantization=_quantization(settings),
        engine=None if source.engine is None else EngineInfo(name=source.engine),
    )


def _quantization(settings: DumpSettings) -> str | None:
    return None if settings.quantization == AS_IS else settings.quantization


def row_entries(
    settings: DumpSettings, preset: str | None, row: RowInfo, pilot_rows: Callable[[], int], gives: Gives = OF_A_MODEL
) -> dict[str, Any]:
    """Return the entries of a manifest that say what is kept of a row and what keeps it.

    Args:
        settings: of the dump.
        preset: its name; None where a row is what the task says.
        row: what the preset and the settings make of a row.
        pilot_rows: counts the rows of the pilot; called where the tail is fitted.
        gives: what the teacher gives. Lists do not say how far they are from the whole distribution, so nothing is compared.
    """
    # a number is stored as it is, and compared with nothing
    is_compared = row.sparsifier.keeps_rows and row.sparsifier.kind.is_distribution
    return {
        "created_by": created_by(),
        "fidelity_rows": settings.fidelity_rows if is_compared and LOGITS in gives else 0,
        "preset": preset,
        "sparsifier": row.sparsifier,
        "tail": row.tail.model_copy(update={"pilot_rows": pilot_rows() if row.tail.is_fitted else 0}),
        "codec": row.codec,
        "fields": row.fields,
        "shared": {},
    }
