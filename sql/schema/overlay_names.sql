-- One row per name that a person gave to a recurring overlay, from the ledger. See the view overlay_names.
CREATE TABLE overlay_names (
    number BIGINT,         -- of the record in the ledger
    signed_at TIMESTAMPTZ,
    run_id VARCHAR,        -- the run in which the overlay was named
    region VARCHAR,        -- 'stamp 1', as that run numbers it
    name VARCHAR,
    reviewer VARCHAR,
    role VARCHAR,
    identity VARCHAR,      -- how the reviewer was identified: 'declared', 'password', 'proxy'
    sha256 VARCHAR,        -- of the record
    key_id VARCHAR         -- key that signed the record; NULL: not signed
);
