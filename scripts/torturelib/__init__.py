"""What `scripts/torture` is made of: one purpose a module, and nothing the server itself ever imports.

From the top: `cli` parses and runs the whole; `schedule` says which faults in what order; `bed` puts
server, database, network and clients together; `faults_of_processes`, `faults_of_database` and
`faults_of_disk` are the kinds of fault, `faults` what they have in common, `kinds` the list of them.
`program`, `postgres`, `network` and `load` hold one part each; `proxy` and `clients` are programs of
their own, so that a busy test bed does not disturb them. `truth` is the file in which clients keep what
they were answered, `comparing` holds it against the tables, `verdict` judges, `report` prints.
"""
