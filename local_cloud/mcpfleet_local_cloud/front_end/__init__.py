"""What stands between a caller and a container: ingress, routing, load balancers, mesh, and Identity-Aware Proxy."""
