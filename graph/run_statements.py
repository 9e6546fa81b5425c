"""What the table of runs is, and what is asked of it."""

from __future__ import annotations

TABLES = (
    """
    CREATE SEQUENCE runs_version;
    CREATE TABLE runs (
        run_id TEXT COLLATE "C" PRIMARY KEY,
        root TEXT COLLATE "C" NOT NULL,
        status TEXT NOT NULL,
        mode TEXT NOT NULL,
        stage TEXT NOT NULL,
        product TEXT NOT NULL,
        folded TEXT NOT NULL,
        parent TEXT,
        keeper TEXT,
        batch TEXT,
        request TEXT,
        created_at TIMESTAMPTZ NOT NULL,
        finished_at TIMESTAMPTZ,
        record TEXT NOT NULL,
        result BYTEA,
        owner TEXT,
        lease_until TIMESTAMPTZ,
        cancel_wanted BOOLEAN NOT NULL DEFAULT false,
        sent_at TIMESTAMPTZ,
        deliveries INTEGER NOT NULL DEFAULT 0,
        booking TEXT NOT NULL,
        told_by TEXT,
        fence BIGINT NOT NULL DEFAULT 0,
        version BIGINT NOT NULL DEFAULT nextval('runs_version')
    );
    CREATE UNIQUE INDEX runs_request ON runs (request) WHERE request IS NOT NULL;
    CREATE INDEX runs_unfinished ON runs (status, created_at, run_id) WHERE status <> 'finished';
    CREATE INDEX runs_root ON runs (root);
    CREATE INDEX runs_place ON runs (created_at, run_id);
    CREATE INDEX runs_open ON runs (keeper, status, created_at) WHERE status IN ('queued', 'running', 'interrupted');
    CREATE TABLE events (
        run_id TEXT COLLATE "C" NOT NULL REFERENCES runs ON DELETE CASCADE,
        first_seq BIGINT NOT NULL,
        last_seq BIGINT NOT NULL,
        body BYTEA NOT NULL,
        PRIMARY KEY (run_id, first_seq)
    );
    CREATE FUNCTION forget_run() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE kept TEXT;
    BEGIN
        FOREACH kept IN ARRAY ARRAY['checkpoints', 'checkpoint_blobs', 'checkpoint_writes', 'effects', 'texts'] LOOP
            IF to_regclass(kept) IS NOT NULL THEN
                EXECUTE format('DELETE FROM %I WHERE thread_id = $1', kept) USING OLD.run_id;
            END IF;
        END LOOP;
        RETURN OLD;
    END $$;
    CREATE TRIGGER runs_forgotten AFTER DELETE ON runs FOR EACH ROW EXECUTE FUNCTION forget_run();
    CREATE FUNCTION live(runs) RETURNS BOOLEAN LANGUAGE sql VOLATILE AS
        'SELECT $1.owner IS NOT NULL AND $1.lease_until > clock_timestamp()';
    CREATE FUNCTION told(runs) RETURNS TEXT LANGUAGE sql VOLATILE AS
        'SELECT CASE WHEN $1.status = ''running'' AND NOT live($1) THEN ''interrupted'' ELSE $1.status END'
    """,
)
"""``runs.live``: somebody holds the run. ``runs.told``: its status as it is told, "interrupted" where nobody holds one
that is running. ``forget_run``: whoever deletes a run, be it by hand, leaves nothing of it to a later one of its id.
``folded``: the product's name for comparisons without case. ``booking``: tells a booking from its own
repetition. ``fence``: grows each time that the run is held. ``told_by``: the Redis server that may have told events
that the table does not hold yet, see :mod:`graph.event_table`."""

SAVE = """
UPDATE runs SET status = %(status)s, mode = %(mode)s, stage = %(stage)s, product = %(product)s, folded = %(folded)s,
    parent = %(parent)s, keeper = %(keeper)s, batch = %(batch)s, request = %(request)s,
    finished_at = %(finished_at)s, record = %(record)s, version = nextval('runs_version'),
    cancel_wanted = cancel_wanted AND (status, %(status)s) IN (
        ('queued', 'queued'), ('queued', 'running'), ('running', 'running'), ('running', 'interrupted'))
WHERE run_id = %(run_id)s AND CASE WHEN %(owner)s::text IS NULL THEN NOT runs.live ELSE owner = %(owner)s END
RETURNING run_id
"""
"""A wish to have the run stopped is for the session that runs or is to come: it ends with it, and when the run is
queued anew."""
CREATE = """
INSERT INTO runs (run_id, root, created_at, booking, status, mode, stage, product, folded, parent, keeper, batch,
    request, finished_at, record)
VALUES (%(run_id)s, %(root)s, %(created_at)s, %(booking)s, %(status)s, %(mode)s, %(stage)s, %(product)s, %(folded)s,
    %(parent)s, %(keeper)s, %(batch)s, %(request)s, %(finished_at)s, %(record)s)
ON CONFLICT DO NOTHING
"""
FIND_BOOKED = "SELECT run_id, booking FROM runs WHERE run_id = %(run_id)s OR request = %(request)s"
ALL = "SELECT run_id, record, runs.told, status, keeper, batch, request, finished_at FROM runs"
TAKE = """
UPDATE runs SET owner = %(owner)s, lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
    fence = nextval('runs_version')
WHERE run_id = %(run_id)s AND (owner = %(owner)s OR NOT runs.live)
RETURNING cancel_wanted, fence
"""
RELEASE = "UPDATE runs SET owner = NULL, lease_until = NULL WHERE run_id = %s AND owner = %s"
SAVE_RESULT = """
UPDATE runs SET result = %(content)s
WHERE run_id = %(run_id)s AND CASE WHEN %(owner)s::text IS NULL THEN NOT runs.live ELSE owner = %(owner)s END
RETURNING run_id
"""
WANT_CANCEL = """
UPDATE runs SET cancel_wanted = true WHERE run_id = %s AND status IN ('queued', 'running', 'interrupted')
RETURNING run_id
"""
