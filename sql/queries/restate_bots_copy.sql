-- Those of them that belong to programs.
COPY restate_bot FROM STDIN
