from logitstore.record import Record


class TransformInfo(Record):
    name: str
    arguments: dict[str, float] = {}


class ViewInfo(Record):
    transforms: tuple[TransformInfo, ...] = ()

    @property
    def mixes(self) -> bool:
        return any(each.name in ("mixup", "cutmix") for each in self.transforms)
