"""Every failure an operator can meet, explained once, with the exit status it ends in.

Raise with a full sentence that names the way out: the command line prints it as it is, without a
traceback. Exit statuses follow sysexits(3) where it has one, so that a supervisor can tell a wrong
setting (do not restart) from a database that is away (do).

Must not know: any other module.
"""

from typing import ClassVar


class PreforkAdsError(Exception):
    """Anything that ends a command with a message instead of a traceback."""

    exit_code: ClassVar[int] = 1


class ConfigError(PreforkAdsError):
    """A setting is wrong, unknown or contradicts another. Restarting does not help."""

    exit_code = 2


class NotServing(PreforkAdsError):
    """No server runs that could be looked at."""

    exit_code = 3


class ImportRefused(PreforkAdsError):
    """Input data was refused; the message counts what was and was not taken (EX_DATAERR)."""

    exit_code = 65


class CatalogRefused(PreforkAdsError):
    """A catalog or a change to it makes no sense; nothing was changed (EX_DATAERR)."""

    exit_code = 65


class JournalDamaged(PreforkAdsError):
    """Files of the journal have lines that are no events; the good ones are shipped (EX_DATAERR)."""

    exit_code = 65


class DatabaseUnavailable(PreforkAdsError):
    """PostgreSQL cannot be reached or turned us away (EX_UNAVAILABLE). Restarting may help."""

    exit_code = 69


class SchemaError(PreforkAdsError):
    """The database's schema is newer than this program, damaged, or could not be migrated."""

    exit_code = 70


class PortInUse(PreforkAdsError):
    """Another process listens where we were told to listen (EX_OSERR)."""

    exit_code = 71


class DataDirError(PreforkAdsError):
    """The data directory cannot be used: permissions, space, or another server owns it."""

    exit_code = 72


class BootFailure(PreforkAdsError):
    """Workers could not start, so the master stopped instead of forking for ever."""

    exit_code = 73


class ReportDiffers(PreforkAdsError):
    """Sums are not those of the events they were made of. Always a bug of ours (EX_DATAERR)."""

    exit_code = 65


class DecisionNotFound(PreforkAdsError):
    """The log does not have what a decision was made of (EX_NOINPUT)."""

    exit_code = 66


class ReplayDiffers(PreforkAdsError):
    """A decision that was made again came out otherwise (EX_DATAERR). This is a bug; please report it."""

    exit_code = 65
