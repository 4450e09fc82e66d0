"""What did a task read and write? Runs, versions of models and files, for OpenLineage.

``notes.py`` keeps what a task notes while it runs, as plain data. ``facets.py`` makes parts of events from
it, and needs ``apache-airflow-providers-openlineage``. ``reports.py`` is what a task inherits: it
imports the facets only when OpenLineage asks for them.
"""
