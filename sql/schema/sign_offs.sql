-- One row a signature under a run as a whole, from the ledger.
CREATE TABLE sign_offs (
    number BIGINT,           -- of the record in the ledger
    signed_at TIMESTAMPTZ,
    run_id VARCHAR,
    reviewer VARCHAR,
    person VARCHAR,  -- the reviewer's name as names are compared: two signatures need two of them
    role VARCHAR,
    identity VARCHAR,
    meaning VARCHAR,
    statement VARCHAR,
    four_eyes BOOLEAN,       -- holds only once another person has countersigned
    manifest_sha256 VARCHAR, -- of the run, at that time
    open BIGINT,             -- alerts that stood on their own and were open then
    pending BIGINT,          -- that waited for a second person
    decided BIGINT,          -- that were decided
    sha256 VARCHAR,
    key_id VARCHAR
);
