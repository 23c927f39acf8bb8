"""One folder for each Google API: `routes.py` parses and renders, `model.py` decides and knows no HTTP."""
