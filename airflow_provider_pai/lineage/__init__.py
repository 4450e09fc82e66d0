"""What did a task read and write? Runs, versions of models and files, for OpenLineage.

``notes.py`` keeps what a task tells of itself while it runs, as plain data. ``facets.py`` makes parts of
events of it, and is imported only where ``apache-airflow-providers-openlineage`` asks for them.
"""
