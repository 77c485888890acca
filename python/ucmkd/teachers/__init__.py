"""``ucmkd teachers``: from a configuration to a ranking of candidate teachers.

``load_comparison`` reads a configuration, ``read_samples`` its samples, ``compare_teachers`` asks
a rule about them, and ``draw_ranking`` draws the answer.
"""

from ucmkd.teachers.config import TeachersConfig, find_comparison, load_comparison
from ucmkd.teachers.figure import draw_ranking
from ucmkd.teachers.run import compare_teachers
from ucmkd.teachers.samples import Samples, read_samples

__all__ = [
    "Samples",
    "TeachersConfig",
    "compare_teachers",
    "draw_ranking",
    "find_comparison",
    "load_comparison",
    "read_samples",
]
