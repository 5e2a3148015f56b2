-- How the figures of an alert in two runs are compared: docs/decisions/0035-nights-are-compared-by-differences.md.
-- An estimate is a STRUCT(name, value, se, units): the score loss by one fill, or what else its name says (see `lives`).

-- Value that Student's t with df degrees of freedom (NULL: a normal variable) exceeds with a probability below a half.
-- Approximations 26.2.23 and 26.7.5 of Abramowitz and Stegun, Handbook of Mathematical Functions (1964); off by less than 0.2%
-- for df >= 14 and probabilities of at least 1e-6.
CREATE MACRO t_quantile(probability, df) AS list_transform(
    list_transform(
        [sqrt(-2 * ln(probability))],
        lambda t: t - (2.515517 + 0.802853 * t + 0.010328 * t ** 2) / (1 + 1.432788 * t + 0.189269 * t ** 2 + 0.001308 * t ** 3)
    ),
    lambda z: z + coalesce(
        (z ** 3 + z) / (4 * df) + (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * df ** 2)
        + (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / (384 * df ** 3)
        + (79 * z ** 9 + 776 * z ** 7 + 1482 * z ** 5 - 1920 * z ** 3 - 945 * z) / (92160 * df ** 4),
        0
    )
)[1];

-- Half of the two-sided error that comparison number k may make: 0.05 in all over the first 365, in each further year 0.025.
CREATE MACRO spent_on(k) AS 0.0125 * greatest(1 / (k * (k + 1)), 1 / 365);

-- Standard error of an estimate; of runs whose tests stored none, that of their 95% interval.
CREATE MACRO standard_error(se, low, high) AS coalesce(se, (high - low) / (2 * 1.96));

-- The score losses among estimates. Of runs and decisions that have no estimates, and to compare with these: that of the weakest fill.
CREATE MACRO losses(estimates, effect, low, high) AS list_concat(
    list_filter(coalesce(estimates, []), lambda e: e.name NOT IN ('share', 'contrast', 'cost', 'rise')),
    CASE WHEN low IS NULL OR high IS NULL THEN [] ELSE [{'name': 'weakest', 'value': effect, 'se': standard_error(NULL, low, high), 'units': 32}] END
);

-- Whether the estimates with names in common have risen (1), fallen (-1) or neither (0) by more than chance explains, at comparison
-- number k. All of them must, in one direction. NULL: they have no name in common. The standard error is that of independent
-- samples: if the samples share units, the error is smaller.
CREATE MACRO moved(before, now, k) AS list_transform(
    list_transform(
        [
            flatten(
                list_transform(
                    list_filter(before, lambda b: b.units > 1),
                    lambda b: list_transform(
                        list_filter(now, lambda n: n.name = b.name AND n.units > 1),
                        lambda n: {
                            'name': n.name,
                            'by': n.value - b.value,
                            'chance': t_quantile(spent_on(k), 2 * least(b.units, n.units) - 2) * sqrt(b.se ** 2 + n.se ** 2)
                        }
                    )
                )
            )
        ],
        lambda d: CASE WHEN len(d) > 1 THEN list_filter(d, lambda one: one.name <> 'weakest') ELSE d END
    ),
    lambda d: CASE
        WHEN coalesce(len(d), 0) = 0 THEN NULL
        WHEN list_bool_and(list_transform(d, lambda one: one.by > one.chance)) THEN 1
        WHEN list_bool_and(list_transform(d, lambda one: one.by < -one.chance)) THEN -1
        ELSE 0
    END
)[1];

-- Estimates of a run that has no units in common with those before it, each averaged with the one of that name: `part` is its weight.
CREATE MACRO average_nights(before, now, part) AS list_transform(
    now,
    lambda n: coalesce(
        list_transform(
            list_filter(coalesce(before, []), lambda b: b.name = n.name),
            lambda b: {
                'name': n.name,
                'value': (1 - part) * b.value + part * n.value,
                'se': sqrt(((1 - part) * b.se) ** 2 + (part * n.se) ** 2),
                'units': least(b.units, n.units)
            }
        )[1],
        n
    )
);

-- Limits of the smallest of some losses: the lower one at comparison number k, and the upper one.
CREATE MACRO lowest_loss(losses, k) AS list_min(list_transform(losses, lambda e: e.value - t_quantile(spent_on(k), greatest(e.units, 2) - 1) * e.se));
CREATE MACRO highest_loss(losses) AS list_min(list_transform(losses, lambda e: e.value + t_quantile(spent_on(1), greatest(e.units, 2) - 1) * e.se));

-- Severity of a confirmed alert, by the lost part of the margin and its part of the run's pairs.
CREATE MACRO severity_of(loss, part) AS CASE WHEN loss IS NULL THEN NULL WHEN loss < 0.25 OR part < 0.01 THEN 'low' WHEN loss < 0.5 THEN 'medium' ELSE 'high' END;
CREATE MACRO severity_rank(severity) AS coalesce(list_position(['low', 'medium', 'high'], severity), 0);

-- Lowest and highest severity within the intervals of loss and part, at comparison number k.
CREATE MACRO lowest_severity(losses, margin, n, pairs, k) AS
    severity_of(lowest_loss(losses, k) / nullif(margin, 0), (n - t_quantile(spent_on(k), NULL) * sqrt(n * greatest(1 - n / pairs, 0))) / pairs);
CREATE MACRO highest_severity(losses, margin, n, pairs) AS
    severity_of(highest_loss(losses) / nullif(margin, 0), (n + t_quantile(spent_on(1), NULL) * sqrt(n * greatest(1 - n / pairs, 0))) / pairs);
