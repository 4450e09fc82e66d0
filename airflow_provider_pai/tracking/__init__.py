"""Tell PAI what a DAG did: the operators that create, update, measure and promote runs."""
