"""The tests; the folders are those of the package."""

import pytest

pytest.register_assert_rewrite("tests.parts")
