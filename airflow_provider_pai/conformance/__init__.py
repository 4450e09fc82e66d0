"""Check a real PAI: ``python -m airflow_provider_pai.conformance --conn-id pai_default``.

The command creates a temporary experiment with a few runs, and a model with a few versions. It checks every
assumption of ``docs/fidelity.md`` against PAI, prints which are as assumed, different or not decidable, and
removes what it created::

    __main__      the command: connection, signals, output
    survey        checks one assumption after another
    paging, filtering, writing, registry, answering
                  the assumptions, each with its check
    scene         creates the experiment and the runs, and removes everything
    registered    creates the model and the versions, and removes them
    assumptions   the classes Assumption and Finding
    asking        sends the requests, and repeats them for a minute

The checks send plain requests, so that the provider's own checks do not hide what PAI does.
"""
