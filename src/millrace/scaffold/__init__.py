"""`millrace new`: a workload of somebody's own, written from a table. A guess in, a package out."""
