"""Which model is released? Models and their versions: registered, approved, waited for."""
