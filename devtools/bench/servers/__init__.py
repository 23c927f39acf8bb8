"""The same server, `payload(size)`, in each SDK: what `./dev bench server` compares. Each listens on $PORT."""
