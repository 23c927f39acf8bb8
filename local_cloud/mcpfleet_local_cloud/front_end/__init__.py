"""The front end between callers and containers: ingress, routing, load balancers, mesh, and Identity-Aware Proxy."""
