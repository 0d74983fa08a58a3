"""What `scripts/bench` is made of: one purpose a module, and nothing the server itself ever imports.

From the top: `cli` parses and runs the whole, `measuring` takes one measurement, `plan` says which and in
what order, `contenders` and `servers` know how the programs are started and stopped, `database` the
tables, `wrk` and `load.lua` the load, `probes` whether answers are right, `checking` whether a
measurement counts, `summary`, `report` and `chart` what is said about it, `machine` where it was taken,
`environment` what had to be installed and built for it.
"""
