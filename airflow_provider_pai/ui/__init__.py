"""The page "PAI gates" in Airflow's web interface (3.1 and later): why did a gate decide so, and since when?

``plugin.py`` adds it to the menu, ``site.py`` serves the static files in ``page/``. These read Airflow's own
REST API as the user who looks at them, so Airflow's permissions hold. No code here reads any data.
"""

GATES_PAGE = "pai/gates"
"""Where the page is, below the address of Airflow's web interface."""
