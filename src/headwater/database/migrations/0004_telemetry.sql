-- Telemetry: one row a message, its metrics as two parallel arrays. Native partitions by day of `observed_at`.
-- No foreign keys: a device's rows are removed by the maintenance, not inside somebody's request.

CREATE TABLE metric (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   uuid NOT NULL REFERENCES tenant ON DELETE CASCADE,
    name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    type        text NOT NULL CHECK (type IN ('float', 'integer', 'boolean', 'string', 'json', 'location')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, name, type)
);

CREATE TABLE telemetry (
    tenant_id    uuid NOT NULL,
    device_id    uuid NOT NULL,
    observed_at  timestamptz NOT NULL,
    received_at  timestamptz NOT NULL,
    sequence     bigint NOT NULL,                    -- of its batch in the stream, plus uplink_stream.sequence_offset
    lane         smallint NOT NULL,
    metrics      integer[] NOT NULL,                 -- metric.id of the float, integer and boolean values
    numbers      float8[] NOT NULL,                  -- numbers[i] belongs to metrics[i]; true = 1
    extras       jsonb                               -- {"<metric.id>": value}: string, json, location, integers beyond 2^53,
                                                     -- floats that are not finite as "NaN", "Infinity", "-Infinity"
) PARTITION BY RANGE (observed_at);
CREATE INDEX telemetry_device ON telemetry (device_id, observed_at);
-- The roll-ups read what came since; rows lie in the order of their coming, so a few bytes a 256 KiB find them.
CREATE INDEX telemetry_sequence ON telemetry USING brin (sequence) WITH (pages_per_range = 32);

-- More than 90 days old when it came (store/partitions.py): rare, so it shares one partition.
CREATE TABLE telemetry_default PARTITION OF telemetry DEFAULT;

-- The newest message of each device and set of metrics; a device's latest values are the newest of each metric over its
-- rows, which are kept few (store/writer_latest.py). One upsert a message instead of one a value.
CREATE TABLE telemetry_latest (
    tenant_id    uuid NOT NULL,
    device_id    uuid NOT NULL,
    metric_set   bytea NOT NULL,                     -- sorted metric.ids, 4 bytes each, big-endian; of many their SHA-256
    observed_at  timestamptz NOT NULL,
    received_at  timestamptz NOT NULL,
    epoch        bigint NOT NULL,
    record       bigint NOT NULL,                    -- Record.sequence
    metrics      integer[] NOT NULL,
    numbers      float8[] NOT NULL,
    extras       jsonb,
    PRIMARY KEY (device_id, metric_set)
) WITH (fillfactor = 70);

-- Roll-ups of numbers (store/rollup.py). A minute: the messages of one device and minute, with the same metrics, that one
-- pass has read; what comes later is another row, and whoever reads them adds them up. Rows are only ever added.
CREATE TABLE telemetry_1m (
    tenant_id  uuid NOT NULL,
    device_id  uuid NOT NULL,
    bucket     timestamptz NOT NULL,
    first_at   timestamptz NOT NULL,
    last_at    timestamptz NOT NULL,
    count      integer NOT NULL,                     -- of each of the metrics
    metrics    integer[] NOT NULL,
    sums       float8[] NOT NULL,                    -- sums[i] belongs to metrics[i], and so on
    mins       float8[],                             -- from here on NULL where count = 1: then they are all like the sums
    maxs       float8[],
    firsts     float8[],
    lasts      float8[]
) PARTITION BY RANGE (bucket);
CREATE INDEX telemetry_1m_device ON telemetry_1m (device_id, bucket);
CREATE INDEX telemetry_1m_bucket ON telemetry_1m USING brin (bucket) WITH (pages_per_range = 32);

-- An hour, a day: one row a device, metric and bucket.
CREATE TABLE telemetry_1h (
    tenant_id  uuid NOT NULL,
    device_id  uuid NOT NULL,
    metric_id  integer NOT NULL,
    bucket     timestamptz NOT NULL,
    count      bigint NOT NULL,
    sum        float8 NOT NULL,
    min        float8 NOT NULL,
    max        float8 NOT NULL,
    first      float8 NOT NULL,
    first_at   timestamptz NOT NULL,
    last       float8 NOT NULL,
    last_at    timestamptz NOT NULL,
    PRIMARY KEY (device_id, metric_id, bucket)
) PARTITION BY RANGE (bucket);
CREATE TABLE telemetry_1d (LIKE telemetry_1h INCLUDING ALL);
CREATE TABLE telemetry_1m_default PARTITION OF telemetry_1m DEFAULT;
CREATE TABLE telemetry_1h_default PARTITION OF telemetry_1h DEFAULT;

-- Hours and days hold what was observed before `folded_to`, a whole minute; what came after it stands in telemetry_1m alone.
CREATE TABLE rollup_frontier (
    folded_to  timestamptz NOT NULL,
    minutes    bigint NOT NULL                       -- rows of telemetry_1m that were added since it last moved
);
CREATE UNIQUE INDEX rollup_frontier_single ON rollup_frontier ((true));
INSERT INTO rollup_frontier (folded_to, minutes) VALUES (date_trunc('minute', now()), 0);

-- What devices report as having happened. Few, so no partitions.
CREATE TABLE event (
    sequence     bigint NOT NULL,                    -- as in telemetry
    ordinal      integer NOT NULL,                   -- place in its batch
    tenant_id    uuid NOT NULL,
    device_id    uuid NOT NULL,
    name         text NOT NULL,
    data         jsonb,
    observed_at  timestamptz NOT NULL,
    received_at  timestamptz NOT NULL,
    PRIMARY KEY (sequence, ordinal)
);
CREATE INDEX event_device ON event (device_id, observed_at);

-- One row a transaction of the store, until the roll-ups have read its rows: how many there are and in which span of time,
-- so that a pass can be cut to size and looks only into the partitions concerned.
CREATE TABLE telemetry_ledger (
    lane           integer NOT NULL,
    sequence       bigint NOT NULL,                  -- the position that the transaction moved the store to
    rows           integer NOT NULL,
    observed_from  timestamptz NOT NULL,
    observed_to    timestamptz NOT NULL,
    stored_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (lane, sequence)
);

-- What of a profile's retention has been applied, so that nothing is gone through twice (store/retention.py).
CREATE TABLE retention_done (
    profile_id   uuid PRIMARY KEY REFERENCES profile ON DELETE CASCADE,
    version      bigint NOT NULL,                    -- of the profile
    rules        bytea NOT NULL,                     -- digest of its retention
    day          date NOT NULL,                      -- everything that had expired by then
    sequence     bigint NOT NULL,                    -- rows above this place in the stream may have come since
    looked_at    timestamptz NOT NULL                -- devices that changed since may have got the profile since
);

-- Each UPLINK stream that there ever was. A stream made anew counts from 1; with the offset, sequences here only rise.
CREATE TABLE uplink_stream (
    id               integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created          text NOT NULL,                  -- as NATS tells it
    sequence_offset  bigint NOT NULL
);

-- How far each consumer has come, moved in the transaction that did the work. That is what makes it exactly once.
CREATE TABLE ingest_position (
    consumer    text NOT NULL,                       -- stream/topology.py: CONSUMERS, and 'rollup'
    lane        integer NOT NULL,
    sequence    bigint NOT NULL DEFAULT 0,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, lane)
);
