"""Studies: methods × scenarios × seeds with controls, resumable, with the statistics they need.

``load_study`` reads a study, ``StudyRun.open`` a folder with what is known of it, ``run_study``
computes the rest, and ``write_report`` writes tables, figures and a page.
"""

from ucmkd.study.config import StudyConfig
from ucmkd.study.reader import load_study
from ucmkd.study.report import write_report
from ucmkd.study.runner import StudyRun, run_study
from ucmkd.study.summary import summarise

__all__ = ["StudyConfig", "StudyRun", "load_study", "run_study", "summarise", "write_report"]
