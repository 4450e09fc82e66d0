"""Are the runs good enough? Rules for metrics, the verdict over runs, and the task that acts on it.

``rules.py`` parses and applies one rule, ``verdict.py`` judges runs by several rules, and ``gate.py`` is the
operator. The first two are plain data and import no Airflow.
"""
