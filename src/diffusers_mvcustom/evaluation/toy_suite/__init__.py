"""The toy benchmark: the paper's comparison on exact ground truth, for subjects that a model has never seen.

[`ToySuite`] trains them with the real trainer, lets every method of [`METHODS`] generate every [`Case`], and scores the
views, true renders and nonsense alike, by cameras, geometry, identity, text and repetition.
"""

from .cases import Case, SuiteSettings, ToySubject, cases_of, subjects_of
from .choices import CHOICES
from .controls import CONTROLS
from .methods import METHODS, Method
from .report import write_json, write_page
from .scores import Ruler, ViewScores
from .sheets import write_sheets
from .suite import ToySuite

__all__ = [
    "CHOICES",
    "CONTROLS",
    "METHODS",
    "Case",
    "Method",
    "Ruler",
    "SuiteSettings",
    "ToySubject",
    "ToySuite",
    "ViewScores",
    "cases_of",
    "subjects_of",
    "write_json",
    "write_page",
    "write_sheets",
]
