"""What holds for every test."""

from hypothesis import settings

# A property is about what comes out, never about how soon: on a busy machine 200 ms pass without any doing of ours.
settings.register_profile("mcpfleet", deadline=None)
settings.load_profile("mcpfleet")
