"""The bucket of the tests of object stores."""

from tests.store.remote.conftest import far, requests, server

__all__ = ["far", "requests", "server"]
