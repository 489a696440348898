"""One case of the toy suite, its true views and what is known of it."""

from __future__ import annotations

import pytest

from diffusers_mvcustom.evaluation.toy_suite import Case, SuiteSettings, subjects_of
from diffusers_mvcustom.evaluation.toy_suite.controls import true_views
from diffusers_mvcustom.evaluation.toy_suite.known_geometry import KnownGeometry

VIEWS = 5


@pytest.fixture(scope="session")
def rotation():
    """An arc around a subject of the validation split."""
    return Case(subjects_of(SuiteSettings(split="validation"))[0], 0, "rotation", seed=1, views=VIEWS, size=64)


@pytest.fixture(scope="session")
def translation(rotation):
    """Sideways past the same subject."""
    return Case(rotation.subject, 0, "translation", seed=1, views=VIEWS, size=64)


@pytest.fixture(scope="session", params=["rotation", "translation"])
def seen(request):
    """A case, true views of it (their light and objects are not those of what is known), and what is known."""
    case = request.getfixturevalue(request.param)
    return case, true_views(case), KnownGeometry.of(case)
