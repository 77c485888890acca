"""``ucmkd demo``: what distillation without pairs brings, in three scenes on real data."""

from ucmkd.demo.app import DemoOptions, main, run

__all__ = ["DemoOptions", "main", "run"]
