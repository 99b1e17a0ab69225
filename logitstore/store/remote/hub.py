"""The objects of a cache in a data set repository of the Hugging Face Hub: `hf://user/name`, to be read.

`hf://user/name@revision` is another branch, tag or commit than `main`. The address may lead on into folders of the repository.
As in other addresses of the Hub, a slash in a revision is written `%2F`, but for `refs/pr/1` and `refs/convert/parquet`.
Huggingface_hub makes the requests: it knows the token (HF_TOKEN, or that of `hf auth login`) and the server (HF_ENDPOINT).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any, NoReturn
from urllib.parse import unquote

from logitstore.errors import BadInput, StorageError, one_line
from logitstore.store.remote.objects import Found, Objects

_ADDRESS = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/(?:pr/\d+|convert/\w+)|[^/@]+))?(?:/(?P<folder>[^@]+))?"
)

OVERTAKEN = (409, 412)
"""What the Hub answers to a commit when another one is being made, or when one has been made since its parent."""


@cache
def library() -> Any:
    """Return huggingface_hub. Raises BadInput where it is not installed."""
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise BadInput(
            f"a cache on the Hub needs huggingface_hub ({one_line(error)}). Install it: pip install huggingface_hub."
        ) from error


class HubObjects(Objects):
    """The files of a repository, or of a folder of it, as `logitstore.store.remote.objects.Objects` has them; read only."""

    def __init__(self, address: str) -> None:
        """Take the address; nothing is asked.

        Raises:
            BadInput: huggingface_hub is not installed, or the address names no repository.
        """
        match = _ADDRESS.fullmatch(address.rstrip("/"))
        if match is None or any(step in ("", ".", "..") for step in (match["folder"] or "x").split("/")):
            raise BadInput(f"{address}: this names no repository. Write hf://user/name, or hf://user/name@revision.")
        self.address = address.rstrip("/")
        self.repo, self.revision = match["repo"], unquote(match["revision"] or "main")
        self._prefix = f"{match['folder']}/" if match["folder"] else ""
        self.is_whole = not match["folder"]
        self.api = library().HfApi(endpoint=os.environ.get("HF_ENDPOINT"))

    def last_commit(self) -> str | None:
        """Return the commit at which the revision is now; None if there is none yet."""
        with self.told(""):
            info = self.api.repo_info(self.repo, revision=self.revision, repo_type="dataset")
        return None if info.sha is None else str(info.sha)

    def commit(self, files: dict[str, bytes], message: str, parent: str | None) -> str | None:
        """Write files in one commit, unless there is another commit since.

        Args:
            files: contents by names.
            message: of the commit.
            parent: the commit that the revision has to be at; None for whatever it is at.

        Returns:
            The commit; None, and nothing is written, if somebody else was faster.

        Raises:
            StorageError: the Hub refuses.
        """
        hub: Any = library()
        added = [
            hub.CommitOperationAdd(path_in_repo=self._prefix + name, path_or_fileobj=content)
            for name, content in files.items()
        ]
        with self.told(""):
            try:
                made = self.api.create_commit(
                    self.repo,
                    added,
                    commit_message=message,
                    repo_type="dataset",
                    revision=self.revision,
                    parent_commit=parent,
                )
            except import_module("huggingface_hub.errors").HfHubHTTPError as error:
                if error.response.status_code not in OVERTAKEN:
                    raise
                return None
        return str(made.oid)

    def head(self, name: str) -> Found | None:
        """Return what the Hub tells of a file; None if there is none."""
        with self.told(name):
            found = self.api.get_paths_info(self.repo, self._prefix + name, revision=self.revision, repo_type="dataset")
        return next((self._found(each) for each in found if hasattr(each, "size")), None)

    def read(self, name: str) -> bytes:
        """Return the contents of a file. Raises FileNotFoundError: there is none."""
        return self._got(name, {})[0]

    def read_tagged(self, name: str) -> tuple[bytes, dict[str, Any]]:
        """Return the contents of a file; there is nothing to swap it by."""
        return self.read(name), {}

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Return the bytes of a file from `start` on and before `stop`."""
        content, whole = self._got(name, {"Range": f"bytes={start}-{stop - 1}"})
        # a server that does not know ranges sends all
        return content[start:stop] if len(content) == whole and start else content[: stop - start]

    def begin(self, name: str, count: int) -> tuple[bytes, int]:
        """Return at most so many first bytes of a file, and its size. Raises FileNotFoundError: there is none."""
        content, whole = self._got(name, {"Range": f"bytes=0-{count - 1}"})
        return content[:count], whole

    def rest(self, name: str, begun: bytes, size: int) -> bytes:
        """Return a file of which the beginning is there."""
        return begun if len(begun) >= size else begun + self.read_range(name, len(begun), size)

    def below(self, prefix: str) -> Iterator[Found]:
        """Return all files whose names begin with a prefix that ends with a slash, or is empty, in order."""
        found = [each for each in self._tree(prefix.rstrip("/"), recursive=True) if hasattr(each, "size")]
        yield from sorted(map(self._found, found))

    def right_below(self, folder: str) -> list[str]:
        """Return the names of the folders and files right below a folder."""
        return sorted(each.path.rpartition("/")[2] for each in self._tree(folder, recursive=False))

    def put(self, name: str, content: bytes) -> NoReturn:
        """Refuse to write."""
        raise BadInput(
            f"{self.address}: a cache on the Hub is only read. Write it elsewhere, and copy it there with `logitstore push`."
        )

    def put_first(self, name: str, content: bytes) -> NoReturn:
        """Refuse to write."""
        self.put(name, content)

    def swap(self, name: str, known: dict[str, Any], content: bytes) -> NoReturn:
        """Refuse to write."""
        self.put(name, content)

    def delete(self, names: list[str]) -> NoReturn:
        """Refuse to remove."""
        self.put("", b"")

    def _tree(self, folder: str, *, recursive: bool) -> list[Any]:
        path = (self._prefix + folder).strip("/") or None
        try:
            with self.told(folder):
                return list(
                    self.api.list_repo_tree(
                        self.repo, path, recursive=recursive, revision=self.revision, repo_type="dataset"
                    )
                )
        except FileNotFoundError:
            return []

    def _found(self, each: Any) -> Found:
        return Found(each.path[len(self._prefix) :], int(each.size), 0.0)

    def _got(self, name: str, headers: dict[str, str]) -> tuple[bytes, int]:
        """Return what the Hub answers, and the size of the whole file."""
        hub = library()
        url = hub.hf_hub_url(
            self.repo, self._prefix + name, repo_type="dataset", revision=self.revision, endpoint=self.api.endpoint
        )
        with self.told(name):
            # as it lies there, so that ranges are those of its bytes
            headers = hub.utils.build_hf_headers() | {"Accept-Encoding": "identity"} | headers
            answer = hub.utils.http_backoff("GET", url, headers=headers, follow_redirects=True)
            if answer.status_code == 416:
                return b"", 0  # of a file without bytes no range can be asked for
            hub.utils.hf_raise_for_status(answer)
            content = bytes(answer.content)
        whole = answer.headers.get("Content-Range", "").rpartition("/")[2]
        return content, int(whole) if whole.isdecimal() else len(content)

    @contextmanager
    def told(self, name: str) -> Iterator[None]:
        """Retell what huggingface_hub raises: FileNotFoundError, or StorageError."""
        where = f"{self.address}/{name}" if name else self.address
        known = import_module("huggingface_hub.errors")
        try:
            yield
        except known.EntryNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where) from error
        except (known.RepositoryNotFoundError, known.RevisionNotFoundError) as error:
            raise StorageError(
                f"{where}: the Hub has no such data set or revision, or does not show it to you. Check the name (a slash in a "
                "revision is written %2F), or log in: `hf auth login`, or HF_TOKEN."
            ) from error
        except (*known.HfHubHTTPError.__bases__, known.HFValidationError, ConnectionError) as error:
            raise StorageError(
                f"{where}: {one_line(error)[:200]}. The same command goes on where it stopped."
            ) from error
