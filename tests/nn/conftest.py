"""Fixtures of these tests."""

from tests.support.model_fixtures import load_case, record_difference  # noqa: F401
