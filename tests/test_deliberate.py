"""Each handler of every error, and each place that has transformers load something, is here with its reason."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import logitstore

PACKAGE = Path(logitstore.__file__).parent
ROOT = PACKAGE.parent

WAITED_FOR = "any error is raised in the threads, or in the process, that wait for the value"

HANDLERS = {
    "what is no refusal of the system is raised again": [
        "cli/main.py:run",
        "logitstore/errors.py:storage_errors",
        "logitstore/train/loop/ending.py:run",
    ],
    "any error, an interrupt too, is raised again when what was begun is cleared away": [
        "logitstore/dump/engines/answers/chat.py:ChatServer.__init__",
        "logitstore/text/answers/run.py:Run.ask_all",
        "logitstore/dump/processes/on_ray.py:RayCrew.open",
        "logitstore/dump/processes/pool.py:Pool.__enter__",
        "logitstore/store/local_disk.py:LocalDisk.claim",
        "logitstore/store/staged/leases.py:abandoned",
        "logitstore/store/staged/leases.py:take",
        "logitstore/store/checks/run.py:CheckedParts.run",
        "logitstore/store/staged/rows_writer.py:MappedWriter.__init__",
        "logitstore/store/writer.py:StagedPart.__init__",
    ],
    WAITED_FOR: [
        "logitstore/core/background.py:BackgroundThread._run",
        "logitstore/core/background.py:Pending.run",
        "logitstore/core/memo.py:Memo.get",
        "logitstore/dump/engines/in_process/hidden_states.py:_serve",
        "logitstore/dump/engines/servers/server.py:ServerTeacher._answer",
        "logitstore/dump/processes/child.py:serve",
        "logitstore/core/processes/member.py:_answer",
    ],
    "transformers and peft raise nearly any error about the files of a model": [
        "logitstore/image/processors/saved.py:load_processor",
        "logitstore/models/adapter.py:load_saved",
        "logitstore/models/adapter.py:put_saved",
        "logitstore/models/load.py:_loaded",
        "logitstore/models/load.py:config_from",
        "logitstore/models/load.py:load_again",
        "logitstore/models/load.py:load_config",
        "logitstore/models/load.py:load_tokenizer",
    ],
    "models and processors raise nearly any error about a shape or an input that they do not take": [
        "logitstore/dump/engines/in_process/checkpoint_head.py:_layer",
        "logitstore/dump/engines/in_process/checkpoint_head.py:shown_scaling",
        "logitstore/dump/engines/in_process/vllm.py:_loaded",
        "logitstore/dump/teachers/zero_shot.py:ZeroShotTeacher.__init__",
        "logitstore/image/processors/proof.py:_made",
        "logitstore/models/causal.py:_tried",
        "logitstore/train/students/build.py:fresh",
        "logitstore/train/students/build.py:keep_layers",
        "logitstore/train/students/prune.py:narrow_config",
        "logitstore/train/students/prune.py:narrowed",
    ],
    "a template raises whatever its author wrote, and tokenizers raise bare errors": [
        "logitstore/text/chat.py:_refusals_of"
    ],
    "readers of files that somebody else wrote raise errors of many libraries": [
        "logitstore/dump/data.py:_refusals_of",
        "logitstore/dump/files/places.py:reading",
        "logitstore/dump/data.py:load_saved",
        "logitstore/text/foreign/features/tensors.py:loaded_from",
        "logitstore/text/foreign/features/tensors.py:opened_tensors",
        "logitstore/text/foreign/tables.py:reading",
        "logitstore/image/data/decode.py:decode",
        "logitstore/image/data/table.py:_content",
        "logitstore/store/checks/shared.py:_tokenizer_problem",
        "logitstore/store/rows.py:read_rows",
    ],
}
"""Where every error is caught, by the reason."""


LOADERS = {
    "logitstore/models/load.py:config_from": ["for_model"],
    "logitstore/models/load.py:load_again": ["from_pretrained"],
    "logitstore/models/load.py:load_config": ["from_pretrained"],
    "logitstore/models/load.py:load_tokenizer": ["from_pretrained"],
    "logitstore/models/load.py:_loaded": ["from_pretrained"],
    "logitstore/models/load.py:new_model": ["from_config"],
    # a class that is loaded already, and a configuration that was plain JSON
    "logitstore/train/students/build.py:keep_layers": ["_from_config"],
    "logitstore/train/students/build.py:fresh": ["for_model"],
    "logitstore/models/pooling/encoder.py:PooledEncoder.__init__": ["from_config"],
    "logitstore/models/pooling/encoder.py:PooledEncoder.from_config": ["_from_config"],
    "logitstore/models/pooling/encoder.py:PooledEncoder.from_pretrained": ["from_pretrained"],
    # a processor is no model: its settings are read beside it
    "logitstore/image/processors/saved.py:load_processor": ["from_pretrained"],
    # which of two classes of transformers loads a ranker; what they are told is handed on
    "logitstore/ranking/models.py:AutoRanker.from_pretrained": ["from_pretrained"],
    "logitstore/ranking/models.py:AutoRanker.from_config": ["from_config"],
}
"""Calls that have transformers make something of what a file says."""


WITHOUT_CODE = {"for_model", "_from_config"}
"""Those of them that never look for code."""


@functools.cache
def nodes() -> list[tuple[str, ast.AST]]:
    """Every node of the package and of the command line, with its module and the function around it."""

    def walk(node: ast.AST, path: str, names: tuple[str, ...]) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            is_named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            inner = (*names, child.name) if is_named else names
            yield f"{path}:{'.'.join(inner)}", child
            yield from walk(child, path, inner)

    paths = [path for folder in (PACKAGE, ROOT / "cli") for path in sorted(folder.rglob("*.py"))]
    return [
        found
        for path in paths
        for found in walk(ast.parse(path.read_text("utf-8")), path.relative_to(ROOT).as_posix(), ())
    ]


def catches_everything(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in kinds)


def test_every_error_is_caught_only_where_there_is_a_reason() -> None:
    found = {where for where, node in nodes() if isinstance(node, ast.ExceptHandler) and catches_everything(node)}
    assert sorted(found) == sorted(where for places in HANDLERS.values() for where in places)


def test_no_handler_of_every_error_goes_on_as_if_nothing_was_wrong() -> None:
    silent = [
        f"{where}:{node.lineno}"
        for where, node in nodes()
        if isinstance(node, ast.ExceptHandler)
        and catches_everything(node)
        and not any(isinstance(each, ast.Raise) for each in ast.walk(node))
    ]
    assert [each for each in silent if each.rpartition(":")[0] not in HANDLERS[WAITED_FOR]] == []
    assert not [
        where
        for where, node in nodes()
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] == "suppress"
        and any(ast.unparse(each) in ("Exception", "BaseException") for each in node.args)
    ]


def loading_calls() -> Iterator[tuple[str, str, ast.Call]]:
    for where, node in nodes():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            if name in WITHOUT_CODE or name.endswith(("from_pretrained", "from_config")):
                yield where, name, node


def test_transformers_loads_only_in_few_places() -> None:
    found: dict[str, list[str]] = {}
    for where, name, _ in loading_calls():
        found.setdefault(where, []).append(name)
    assert found == LOADERS


def test_each_of_them_says_whether_code_is_run() -> None:
    silent = [
        f"{where}:{name}"
        for where, name, call in loading_calls()
        if name not in WITHOUT_CODE
        and not any(
            each.arg == "trust_remote_code" or (each.arg is None and ast.unparse(each.value) == "model.pretrained")
            for each in call.keywords
        )
    ]
    assert silent == []


def test_nothing_but_the_choice_of_the_user_lets_code_run() -> None:
    said = {
        ast.unparse(keyword.value)
        for _, node in nodes()
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "trust_remote_code"
    }
    assert said == {
        "False",
        "trust_remote_code",
        "model.trust_remote_code",
        "settings.trust_remote_code",
        "again.trust_remote_code",
    }


def test_auto_classes_are_named_only_where_models_are_loaded() -> None:
    named = {
        where.partition(":")[0]
        for where, node in nodes()
        if (isinstance(node, ast.Name) and node.id.startswith("Auto"))
        or (isinstance(node, ast.Constant) and str(node.value).startswith("transformers:Auto"))
    }
    places = {where.partition(":")[0] for where in LOADERS}
    assert named - places == {"logitstore/core/tasks.py"}
