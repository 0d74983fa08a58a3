-- Look up a batch of users by the statement that was prepared.
EXECUTE people (%(keys)s);
