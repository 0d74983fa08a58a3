"""How the test bed gives up, and how a kind of fault says that it cannot be done here."""


class TortureError(Exception):
    """The bed itself cannot go on; printed as it is, without a traceback."""


class NotRecovered(Exception):
    """Something that has to happen after a fault did not, within a generous time."""


class Unsupported(Exception):
    """This kind of fault cannot be done on this machine or to this server; says why."""


class Interrupted(Exception):
    """Somebody pressed Ctrl-C a second time: give up at once."""
