-- One row per run and alert that the run raised or that was open before it: the alert's history over one audit's runs.
-- An audit is the runs of one name or, without a name, of one model on one corpus. See also the view alert_history.
CREATE TABLE lives (
    run_id VARCHAR,
    life_id VARCHAR,         -- the same in every run of the audit
    life VARCHAR,            -- 'new', 'still_firing', 'worse', 'resolved', 'not_seen' (this run could not have raised it); NULL: unknown
    why VARCHAR,             -- reason for the status
    announced BOOLEAN,       -- whether it has ever been notified: only then is its end notified
    leader VARCHAR,          -- life_id of the alert that explains it, or that it replaced without having been announced
    alert_id VARCHAR,        -- of the alert in this run; NULL if not raised: the figures are then those of last_run
    rule VARCHAR,
    side VARCHAR,
    region VARCHAR,          -- as last_run names it
    slice_kind VARCHAR,
    slice VARCHAR,
    direction VARCHAR,       -- 'raises', 'lowers', as in findings; NULL: raises
    explained_by VARCHAR,    -- NULL for an independent alert
    state VARCHAR,
    reliance VARCHAR[],      -- as in alerts
    severity VARCHAR,
    n BIGINT,
    share DOUBLE,
    area DOUBLE,
    effect DOUBLE,
    score_effect DOUBLE,     -- of the weakest fill, as in the view verdicts; NULL if not tested
    score_low DOUBLE,
    score_high DOUBLE,
    margin DOUBLE,
    effect_before DOUBLE,    -- in the last run that raised it, before this one
    score_effect_before DOUBLE,
    told_state VARCHAR,      -- state when it was last new or worse: `worse` is relative to it
    told_severity VARCHAR,
    told_high DOUBLE,
    severity_high VARCHAR,   -- highest severity within the intervals of its figures; NULL if suspected
    told_severity_high VARCHAR,
    estimates STRUCT(name VARCHAR, value DOUBLE, se DOUBLE, units BIGINT)[],  -- what runs are compared by, with standard errors: the score
                             -- loss by fill, and one of: mean 'share' of attribution, its 'contrast' with other pairs, 'cost' or 'rise' in screening.
                             -- Of this run, also if it did not raise the alert; NULL: unknown
    recent STRUCT(name VARCHAR, value DOUBLE, se DOUBLE, units BIGINT)[],  -- if runs have other images: averages up to this run, else estimates
    told_estimates STRUCT(name VARCHAR, value DOUBLE, se DOUBLE, units BIGINT)[],  -- estimates when it was last new or worse
    comparisons BIGINT,      -- number of runs with other estimates since it was last new or worse
    misses BIGINT,           -- number of runs in a row that did not raise it, and could not measure what it rests on
    lasting_region VARCHAR,  -- name in the first run: overlays and clusters are renumbered in each run
    lasting_slice VARCHAR,
    config_digest VARCHAR,   -- of last_run, and of the rule's text there
    rule_digest VARCHAR,
    first_run VARCHAR,
    first_seen TIMESTAMPTZ,
    last_run VARCHAR,
    last_seen TIMESTAMPTZ,
    runs BIGINT,             -- number of runs that raised it since it was new
    previous_run VARCHAR     -- the complete run of the audit that this one was compared with; NULL: the first
);
