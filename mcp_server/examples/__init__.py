"""The rest of the protocol by small examples; delete what you do not need. `app.py` has the tools to begin with."""
