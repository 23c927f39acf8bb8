"""The Google APIs: `routes.py` handles HTTP, `model.py` has the logic without HTTP; small APIs are one file."""
