-- Tenants, people, tokens, audit.

CREATE TABLE tenant (
    id          uuid PRIMARY KEY,
    slug        text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9-]{1,36}$'),
    name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    status      text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    shard       smallint NOT NULL DEFAULT 0,         -- the PostgreSQL cluster that holds its telemetry
    quotas      jsonb NOT NULL DEFAULT '{}',         -- only what differs from the defaults: tenancy/quotas.py
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);

-- A person is one human being, whatever tenants he or she works for.
CREATE TABLE person (
    id             uuid PRIMARY KEY,
    email          text NOT NULL CHECK (length(email) BETWEEN 3 AND 254),
    name           text NOT NULL DEFAULT '' CHECK (length(name) <= 200),
    password_hash  text,                             -- Argon2id; NULL = may not log in with a password
    status         text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    operator       boolean NOT NULL DEFAULT false,   -- of the platform, which gives no right inside any tenant
    version        bigint NOT NULL DEFAULT 1,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX person_email ON person (lower(email));

CREATE TABLE membership (
    tenant_id   uuid NOT NULL REFERENCES tenant ON DELETE CASCADE,
    person_id   uuid NOT NULL REFERENCES person ON DELETE CASCADE,
    role        text NOT NULL CHECK (role IN ('owner', 'admin', 'operator', 'viewer')),
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, person_id)
);
CREATE INDEX membership_person ON membership (person_id);

-- Rotating: a token is used once and gives the next of its family; one used twice ends the whole family.
CREATE TABLE refresh_token (
    id           uuid PRIMARY KEY,
    family_id    uuid NOT NULL,
    person_id    uuid NOT NULL REFERENCES person ON DELETE CASCADE,
    acting_for   uuid REFERENCES tenant ON DELETE SET NULL,  -- the tenant of the access tokens that it gives
    secret_hash  bytea NOT NULL,                     -- SHA-256: the secret has 256 random bits
    started_at   timestamptz NOT NULL DEFAULT now(), -- when its family logged in
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    used_at      timestamptz,
    revoked_at   timestamptz
);
CREATE INDEX refresh_token_family ON refresh_token (family_id);
CREATE INDEX refresh_token_person ON refresh_token (person_id);
CREATE INDEX refresh_token_expiry ON refresh_token (expires_at);

-- Joining a tenant: whoever holds the token (given to the inviting person, once) becomes a member under this address.
CREATE TABLE invitation (
    id           uuid PRIMARY KEY,
    tenant_id    uuid NOT NULL REFERENCES tenant ON DELETE CASCADE,
    email        text NOT NULL CHECK (length(email) BETWEEN 3 AND 254),
    role         text NOT NULL CHECK (role IN ('owner', 'admin', 'operator', 'viewer')),
    secret_hash  bytea NOT NULL,
    created_by   text NOT NULL,                      -- an actor
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL
);
CREATE UNIQUE INDEX invitation_email ON invitation (tenant_id, lower(email));
CREATE INDEX invitation_expiry ON invitation (expires_at);

-- A new password without the old one, by a token that is used once.
CREATE TABLE password_reset (
    id           uuid PRIMARY KEY,
    tenant_id    uuid NOT NULL REFERENCES tenant ON DELETE CASCADE,
    person_id    uuid NOT NULL REFERENCES person ON DELETE CASCADE,
    secret_hash  bytea NOT NULL,
    created_by   text NOT NULL,                      -- an actor
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL
);
CREATE INDEX password_reset_person ON password_reset (person_id);
CREATE INDEX password_reset_expiry ON password_reset (expires_at);

CREATE TABLE operator_token (
    id            uuid PRIMARY KEY,
    name          text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    secret_hash   bytea NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz,
    revoked_at    timestamptz
);

CREATE TABLE device_group (
    id           uuid PRIMARY KEY,
    tenant_id    uuid NOT NULL REFERENCES tenant ON DELETE CASCADE,
    name         text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    kind         text NOT NULL CHECK (kind IN ('static', 'query')),
    query        text,                               -- device/filter.py; only where kind = 'query'
    description  text NOT NULL DEFAULT '' CHECK (length(description) <= 2000),
    version      bigint NOT NULL DEFAULT 1,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, name),
    UNIQUE (tenant_id, id),
    CHECK ((kind = 'query') = (query IS NOT NULL))
);

CREATE TABLE api_token (
    id            uuid PRIMARY KEY,
    tenant_id     uuid NOT NULL REFERENCES tenant ON DELETE CASCADE,
    name          text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    secret_hash   bytea NOT NULL,
    permissions   text[] NOT NULL,                   -- noun:verb
    group_id      uuid,                              -- only the devices of this group
    created_by    text NOT NULL,                     -- an actor
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz,
    revoked_at    timestamptz,
    last_used_at  timestamptz,
    FOREIGN KEY (tenant_id, group_id) REFERENCES device_group (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX api_token_tenant ON api_token (tenant_id, id);

CREATE TABLE audit_entry (
    id         uuid PRIMARY KEY,
    tenant_id  uuid NOT NULL REFERENCES tenant ON DELETE CASCADE,
    at         timestamptz NOT NULL DEFAULT now(),
    actor      text NOT NULL,
    action     text NOT NULL,                        -- noun:verb
    subject    text NOT NULL,                        -- <noun>:<uuid>
    address    text NOT NULL DEFAULT '',             -- where the request came from
    detail     jsonb NOT NULL DEFAULT '{}'           -- what changed; never a secret
);
CREATE INDEX audit_entry_tenant ON audit_entry (tenant_id, id DESC);

-- What the platform operator did; it outlives the tenant that it was done to.
CREATE TABLE operator_audit_entry (
    id       uuid PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT now(),
    actor    text NOT NULL,
    action   text NOT NULL,
    subject  text NOT NULL,
    address  text NOT NULL DEFAULT '',
    detail   jsonb NOT NULL DEFAULT '{}'
);

CREATE TABLE idempotency_key (
    tenant_id     uuid NOT NULL REFERENCES tenant ON DELETE CASCADE,
    actor         text NOT NULL,
    key           text NOT NULL CHECK (length(key) BETWEEN 1 AND 200),
    request_hash  bytea NOT NULL,
    status        smallint NOT NULL,
    headers       jsonb NOT NULL,
    body          bytea NOT NULL,                    -- secrets shown once are not in here
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, actor, key)
);
CREATE INDEX idempotency_key_age ON idempotency_key (created_at);
