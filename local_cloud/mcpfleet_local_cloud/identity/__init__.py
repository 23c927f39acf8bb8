"""Who somebody is and what they may do: keys, tokens, policies, roles, and the metadata server."""
