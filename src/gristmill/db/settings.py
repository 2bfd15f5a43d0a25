"""What the embedded server is told: settings, who may connect, and as whom."""

from __future__ import annotations

SETTINGS_FILE = "gristmill.conf"

SETTINGS = """\
# Written by Gristmill at every start. Your own changes belong into ALTER SYSTEM SET ..., which wins over this file.

# -- who may connect: processes of this machine, through the socket, and nobody over a network
listen_addresses = ''
unix_socket_permissions = 0700          # the account of the server, and root
max_connections = 200                   # about 20 workers of 9 connections each

# -- what was committed stays, whatever is killed or unplugged
fsync = on
synchronous_commit = on
full_page_writes = on

# -- memory, sized for a laptop
shared_buffers = 128MB
huge_pages = off                        # "try" ends with SIGBUS in containers whose limit of huge pages is 0
dynamic_shared_memory_type = sysv       # posix needs /dev/shm, of which a container has 64 MB; mmap writes to the disk
maintenance_work_mem = 128MB            # building a vector index

# -- disk: between two checkpoints about 1 GB of log at most, and a forgotten replication slot cannot fill it
min_wal_size = 64MB
max_wal_size = 1GB
max_slot_wal_keep_size = 1GB
checkpoint_timeout = 5min

# -- clients that die or forget; limits of a statement or a lock are the client's own business
client_connection_check_interval = 500ms            # a killed client's query ends, too
idle_in_transaction_session_timeout = 10s           # a stopped client must not hold back vacuum and locks

# -- queue tables change all the time, so they are looked at more often than once a minute
autovacuum = on
autovacuum_naptime = 15s

# -- the log: files of 10 MB; the keeper process removes all but the newest five
logging_collector = on
log_directory = '../log'
log_filename = 'server-%Y%m%d-%H%M%S.log'
log_file_mode = 0600
log_rotation_size = 10MB
log_rotation_age = 0
log_checkpoints = off                   # one line every five minutes tells a user nothing
log_line_prefix = '%m [%p] '

# -- the same everywhere
timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'
default_text_search_config = 'pg_catalog.simple'
"""

HBA = """\
# Written by Gristmill at every start. The kernel says who the client is; pg_ident.conf says who that may be.
local  all  all  peer map=gristmill
"""


def identities(names: list[str]) -> str:
    """The text of pg_ident.conf: each of these operating-system users may be the role `gristmill`."""
    quoted = ('"' + name.replace('"', '""') + '"' for name in names)
    return "# Written by Gristmill at every start.\n" + "".join(f"gristmill  {name}  gristmill\n" for name in quoted)
