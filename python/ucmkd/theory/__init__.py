"""Theory as numbers: what can be proven of a student and a teacher, computed term by term."""

from ucmkd.theory.certificate import Certificate, certificate

__all__ = ["Certificate", "certificate"]
