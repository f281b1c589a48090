"""What the store counts of itself; the process's metrics server shows it."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Histogram(
    "kumo_etcd_request_duration_seconds",
    "How long etcd took to answer, each try by itself.",
    ["method", "outcome"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
)
ENDPOINT_FAULTS = Counter("kumo_etcd_endpoint_faults_total", "How often an endpoint was left for a fault or for silence.")
STREAM_RESTARTS = Counter("kumo_etcd_watch_restarts_total", "How often the watch stream was opened again after a fault.")
COMMITS = Counter("kumo_etcd_commits_total", "Transactions by how they ended.", ["outcome"])
DATABASE_BYTES = Gauge("kumo_etcd_database_bytes", "Size of a member's file.", ["member"])
DATABASE_RATIO = Gauge("kumo_etcd_database_quota_ratio", "Share of etcd's quota in use, of the fullest member.")
FULL_HEALED = Counter("kumo_etcd_full_healed_total", "How often a full store was made writable again.")
COMPACTED_REVISION = Gauge("kumo_etcd_compacted_revision", "The revision up to which history was last compacted by this process.")
MIRROR_RECORDS = Gauge("kumo_mirror_records", "Records in the mirror of a table.", ["table"])
MIRROR_RELISTS = Counter("kumo_mirror_relists_total", "How often a mirror had to list its table again.", ["table"])
MIRROR_CHANGES = Counter("kumo_mirror_changes_total", "Changes a mirror has applied.", ["table"])
WATCHERS = Gauge("kumo_watch_open", "Open watches on a table.", ["table"])
WATCH_REPLAYS = Counter("kumo_watch_replays_total", "Watches that had to be resumed from etcd's own history.", ["table"])
WATCH_ENDED = Counter("kumo_watch_ended_total", "Watches ended by the store.", ["table", "reason"])
