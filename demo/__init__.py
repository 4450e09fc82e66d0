"""See the provider at work: `python -m demo`, or `python -m demo.ui` for Airflow's web interface."""
