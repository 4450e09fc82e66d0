"""Where do files go? ``oss://`` for Airflow's object storage, with the credentials of a connection."""
