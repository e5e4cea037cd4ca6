"""A cluster on one machine: Flink, a store and worker pools, each on a host of its own, for `make cluster-test`.

`parts.py` fetches the programs, `hosts.py` makes hosts of network namespaces, `services.py` starts Flink and the store
on them. `pom.xml`, `jars.sha256` and `flink-conf.yaml` are of use on real clusters too; see docs/cluster.md.
"""
