"""The same server with the tool `payload(size)` in each SDK, for `./dev bench server`. Each listens on $PORT."""
