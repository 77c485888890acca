"""The study behind ``ucmkd teachers``: which rule tells beforehand whether a teacher will help?

``python -m benches.teachers`` trains every ordered pair of modalities of each problem with and
without its teacher, asks every rule about the same pairs, and writes tables, figures and a page.
"""
