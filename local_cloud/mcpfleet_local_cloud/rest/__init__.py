"""The parts that all of Google's APIs share: JSON bodies, field masks, pages, errors and operations."""
