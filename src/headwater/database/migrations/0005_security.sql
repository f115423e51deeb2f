-- Who may do what. Last, so that it sees every table.

-- Row-level security, forced, on every table with a tenant_id. After a local setting ends it reads '', not NULL. The
-- sub-select is evaluated once a statement; without it the setting is parsed once a row (2,000,000 rows: 1.2 s, not 0.4 s).
DO $$
DECLARE
    target record;
BEGIN
    FOR target IN
        SELECT c.oid::regclass AS name, c.relispartition AS is_partition
        FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
        WHERE c.relnamespace = 'headwater'::regnamespace AND c.relkind IN ('r', 'p')
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target.name);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target.name);
        -- A partition is read through its parent, whose policy applies; named itself, it shows nothing.
        IF NOT target.is_partition THEN
            EXECUTE format(
                'CREATE POLICY tenant ON %s USING (tenant_id = (SELECT NULLIF(current_setting(''app.tenant_id'', true), '''')::uuid))',
                target.name);
        END IF;
    END LOOP;
END
$$;

ALTER TABLE tenant ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON tenant USING (id = (SELECT NULLIF(current_setting('app.tenant_id', true), '')::uuid));

-- A person belongs to no tenant, but is seen only by the tenants that he or she works for, and never with the password.
ALTER TABLE person ENABLE ROW LEVEL SECURITY;
ALTER TABLE person FORCE ROW LEVEL SECURITY;
CREATE POLICY colleague ON person FOR SELECT
    USING (EXISTS (SELECT FROM membership WHERE membership.person_id = person.id));  -- which shows one tenant's rows
GRANT SELECT (id, email, name, status, version, created_at, updated_at) ON person TO headwater_app;

GRANT SELECT ON tenant TO headwater_app;
GRANT UPDATE (name, version, updated_at) ON tenant TO headwater_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON
    membership, device_group, api_token, idempotency_key,
    profile, device, device_credential, device_group_member, device_state
    TO headwater_app;
GRANT SELECT, INSERT ON audit_entry TO headwater_app;
GRANT SELECT, UPDATE ON tenant_usage TO headwater_app;
GRANT SELECT ON
    metric, telemetry, telemetry_latest, telemetry_1m, telemetry_1h, telemetry_1d, event, ingest_position, rollup_frontier
    TO headwater_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON refresh_token, gateway_instance TO headwater_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON invitation, password_reset TO headwater_app;
GRANT SELECT ON operator_token TO headwater_app;
GRANT SELECT ON device_timeline TO headwater_app;

GRANT SELECT, INSERT ON telemetry, metric, event TO headwater_writer;
GRANT SELECT, INSERT ON uplink_stream TO headwater_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON
    telemetry_latest, telemetry_1m, telemetry_1h, telemetry_1d, ingest_position, device_state, gateway_instance,
    telemetry_ledger, retention_done
    TO headwater_writer;
GRANT UPDATE, DELETE ON telemetry TO headwater_writer;
GRANT SELECT, UPDATE ON rollup_frontier TO headwater_writer;
GRANT DELETE ON event TO headwater_writer;
GRANT SELECT, UPDATE, DELETE ON removed_device TO headwater_writer;
GRANT UPDATE (status, version, updated_at) ON device TO headwater_writer;
GRANT SELECT ON tenant, device, profile TO headwater_writer;
GRANT SELECT, INSERT, DELETE ON device_timeline, stranger_attempt TO headwater_writer;
GRANT SELECT (id, tenant_id, device_id) ON device_credential TO headwater_writer;
-- What has expired: enough to find and delete it, nothing secret.
GRANT DELETE ON idempotency_key, refresh_token, invitation, password_reset TO headwater_writer;
GRANT SELECT (tenant_id, actor, key, created_at) ON idempotency_key TO headwater_writer;
GRANT SELECT (id, expires_at) ON refresh_token, invitation, password_reset TO headwater_writer;

GRANT SELECT, INSERT, UPDATE, DELETE ON tenant, person, membership, operator_token, profile, audit_entry TO headwater_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON api_token, refresh_token, password_reset TO headwater_operator;
GRANT SELECT, INSERT ON operator_audit_entry TO headwater_operator;
GRANT SELECT ON stranger_attempt TO headwater_operator;
GRANT SELECT ON tenant_usage TO headwater_operator;
GRANT SELECT ON device, device_group, device_state, ingest_position, gateway_instance TO headwater_operator;

-- Finding a tenant by a credential: the only way across tenants that the plain role has.
GRANT SELECT ON tenant, membership, api_token, device, device_credential, profile TO headwater_lookup;
GRANT SELECT ON refresh_token, invitation, password_reset TO headwater_lookup;
GRANT SELECT, INSERT, UPDATE ON person TO headwater_lookup;
GRANT UPDATE (last_used_at) ON api_token TO headwater_lookup;
GRANT SELECT, INSERT, UPDATE ON tenant_usage TO headwater_lookup;

-- Many in one query: while many connect, and when a gateway asks again whether its devices still may. The definition of a
-- profile stands in one row only.
CREATE FUNCTION lookup_devices(credentials uuid[])
RETURNS TABLE (tenant_id uuid, tenant_slug text, tenant_status text, tenant_quotas jsonb, device_id uuid, external_id text,
               device_status text, profile_id uuid, profile_version bigint, profile_definition jsonb,
               kind text, secret_hash bytea, expires_at timestamptz, revoked_at timestamptz, credential_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = headwater, pg_temp AS $$
    SELECT t.id, t.slug, t.status, t.quotas, d.id, d.external_id, d.status, p.id, p.version,
           CASE WHEN row_number() OVER (PARTITION BY p.id) = 1 THEN p.definition END,
           c.kind, c.secret_hash, c.expires_at, c.revoked_at, c.id
    FROM device_credential c
    JOIN device d ON d.id = c.device_id
    JOIN tenant t ON t.id = c.tenant_id
    JOIN profile p ON p.id = d.profile_id
    WHERE c.id = ANY (credentials)
$$;

-- The credential of those who have none, for a gateway that is told to let them in (device/anonymous.py).
CREATE FUNCTION lookup_anonymous(tenant text) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = headwater, pg_temp AS $$
    SELECT c.id FROM device_credential c JOIN tenant t ON t.id = c.tenant_id
    WHERE t.slug = tenant AND c.kind = 'anonymous' AND c.revoked_at IS NULL
    ORDER BY c.id LIMIT 1
$$;

CREATE FUNCTION lookup_api_token(token uuid)
RETURNS TABLE (id uuid, tenant_id uuid, tenant_status text, tenant_quotas jsonb, permissions text[], group_id uuid,
               secret_hash bytea, expires_at timestamptz, revoked_at timestamptz, stale boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = headwater, pg_temp AS $$
    SELECT a.id, t.id, t.status, t.quotas, a.permissions, a.group_id, a.secret_hash, a.expires_at, a.revoked_at,
           a.last_used_at IS NULL OR a.last_used_at < now() - interval '1 minute'
    FROM api_token a JOIN tenant t ON t.id = a.tenant_id
    WHERE a.id = token
$$;

CREATE FUNCTION touch_api_token(token uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = headwater, pg_temp AS $$
    UPDATE api_token SET last_used_at = now()
    WHERE id = token AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
$$;

CREATE FUNCTION lookup_memberships(person uuid)
RETURNS TABLE (tenant_id uuid, tenant_slug text, tenant_name text, tenant_status text, tenant_quotas jsonb, role text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = headwater, pg_temp AS $$
    SELECT t.id, t.slug, t.name, t.status, t.quotas, m.role
    FROM membership m JOIN tenant t ON t.id = m.tenant_id
    WHERE m.person_id = person
    ORDER BY t.slug
$$;

-- Whether a session still lives, and as what: asked with every request of a person, so that suspending somebody, changing
-- a role and logging out work at once. The tenant's columns are NULL for somebody who is no member of it.
CREATE FUNCTION lookup_session(person uuid, family uuid, tenant uuid)
RETURNS TABLE (person_status text, operator boolean, live boolean, tenant_status text, tenant_quotas jsonb, role text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = headwater, pg_temp AS $$
    SELECT p.status, p.operator,
           EXISTS (SELECT FROM refresh_token r
                   WHERE r.family_id = family AND r.person_id = p.id AND r.revoked_at IS NULL AND r.expires_at > now()),
           t.status, t.quotas, m.role
    FROM person p
    LEFT JOIN membership m ON m.person_id = p.id AND m.tenant_id = tenant
    LEFT JOIN tenant t ON t.id = m.tenant_id
    WHERE p.id = person
$$;

CREATE FUNCTION lookup_person(person uuid)
RETURNS TABLE (id uuid, email text, name text, password_hash text, status text, operator boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = headwater, pg_temp AS $$
    SELECT p.id, p.email, p.name, p.password_hash, p.status, p.operator FROM person p WHERE p.id = person
$$;

CREATE FUNCTION lookup_person_by_email(address text)
RETURNS TABLE (id uuid, email text, name text, password_hash text, status text, operator boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = headwater, pg_temp AS $$
    SELECT p.id, p.email, p.name, p.password_hash, p.status, p.operator FROM person p WHERE lower(p.email) = lower(address)
$$;

CREATE FUNCTION lookup_invitation(invitation uuid)
RETURNS TABLE (tenant_id uuid, tenant_status text, email text, role text, secret_hash bytea, expires_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = headwater, pg_temp AS $$
    SELECT i.tenant_id, t.status, i.email, i.role, i.secret_hash, i.expires_at
    FROM invitation i JOIN tenant t ON t.id = i.tenant_id
    WHERE i.id = invitation
$$;

CREATE FUNCTION lookup_password_reset(reset uuid)
RETURNS TABLE (tenant_id uuid, person_id uuid, secret_hash bytea, expires_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = headwater, pg_temp AS $$
    SELECT r.tenant_id, r.person_id, r.secret_hash, r.expires_at FROM password_reset r WHERE r.id = reset
$$;

CREATE FUNCTION person_register(who uuid, address text, called text, password text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = headwater, pg_temp AS $$
    INSERT INTO person (id, email, name, password_hash) VALUES (who, address, called, password)
$$;

CREATE FUNCTION person_set_password(who uuid, password text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = headwater, pg_temp AS $$
    UPDATE person SET password_hash = password, updated_at = now() WHERE id = who
$$;

CREATE FUNCTION person_set_name(who uuid, called text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = headwater, pg_temp AS $$
    UPDATE person SET name = called, version = version + 1, updated_at = now() WHERE id = who
$$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'lookup_session(uuid, uuid, uuid)', 'lookup_person(uuid)', 'lookup_person_by_email(text)', 'lookup_invitation(uuid)',
        'lookup_password_reset(uuid)', 'person_register(uuid, text, text, text)', 'person_set_password(uuid, text)',
        'person_set_name(uuid, text)',
        'device_count()', 'tenant_usage_start()', 'lookup_devices(uuid[])', 'lookup_anonymous(text)',
        'lookup_api_token(uuid)', 'touch_api_token(uuid)', 'lookup_memberships(uuid)']
    LOOP
        EXECUTE format('GRANT CREATE ON SCHEMA headwater TO headwater_lookup');
        EXECUTE format('ALTER FUNCTION %s OWNER TO headwater_lookup', name);
        EXECUTE format('REVOKE CREATE ON SCHEMA headwater FROM headwater_lookup');
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', name);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO headwater_app', name);
    END LOOP;
END
$$;

-- Partition upkeep needs the owner's rights; the worker gets just these verbs.
--
-- A partition is made beside the table and then attached, because CREATE TABLE ... PARTITION OF would lock every reader out.
-- Rows that the default partition took meanwhile (a clock far ahead) move to where they belong; row-level security, which
-- binds the owner, too, would hide them from the move. It waits for whoever reads the default partition, and everybody who
-- comes meanwhile waits behind it: so not for long.
CREATE FUNCTION telemetry_partition_create(parent text, starts date, ends date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = headwater, pg_temp SET lock_timeout = '3s' AS $$
DECLARE
    partition text := format('%s_%s', parent, to_char(starts, 'YYYYMMDD'));
    spill text := parent || '_default';
    at text := CASE parent WHEN 'telemetry' THEN 'observed_at' ELSE 'bucket' END;
    lower timestamptz := starts::timestamp AT TIME ZONE 'UTC';
    upper timestamptz := ends::timestamp AT TIME ZONE 'UTC';
    stray boolean;
BEGIN
    IF parent NOT IN ('telemetry', 'telemetry_1m', 'telemetry_1h') OR starts >= ends THEN
        RAISE EXCEPTION 'no such partition: % % %', parent, starts, ends;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('headwater.partition'));
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition, parent);
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', spill);
    EXECUTE format('ALTER TABLE %I NO FORCE ROW LEVEL SECURITY', spill);
    EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE %I >= $1 AND %I < $2)', spill, at, at) INTO stray USING lower, upper;
    IF stray THEN
        EXECUTE format('WITH moved AS (DELETE FROM %I WHERE %I >= $1 AND %I < $2 RETURNING *) INSERT INTO %I SELECT * FROM moved',
                       spill, at, at, partition) USING lower, upper;
    END IF;
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', spill);
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', partition);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', partition);
    -- The writer names a partition when it trims it; nobody else may.
    EXECUTE format('GRANT SELECT, UPDATE, DELETE ON %I TO headwater_writer', partition);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, partition, lower, upper);
    RETURN true;
END
$$;

-- It waits for whoever reads telemetry, and everybody who comes meanwhile waits behind it: so not for long. Longer than
-- autovacuum needs to give way, which is deadlock_timeout.
CREATE FUNCTION telemetry_partition_drop(partition text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = headwater, pg_temp SET lock_timeout = '3s' AS $$
BEGIN
    IF partition !~ '^telemetry(_1m|_1h)?_[0-9]{8}$' THEN
        RAISE EXCEPTION 'not a partition that may be dropped: %', partition;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('headwater.partition'));
    IF to_regclass(partition) IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE %I', partition);
    RETURN true;
END
$$;

-- New pages of telemetry and of its minutes enter the BRIN indexes when somebody asks; until then a roll-up reads all of them.
-- Only partitions with days from `since` on, and the default ones. One that is being vacuumed is left out: vacuum does the
-- same.
CREATE FUNCTION telemetry_summarize(since date DEFAULT '-infinity') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = headwater, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    target regclass;
BEGIN
    FOR target IN
        SELECT i.indexrelid::regclass
        FROM pg_inherits h
        JOIN pg_index i ON i.indrelid = h.inhrelid
        JOIN pg_class c ON c.oid = i.indexrelid
        JOIN pg_am m ON m.oid = c.relam AND m.amname = 'brin'
        JOIN pg_class t ON t.oid = h.inhrelid
        WHERE h.inhparent IN ('telemetry'::regclass, 'telemetry_1m'::regclass)
          AND (t.relname !~ '_[0-9]{8}$'
               OR to_date(right(t.relname, 8), 'YYYYMMDD') >= since - CASE t.relname ~ '_1m_' WHEN true THEN 6 ELSE 0 END)
    LOOP
        BEGIN
            PERFORM brin_summarize_new_values(target);
        EXCEPTION WHEN lock_not_available THEN
            CONTINUE;
        END;
    END LOOP;
END
$$;

GRANT SELECT, UPDATE, DELETE ON telemetry_default, telemetry_1m_default, telemetry_1h_default TO headwater_writer;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'telemetry_partition_create(text, date, date)', 'telemetry_partition_drop(text)', 'telemetry_summarize(date)']
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', name);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO headwater_writer', name);
    END LOOP;
END
$$;

-- `headwater doctor` and every role at its start ask whether the schema is up to date.
GRANT SELECT ON migration TO headwater_app, headwater_writer, headwater_operator;
