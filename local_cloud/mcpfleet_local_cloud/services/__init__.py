"""The Google APIs: `routes.py` parses and renders, `model.py` decides and knows no HTTP; the smallest are one file."""
