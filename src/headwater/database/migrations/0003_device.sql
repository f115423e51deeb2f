-- The registry: profiles, devices, credentials, groups, presence.

CREATE TABLE profile (
    id          uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL REFERENCES tenant ON DELETE CASCADE,
    name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    definition  jsonb NOT NULL,                      -- device/profile.py: ProfileDefinition
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, name),
    UNIQUE (tenant_id, id)
);

CREATE TABLE device (
    id           uuid PRIMARY KEY,
    tenant_id    uuid NOT NULL REFERENCES tenant ON DELETE CASCADE,
    external_id  text NOT NULL CHECK (length(external_id) BETWEEN 1 AND 200),
    name         text NOT NULL DEFAULT '' CHECK (length(name) <= 200),
    profile_id   uuid NOT NULL,
    status       text NOT NULL DEFAULT 'registered'
                 CHECK (status IN ('registered', 'active', 'suspended', 'decommissioned')),
    labels       jsonb NOT NULL DEFAULT '{}',        -- name -> string, for selecting
    attributes   jsonb NOT NULL DEFAULT '{}',        -- name -> JSON, set by people and programs
    version      bigint NOT NULL DEFAULT 1,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, external_id),
    UNIQUE (tenant_id, id),
    FOREIGN KEY (tenant_id, profile_id) REFERENCES profile (tenant_id, id)
);
CREATE INDEX device_profile ON device (tenant_id, profile_id, id);
-- Across tenants: whom somebody means who names no tenant (store/timeline.py).
CREATE INDEX device_external_id ON device (external_id);
CREATE INDEX device_name ON device (tenant_id, name, id);
CREATE INDEX device_labels ON device USING gin (labels jsonb_path_ops);
CREATE INDEX device_attributes ON device USING gin (attributes jsonb_path_ops);

CREATE TABLE device_credential (
    id           uuid PRIMARY KEY,
    tenant_id    uuid NOT NULL REFERENCES tenant ON DELETE CASCADE,
    device_id    uuid NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('token', 'anonymous')),
    secret_hash  bytea NOT NULL,                     -- SHA-256: the secret has 256 random bits; empty where there is none
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    FOREIGN KEY (tenant_id, device_id) REFERENCES device (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX device_credential_device ON device_credential (device_id);

CREATE TABLE device_group_member (
    tenant_id  uuid NOT NULL REFERENCES tenant ON DELETE CASCADE,
    group_id   uuid NOT NULL,
    device_id  uuid NOT NULL,
    added_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (group_id, device_id),
    FOREIGN KEY (tenant_id, group_id) REFERENCES device_group (tenant_id, id) ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, device_id) REFERENCES device (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX device_group_member_device ON device_group_member (device_id);

-- What the device itself last told us, apart from telemetry. Written by the workers only.
CREATE TABLE device_state (
    tenant_id     uuid NOT NULL REFERENCES tenant ON DELETE CASCADE,
    device_id     uuid PRIMARY KEY,
    connected     boolean NOT NULL DEFAULT false,
    epoch         bigint NOT NULL DEFAULT 0,         -- of the connection that last changed `connected`
    sequence      bigint NOT NULL DEFAULT 0,
    connection_version  bigint NOT NULL DEFAULT 0,   -- only rises: with every newer word about the connection
    changed_at    timestamptz,                       -- when `connected` last changed
    reason        text NOT NULL DEFAULT '',          -- why it ended: device/presence.py
    detail        text NOT NULL DEFAULT '',          -- the same, for people
    gateway_id    uuid,                              -- who holds the connection
    client_id     text NOT NULL DEFAULT '',          -- these three of the connection there is, or was last
    protocol      text NOT NULL DEFAULT '',
    address       text NOT NULL DEFAULT '',
    last_seen_at  timestamptz,                       -- of control records; telemetry has its own in telemetry_latest
    reported      jsonb NOT NULL DEFAULT '{}',       -- attribute -> {"value": JSON, "observed_at": us, "order": [epoch, sequence]}
    forgotten     jsonb NOT NULL DEFAULT '{}',       -- attribute -> when it was forgotten, so that an older value stays away
    version       bigint NOT NULL DEFAULT 0,         -- only rises
    FOREIGN KEY (tenant_id, device_id) REFERENCES device (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX device_state_gateway ON device_state (gateway_id) WHERE connected;

-- What happened at the door and on the connections of each device, and what it sent that was refused (stream/timeline.py).
-- No foreign keys: a device's rows are removed by the maintenance, not inside somebody's request.
CREATE TABLE device_timeline (
    id             uuid PRIMARY KEY,                 -- given by who saw it, so that nothing is written twice
    tenant_id      uuid NOT NULL,
    device_id      uuid NOT NULL,
    at             timestamptz NOT NULL,
    event          text NOT NULL,
    failed         boolean NOT NULL,                 -- an attempt to connect that did not succeed
    code           text NOT NULL,
    detail         text NOT NULL,
    count          bigint NOT NULL,                  -- how often, up to `at`
    identified_by  text NOT NULL,                    -- '' = its credential was good; else by what it was taken for this device
    client_id      text NOT NULL,
    address        text NOT NULL,                    -- without the port
    protocol       text NOT NULL,
    listener       text NOT NULL,
    gateway_id     uuid
);
CREATE INDEX device_timeline_device ON device_timeline (device_id, at, id);
CREATE INDEX device_timeline_failed ON device_timeline (tenant_id, at, id) WHERE failed;
CREATE INDEX device_timeline_age ON device_timeline (at);

-- Attempts of whom nobody knows: no tenant sees them, only the operator of the platform.
CREATE TABLE stranger_attempt (
    id          uuid PRIMARY KEY,
    at          timestamptz NOT NULL,
    event       text NOT NULL,
    code        text NOT NULL,
    detail      text NOT NULL,
    count       bigint NOT NULL,
    client_id   text NOT NULL,
    address     text NOT NULL,
    protocol    text NOT NULL,
    listener    text NOT NULL,
    gateway_id  uuid
);
CREATE INDEX stranger_attempt_age ON stranger_attempt (at, id);
CREATE INDEX stranger_attempt_address ON stranger_attempt (address, at, id);

-- Live gateways, so that the connections of a dead one can be told to be closed.
CREATE TABLE gateway_instance (
    id            uuid PRIMARY KEY,
    name          text NOT NULL,
    started_at    timestamptz NOT NULL DEFAULT now(),
    heartbeat_at  timestamptz NOT NULL DEFAULT now()
);

-- How many devices a tenant has, so that a quota is checked without counting them. The row is also the lock that makes
-- creating devices, groups and profiles of one tenant queue up, so that no race passes a quota.
CREATE TABLE tenant_usage (
    tenant_id  uuid PRIMARY KEY REFERENCES tenant ON DELETE CASCADE,
    devices    bigint NOT NULL DEFAULT 0
);

CREATE FUNCTION tenant_usage_start() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = headwater, pg_temp AS $$
BEGIN
    INSERT INTO tenant_usage (tenant_id) VALUES (NEW.id);
    RETURN NULL;
END
$$;
CREATE TRIGGER tenant_usage_start AFTER INSERT ON tenant FOR EACH ROW EXECUTE FUNCTION tenant_usage_start();

CREATE FUNCTION device_count() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = headwater, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        UPDATE tenant_usage SET devices = devices + come.count
        FROM (SELECT tenant_id, count(*) FROM changed GROUP BY tenant_id) AS come
        WHERE tenant_usage.tenant_id = come.tenant_id;
    ELSE
        UPDATE tenant_usage SET devices = devices - gone.count
        FROM (SELECT tenant_id, count(*) FROM changed GROUP BY tenant_id) AS gone
        WHERE tenant_usage.tenant_id = gone.tenant_id;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER device_count_up AFTER INSERT ON device
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION device_count();
CREATE TRIGGER device_count_down AFTER DELETE ON device
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION device_count();

-- Devices that are gone, until the maintenance has removed their telemetry. No tenant_id: a tenant may be gone, too, and
-- nobody but the worker reads it.
CREATE TABLE removed_device (
    device_id   uuid PRIMARY KEY,
    removed_at  timestamptz NOT NULL DEFAULT now(),
    swept_at    timestamptz                          -- first removal; a second one catches what was under way then
);
CREATE INDEX removed_device_due ON removed_device (swept_at NULLS FIRST, device_id);

CREATE FUNCTION device_removed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = headwater, pg_temp AS $$
BEGIN
    INSERT INTO removed_device (device_id) SELECT id FROM gone ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION device_removed() FROM PUBLIC;
CREATE TRIGGER device_removed AFTER DELETE ON device
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION device_removed();
