-- One row an alert that this run raised, or that was open before it: what became of it over the runs of one audit (same corpus, same model).
CREATE TABLE lives (
    run_id VARCHAR,
    life_id VARCHAR,         -- the same in every run of the audit
    life VARCHAR,            -- 'new', 'still_firing', 'worse', 'resolved', 'not_seen' (this run could not have seen it); NULL: not known
    why VARCHAR,             -- what made it so
    announced BOOLEAN,       -- whether it has been new or worse while it stood on its own: only then is its end news
    leader VARCHAR,          -- life_id of the alert that it follows from, or whose place it took without having been announced
    alert_id VARCHAR,        -- of the alert that this run raised; NULL if it raised none: the figures are then those of last_run
    rule VARCHAR,
    side VARCHAR,
    region VARCHAR,          -- as last_run names it
    slice_kind VARCHAR,
    slice VARCHAR,
    explained_by VARCHAR,    -- NULL for an alert that stands on its own
    state VARCHAR,
    severity VARCHAR,
    n BIGINT,
    share DOUBLE,
    area DOUBLE,
    effect DOUBLE,
    score_effect DOUBLE,     -- of the weakest fill, as in the view verdicts; NULL where it was not tested
    score_low DOUBLE,
    score_high DOUBLE,
    margin DOUBLE,
    effect_before DOUBLE,    -- in the last run that raised it, before this one
    score_effect_before DOUBLE,
    told_state VARCHAR,      -- when it was last new or worse: what `worse` is measured against
    told_severity VARCHAR,
    told_high DOUBLE,
    lasting_region VARCHAR,  -- its name in the run that first had it: stamps and clusters are numbered anew in each run
    lasting_slice VARCHAR,
    config_digest VARCHAR,   -- of last_run, and of the rule's text there
    rule_digest VARCHAR,
    first_run VARCHAR,
    first_seen TIMESTAMPTZ,
    last_run VARCHAR,
    last_seen TIMESTAMPTZ,
    runs BIGINT,             -- that raised it since it was new
    previous_run VARCHAR     -- the complete run of the audit that this one was held against; NULL: the first
);
