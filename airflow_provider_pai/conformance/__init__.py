"""First contact with the real PAI: ``python -m airflow_provider_pai.conformance --conn-id pai_default``.

Makes a temporary experiment and a few runs, puts every assumption of ``docs/fidelity.md`` to PAI, tells what
is as assumed, different or not decidable, and removes what it made::

    __main__      the command: connection, signals, output
    survey        one assumption after another
    paging, filtering, writing, answering
                  the assumptions, each with its check
    scene         what is made in PAI, and removed
    assumptions   what an assumption and a finding are
    asking        how PAI is asked, and for how long

The checks send plain requests, so that none of the provider's own care hides what PAI does.
"""
