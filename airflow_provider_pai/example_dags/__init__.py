"""The example DAGs of the wheel. ``python -m airflow_provider_pai.example_dags`` lists and copies them.

In a checkout they are in ``dags_examples/``; the build puts them here, where Airflow 3.3 finds them if
``[core] load_examples`` is on.
"""
