"""Small examples of the rest of the protocol: delete those that you don't need. `app.py` has the first tools."""
